"""What the pictures of the numbers show is what the numbers do."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.cli.number_plots import FRACTIONS, accumulation_errors, mean_errors, spacing_steps, step_words
from halfulp.numerics.accumulators import FloatAccumulator, parse_accumulator
from halfulp.numerics.formats import get_format
from halfulp.numerics.rounding import Rounding


def test_spacing_is_the_distance_between_neighbouring_numbers():
    for name in ("e4m3", "e5m2-nosub", "int8", "posit8_1", "fixed2.6", "float16"):
        fmt = get_format(name)
        numbers = np.unique(fmt.to_float64(fmt.valid_codes))
        numbers = numbers[np.isfinite(numbers) & (numbers > 0)]
        edges, steps = spacing_steps(fmt)
        assert edges[0] == numbers[0]
        assert edges[-1] == numbers[-1]
        found = steps[np.searchsorted(edges, numbers[:-1], side="right") - 1]
        np.testing.assert_array_equal(found, np.diff(numbers))


def test_spacing_of_wide_formats_follows_their_binades():
    edges, steps = spacing_steps(get_format("float32"))
    assert steps[0] == edges[0] == 2.0**-149
    assert steps[edges == 1.0] == 2.0**-23
    assert spacing_steps(get_format("int32"))[1].tolist() == [1.0, 1.0]


def test_centred_stochastic_rounding_has_no_bias_over_all_fractions():
    for bits in (1, 3, 8):
        centred, floored = (mean_errors(Rounding(kind, bits)) for kind in ("stochastic", "stochastic_floor"))
        assert centred.mean() == 0
        assert np.abs(centred).max() == 2.0 ** -(bits + 1) - 0.5 / FRACTIONS
        assert floored.mean() == -(2.0 ** -(bits + 1))
        assert floored.max() < 0
    with pytest.raises(ValueError, match="at most 10 random bits are enumerated, not of stochastic:11"):
        mean_errors(Rounding("stochastic", 11))


def test_nearest_stagnates_where_stochastic_rounding_does_not():
    nearest, stochastic = (parse_accumulator(text) for text in ("e6m5", "e6m5:stochastic:8"))
    assert isinstance(nearest, FloatAccumulator)
    assert isinstance(stochastic, FloatAccumulator)
    errors = [accumulation_errors(each, [4, 512]) for each in (nearest, stochastic)]
    assert errors[0][0] < errors[1][0] < 0.05
    assert errors[0][1] > 0.5 > 0.2 > errors[1][1]


def test_the_words_of_a_rectangles_corners_xor_to_zero():
    words = step_words(8, 8, 5)
    assert not (words[:-1, :-1] ^ words[1:, :-1] ^ words[:-1, 1:] ^ words[1:, 1:]).any()
    assert len(np.unique(words)) == 64
