"""The generators' known answers, the assignment of bits to outputs, and their statistics."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.numerics.random_bits import accumulator_words, output_words, threefry2x32, xorshift32


@pytest.mark.parametrize(
    ("seed", "counter", "expected"),
    [
        (0, (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((1 << 64) - 1, (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        (0x03707344_13198A2E, (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_known_answers(seed, counter, expected):
    words = threefry2x32(seed, *counter)
    assert (int(words[0]), int(words[1])) == expected


def test_xorshift_known_answers():
    x = np.uint32(1)
    for expected in (0x00042021, 0x04080601, 0x9DCCA8C5, 0x1255994F):
        x = xorshift32(x)
        assert int(x) == expected


def test_output_words_are_the_lanes_of_threefry():
    seed, r = 0x0123456789ABCDEF, 9
    words = output_words(seed, [5, 1000], np.arange(11), r)
    for row, i in enumerate((5, 1000)):
        for j in range(11):
            pair = threefry2x32(seed, i, j // 4)
            word = int(pair[j % 4 // 2])
            half = word >> 16 if j % 2 else word & 0xFFFF
            assert words[row, j] == half >> (16 - r)


def test_accumulator_words_are_never_zero_and_have_their_own_counters():
    rows, columns = accumulator_words(7, np.arange(1000), np.arange(1000))
    assert (rows == threefry2x32(7, np.arange(1000), 1 << 30)[0]).all()
    assert (columns == threefry2x32(7, np.arange(1000), 1 << 31)[0]).all()
    assert (rows != 0).all()
    assert (columns != 0).all()


def test_output_words_take_at_most_16_bits():
    with pytest.raises(ValueError, match="1 to 16 random bits, not 17"):
        output_words(0, [0], [0], 17)


def test_output_words_are_uniform_and_uncorrelated():
    """Chi-square over 256 values, correlations of neighbours; a sound generator passes with p > 1 - 1e-6."""
    words = output_words(1, np.arange(512), np.arange(512), 8)
    counts = np.bincount(words.ravel(), minlength=256)
    expected = words.size / 256
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)
    centred = words - words.mean()
    for left, right in (
        (centred[1:], centred[:-1]),
        (centred[:, 1:], centred[:, :-1]),
        (centred[:, 4:], centred[:, :-4]),
    ):
        correlation = (left * right).mean() / centred.var()
        assert abs(correlation) < 5 / np.sqrt(left.size)
