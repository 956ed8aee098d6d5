"""Posits: every code against the closed formula of the Posit Standard (2022, section 3.3), rounding in rationals."""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction

import numpy as np
import pytest

from halfulp.numerics.exact import NAN, from_float64
from halfulp.numerics.formats import PositFormat, get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.rounding import Rounding

NAMES = ["posit8_1", "posit16_1", "posit8_0", "posit8_2", "posit6_1", "posit3_2"]


def formula(code: int, width: int, exponent_bits: int) -> Fraction | None:
    """(1 - 3s + f) * 2**((1 - 2s) * (2**E * r + e + s)), from the code as it stands, without negating it."""
    if code == 0:
        return Fraction(0)
    if code == 1 << (width - 1):
        return None
    sign = code >> (width - 1)
    digits = [code >> n & 1 for n in reversed(range(width - 1))]
    run = 0
    while run < len(digits) and digits[run] == digits[0]:
        run += 1
    regime = run - 1 if digits[0] else -run
    rest = digits[run + 1 :] + [0] * (exponent_bits + 1)
    exponent = sum(bit << n for n, bit in enumerate(reversed(rest[:exponent_bits])))
    fraction = sum((Fraction(bit, 2**n) for n, bit in enumerate(rest[exponent_bits:], 1)), Fraction(0))
    power = (1 - 2 * sign) * (2**exponent_bits * regime + exponent + sign)
    return (1 - 3 * sign + fraction) * Fraction(2) ** power


def turning_points(fmt: PositFormat) -> np.ndarray:
    """Every number, arithmetic and posit midpoint, each ± 1 ulp of float64, of both signs."""
    numbers = fmt.to_float64(fmt.valid_codes[: fmt.nan_code])
    finer = [float(formula(c, fmt.width + 1, fmt.exponent_bits) or 0) for c in range(1, 2 * len(numbers), 2)]
    points = np.concatenate([numbers, (numbers[1:] + numbers[:-1]) / 2, finer, [numbers[1] / 1e6, 1e300]])
    points = np.concatenate([points, np.nextafter(points, np.inf), np.nextafter(points, 0)])
    return np.concatenate([points, -points])


@pytest.mark.parametrize("name", NAMES)
def test_every_code_is_that_of_the_standards_formula(name):
    fmt = get_format(name)
    assert isinstance(fmt, PositFormat)
    real, values = fmt.decode(fmt.valid_codes), fmt.to_float64(fmt.valid_codes)
    for code in fmt.valid_codes.tolist():
        expected = formula(code, fmt.width, fmt.exponent_bits)
        if expected is None:
            assert real.kind[code] == NAN
            continue
        assert Fraction(float(values[code])) == expected
        assert real.significand[code] < 1 << fmt.significand_bits
        assert expected == 0 or 0 <= real.exponent[code] - fmt.lsb_exponent <= fmt.max_shift
    assert np.nanmax(values) == fmt.max_units * 2.0**fmt.lsb_exponent
    assert (fmt.encode(real).codes == fmt.valid_codes).all()


def test_known_numbers():
    values = get_format("posit8_1").to_float64(np.array([0x01, 0x40, 0x41, 0x60, 0x7F, 0xC0], np.uint8))
    assert values.tolist() == [4.0**-6, 1.0, 1.0625, 4.0, 4.0**6, -1.0]
    assert get_format("posit16_1").to_float64(np.array([0x7FFF], np.uint16))[0] == 4.0**14


@pytest.mark.parametrize("text", ["nearest_even", "toward_zero", "stochastic:3", "stochastic_floor:3", "stochastic:32"])
@pytest.mark.parametrize("name", ["posit8_1", "posit6_1", "posit8_2"])
def test_rounding_at_every_turning_point(name, text, rng):
    fmt, rounding = get_format(name), Rounding.parse(text)
    assert isinstance(fmt, PositFormat)
    points = turning_points(fmt)
    words = rng.integers(0, 1 << rounding.random_bits, points.shape, np.uint32)
    codes, invalid, overflow = fmt.encode(from_float64(points), rounding, words)
    numbers = [formula(c, fmt.width, fmt.exponent_bits) or Fraction(0) for c in range(fmt.nan_code)]
    finer = [formula(c, fmt.width + 1, fmt.exponent_bits) for c in range(2 * fmt.nan_code)]
    half = Fraction(rounding.kind == "stochastic", 2)
    assert not invalid.any()
    for x, word, code, beyond in zip(points, words, codes, overflow, strict=True):
        magnitude = Fraction(abs(float(x)))
        lo = bisect_right(numbers, magnitude) - 1
        expected = lo
        if magnitude != numbers[lo] and lo + 1 < len(numbers):
            low, high = numbers[lo], numbers[lo + 1]
            tie = finer[2 * lo + 1]
            assert tie is not None
            if rounding.kind == "nearest_even":
                expected += lo == 0 or magnitude > tie or (magnitude == tie and lo % 2 == 1)
            elif rounding.is_stochastic:
                part = (magnitude - low) / (high - low)
                expected += part + (int(word) + half) / 2**rounding.random_bits >= 1
        signed = -expected % (1 << fmt.width) if x < 0 else expected
        assert int(code) == signed, f"{float(x).hex()}, R = {word}"
        assert bool(beyond) == (magnitude > numbers[-1])


def test_nar_and_infinities():
    posit = get_format("posit8_1")
    x = from_float64([np.nan, np.inf, -np.inf])
    assert posit.encode(x).codes.tolist() == [0x80, 0x7F, 0x81]
    assert posit.encode(x, overflow="ieee").codes.tolist() == [0x80, 0x80, 0x80]
    assert posit.encode(x).overflow.tolist() == [False, True, True]
    assert int(posit.encode(from_float64(1.1)).codes) == 0x42


@pytest.mark.parametrize("accumulator", ["exact", "e8m23"])
def test_a_gemm_of_posits_is_that_of_their_values(accumulator, rng):
    """Numbers of a few binades around 1, whose sums float64 holds; NaR makes NaR."""
    posit = get_format("posit8_1")
    codes = rng.integers(0x30, 0x50, (2, 6, 9), np.uint8)
    a, b = codes[0], (256 - codes[1].astype(int)).astype(np.uint8).T
    products = posit.to_float64(a) @ posit.to_float64(b)
    result = golden_gemm(a, b, GemmSpec(posit, posit, "posit16_1", accumulator))
    assert (result.codes == get_format("posit16_1").encode(from_float64(products)).codes).all()
    a = a.copy()
    a[0, 0] = 0x80
    assert (golden_gemm(a, b, GemmSpec(posit, posit, posit, accumulator)).codes[0] == 0x80).all()


def test_wrong_names():
    with pytest.raises(ValueError, match="3 to 16 bits, not 32"):
        get_format("posit32_2")
    with pytest.raises(ValueError, match="0 to 2 exponent bits, not 3"):
        get_format("posit8_3")
