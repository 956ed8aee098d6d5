"""int8 digits make up the numbers they were cut from, and their products exact sums, up to the edge of each test."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.numerics.formats import FloatFormat, IntFormat, get_format
from halfulp.numerics.gemm import GemmSpec
from halfulp.sim import emulator
from halfulp.sim.digits import MAX_WEIGHED_BITS, Range, as_digits, count_digits, find_range, scaled_floats, weigh
from halfulp.sim.emulator import int8_counts

NAMES = ["e4m3", "e5m2", "e2m1", "e2m3", "e3m2", "e4m3-nosub", "bfloat16", "int4", "int8", "uint8", "int16", "uint12"]


def any_codes(rng, name, shape):
    fmt = get_format(name)
    assert isinstance(fmt, (FloatFormat, IntFormat))
    return fmt, rng.integers(0, 1 << fmt.bits, shape).astype(fmt.code_dtype)


@pytest.mark.parametrize("name", NAMES)
def test_digits_are_the_numbers(name, rng):
    """In either order, of either layout, of any number of columns; NaN and infinities have digits of 0."""
    fmt, codes = any_codes(rng, name, (13, 37))
    if name == "bfloat16":
        codes = (codes & 0x81FF | 0x3C00).astype(np.uint16)
    for view in (codes, codes.T, codes[::2, ::-1], codes[:1, :3], codes[:, :1]):
        found = find_range(view, fmt)
        count = count_digits(found)
        values = fmt.to_float64(view)
        finite = np.where(np.isfinite(values), values, 0.0)
        assert found.special == (not np.isfinite(values).all())
        places = 256.0 ** np.arange(count)
        r, c = view.shape
        beside = as_digits(view, fmt, found, count, below=False).reshape(r, count, c)
        below = as_digits(view, fmt, found, count, below=True).reshape(count, r, c)[::-1]
        for digits in (beside.transpose(1, 0, 2), below):
            units = np.tensordot(places, digits.astype(np.float64), 1)
            assert (units * 2.0**found.lsb_exponent == finite).all()
            assert np.abs(units).max() <= found.max_units


def test_digits_end_at_127_of_each():
    """127 and -128 in every digit are the ends of what they hold; one more magnitude takes one more digit."""
    for count in range(1, 8):
        most = 127 * ((256**count - 1) // 255)
        assert count_digits(Range(0, most)) == count
        assert count_digits(Range(0, most + 1)) == count + 1
    assert count_digits(Range(0, 128, int8=True)) == 1


def test_ranges_of_nothing_and_of_specials():
    e5m2 = get_format("e5m2")
    assert isinstance(e5m2, FloatFormat)
    assert find_range(np.array([[0x00, 0x80]], np.uint8), e5m2) == Range(0, 0)
    assert find_range(np.array([[0x00, 0x7C]], np.uint8), e5m2) == Range(0, 0, special=True)
    assert find_range(np.array([[0x3C, 0x80, 0x41]], np.uint8), e5m2) == Range(-2, 10)  # 1, -0, 2.5


def test_int8_products_are_left_at_their_edges():
    """int32: 131,071 products of -128 by -128; with two digits each, two pairs add up in one place."""
    eight, fifteen = Range(0, 128, int8=True), Range(0, 127 * 257)
    assert int8_counts(eight, eight, 131071) == (1, 1)
    assert int8_counts(eight, eight, 131072) is None
    assert int8_counts(fifteen, fifteen, 65535) == (2, 2)
    assert int8_counts(fifteen, fifteen, 65536) is None
    wide = Range(0, 1 << 32)
    assert int8_counts(wide, wide, 1 << 14) == (5, 5)
    assert (1 << 32) ** 2 * (1 << 20) == 1 << MAX_WEIGHED_BITS
    assert int8_counts(wide, wide, 1 << 20) is None


@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_weighed_sums_are_exact_or_odd(count, rng):
    """Against Python's integers: exact up to 53 bits, else the odd one of the two floats around."""
    sums = rng.integers(-(1 << 31), 1 << 31, (count, 5, 13)).astype(np.int32)
    sums[7:] >>= 12  # less than 2**84 in all
    sums[-1] = rng.integers(-9, 9, sums.shape[1:])
    if count > 4:
        sums[:, 0, :4] = 0  # exact, in the upper half alone, and zero
        sums[4, 0, 1], sums[-1, 0, 2] = 12345, -1
    total = weigh(sums, (1 << 53) + 1 if count > 4 else 1 << 53)
    for at in np.ndindex(total.shape):
        exact = sum(int(s) << (8 * w) for w, s in enumerate(sums[(slice(None), *at)]))
        got = int(total[at])
        if exact.bit_length() <= 53:
            assert got == exact
            continue
        unit = 1 << (abs(exact).bit_length() - 53)
        assert abs(got - exact) < unit
        assert got == exact or (abs(got) // unit) % 2 == 1


@pytest.mark.parametrize("place", [0, 17, 34])
def test_int32_sums_are_floats_up_to_2_to_the_24_of_either_sign(place):
    """Wherever the largest one is, in a whole vector or after the last."""
    for sign in (1, -1):
        sums = np.arange(-17, 18, dtype=np.int32).reshape(5, 7)
        sums.flat[place] = sign << 24
        codes = scaled_floats(sums, -64)
        assert codes is not None
        assert (codes.view(np.float32) == sums * 2.0**-64).all()
        sums.flat[place] += sign
        assert scaled_floats(sums, -64) is None


@pytest.mark.parametrize(("name", "by_floats"), [("e4m3", [True, False]), ("e2m1", [False, False])])
def test_small_products_of_several_digits_are_products_of_floats(name, by_floats, monkeypatch):
    """Up to `SMALL_MACS`; formats of int8's range go by one int8 product whatever the size."""
    pytest.importorskip("torch")
    monkeypatch.setattr(emulator, "has_fast_int8", lambda: True)
    taken = []
    float_sums = emulator._float_sums
    monkeypatch.setattr(emulator, "_float_sums", lambda *given: taken.append(True) or float_sums(*given))
    monkeypatch.setattr(emulator, "SMALL_MACS", 3 * 5 * 4)
    for m, expected in zip((3, 4), by_floats, strict=True):
        taken.clear()
        emulator.emulate_gemm(np.zeros((m, 5), np.uint8), np.zeros((5, 4), np.uint8), GemmSpec(name, name))
        assert bool(taken) == expected


def test_threads_are_given_back():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with emulator._threads(torch, emulator.THREADED_MACS - 1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with emulator._threads(torch, emulator.THREADED_MACS):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
