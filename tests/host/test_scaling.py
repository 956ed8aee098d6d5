"""The power-of-two scale is the largest that keeps a tensor finite, exactly, next to every power of two as well."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfulp.host.scaling import MAX_SCALE_EXPONENT, largest_finite, scale_exponent
from halfulp.numerics.formats import get_format

FORMATS = ["e4m3", "e5m2", "int8", "int4", "e2m1", "float16", "e6m5"]


@pytest.mark.parametrize(("name", "largest"), [("e4m3", 448), ("e5m2", 57344), ("int8", 127), ("e2m1", 6)])
def test_largest_finite(name: str, largest: float):
    assert largest_finite(get_format(name)) == largest


@pytest.mark.parametrize("name", FORMATS)
@given(amax=st.floats(2.0**-90, 2.0**90, width=32))
def test_the_scale_is_the_largest_without_overflow(name: str, amax: float):
    fmt = get_format(name)
    largest = Fraction(largest_finite(fmt))
    scaled = Fraction(amax) * Fraction(2) ** scale_exponent(amax, fmt)
    assert scaled <= largest < 2 * scaled


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("exponent", [-90, -3, 0, 1, 17, 90])
def test_just_below_and_above_a_power_of_two(name: str, exponent: int):
    # In float32, log2 of 2**e (1 - 2**-24) rounds to e: floor of it would take the next exponent.
    fmt = get_format(name)
    power = np.float32(2.0**exponent)
    below, above = np.nextafter(power, np.float32(0)), np.nextafter(power, np.float32(np.inf))
    for amax in (below, power, above):
        scaled = Fraction(float(amax)) * Fraction(2) ** scale_exponent(float(amax), fmt)
        assert scaled <= Fraction(largest_finite(fmt)) < 2 * scaled


def test_zero_extremes_and_margin():
    e4m3 = get_format("e4m3")
    assert scale_exponent(0.0, e4m3) == 0
    assert scale_exponent(2.0**-149, e4m3) == MAX_SCALE_EXPONENT
    assert scale_exponent(float(np.finfo(np.float32).max), e4m3) == -120
    assert scale_exponent(1.0, e4m3, margin=2) == scale_exponent(1.0, e4m3) - 2


@pytest.mark.parametrize("amax", [-1.0, math.inf, math.nan])
def test_a_magnitude_that_is_none_is_refused(amax: float):
    with pytest.raises(ValueError, match="must be finite and not negative"):
        scale_exponent(amax, get_format("e4m3"))
