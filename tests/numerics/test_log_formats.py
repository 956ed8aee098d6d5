"""Logarithmic numbers: the powers of two against decimals of 60 digits, rounding against rational numbers."""

from __future__ import annotations

import decimal
from bisect import bisect_right
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import LogFormat, get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.log_formats import powers_of_two
from halfulp.numerics.rounding import Rounding

NAMES = ["log8", "log3", "log4_2", "log5_0", "log6_4", "log9_7"]


@pytest.mark.parametrize("fraction_bits", [1, 2, 3, 7, 11, 14])
def test_powers_are_rounded_to_nearest(fraction_bits):
    """No power but 1 is within 2**-50 of a tie, so that neither decimals of 60 digits nor the roots can be wrong."""
    powers = powers_of_two(fraction_bits)
    assert len(powers) == 1 << fraction_bits
    assert powers[0] == 1 << 15
    with decimal.localcontext(decimal.Context(prec=60)):
        root, exact = Decimal(2), [Decimal(1 << 15)]
        for _ in range(fraction_bits):
            root = root.sqrt()
            exact = [p for power in exact for p in (power, power * root)]
        for rounded, power in zip(powers, exact, strict=True):
            error = abs(rounded - power)
            assert error < Decimal("0.5") - Decimal(2) ** -50
    assert list(powers) == sorted(set(powers))


def formula(code: int, width: int, fraction_bits: int) -> Fraction:
    """The value of a code of sign 0, from the definition and decimals."""
    if code == 0:
        return Fraction(0)
    whole, part = divmod(code - 2 ** (width - 2), 2**fraction_bits)
    with decimal.localcontext(decimal.Context(prec=40)):
        power = (Decimal(2) ** (Decimal(part) / 2**fraction_bits) * 2**15).to_integral_value()
    return Fraction(int(power), 2**15) * Fraction(2) ** whole


@pytest.mark.parametrize("name", NAMES)
def test_every_code_is_that_of_the_definition(name):
    fmt = get_format(name)
    assert isinstance(fmt, LogFormat)
    real, values = fmt.decode(fmt.valid_codes), fmt.to_float64(fmt.valid_codes)
    for code in fmt.valid_codes.tolist():
        magnitude = formula(code % fmt.sign_code, fmt.width, fmt.fraction_bits)
        assert Fraction(float(values[code])) == (-magnitude if code >= fmt.sign_code else magnitude)
        assert bool(real.negative[code]) == (code >= fmt.sign_code)
        assert real.significand[code] < 1 << fmt.significand_bits
        assert magnitude == 0 or 0 <= real.exponent[code] - fmt.lsb_exponent <= fmt.max_shift
    assert values.max() == fmt.max_units * 2.0**fmt.lsb_exponent
    assert (fmt.encode(real).codes == fmt.valid_codes).all()


def test_known_numbers():
    values = get_format("log8").to_float64(np.array([0x01, 0x40, 0x44, 0x48, 0x7F, 0xC0, 0x80], np.uint8))
    assert values.tolist() == [35734 / 2**23, 1.0, 46341 / 2**15, 2.0, 60097 / 2**8, -1.0, 0.0]
    assert np.signbit(values[-1])


@pytest.mark.parametrize("text", ["nearest_even", "toward_zero", "stochastic:3", "stochastic_floor:3", "stochastic:32"])
@pytest.mark.parametrize("name", ["log8", "log6_4", "log5_0"])
def test_rounding_at_every_turning_point(name, text, rng):
    fmt, rounding = get_format(name), Rounding.parse(text)
    assert isinstance(fmt, LogFormat)
    numbers = [formula(c, fmt.width, fmt.fraction_bits) for c in range(fmt.sign_code + 1)]  # and the one beyond
    values = np.array([float(n) for n in numbers])
    points = np.concatenate([values, (values[1:] + values[:-1]) / 2, [values[1] / 1e6, 1e300]])
    points = np.concatenate([points, np.nextafter(points, np.inf), np.nextafter(points, 0)])
    points = np.concatenate([points, -points])
    words = rng.integers(0, 1 << rounding.random_bits, points.shape, np.uint32)
    codes, invalid, overflow = fmt.encode(from_float64(points), rounding, words)
    half = Fraction(rounding.kind == "stochastic", 2)
    assert not invalid.any()
    for x, word, code, beyond in zip(points, words, codes, overflow, strict=True):
        magnitude = Fraction(abs(float(x)))
        expected = bisect_right(numbers, magnitude) - 1
        if magnitude != numbers[expected] and expected + 1 < len(numbers):
            low, high = numbers[expected : expected + 2]
            part = (magnitude - low) / (high - low)
            if rounding.kind == "nearest_even":
                expected += part > Fraction(1, 2) or (part == Fraction(1, 2) and expected % 2 == 1)
            elif rounding.is_stochastic:
                expected += part + (int(word) + half) / 2**rounding.random_bits >= 1
        assert bool(beyond) == (expected >= fmt.sign_code), f"{float(x).hex()}, R = {word}"
        signed = min(expected, fmt.sign_code - 1) | (fmt.sign_code if np.signbit(x) else 0)
        assert int(code) == signed, f"{float(x).hex()}, R = {word}"


def test_more_bits_than_float64_has_decide():
    """A sum of 60 bits just above a tie, whose 53 leading bits are the tie."""
    log8 = get_format("log8")
    tie = (int(log8.decode(np.array([0x41])).significand[0]) + (1 << 15)) << 44
    exact = from_float64(np.zeros(2))._replace(
        significand=np.array([tie, tie + 1], np.int64), exponent=np.full(2, -60, np.int64)
    )
    assert log8.encode(exact).codes.tolist() == [0x40, 0x41]


def test_nan_and_infinities():
    codes, invalid, overflow = get_format("log8").encode(from_float64([np.nan, np.inf, -np.inf]), overflow="ieee")
    assert codes.tolist() == [0, 0x7F, 0xFF]
    assert invalid.tolist() == [True, False, False]
    assert overflow.tolist() == [False, True, True]


def test_a_gemm_is_that_of_the_values(rng):
    log8 = get_format("log8")
    codes = rng.integers(0, 256, (2, 6, 9), np.uint8)
    a, b = codes[0], codes[1].T
    sums = log8.to_float64(a) @ log8.to_float64(b)  # 62 bits at most, here far fewer: checked below
    result = golden_gemm(a, b, GemmSpec(log8, log8, "float32", "exact"))
    assert np.allclose(result.codes.view(np.float32), sums, rtol=2**-23, atol=0)
    assert not (golden_gemm(a * 0 + 0x80, b, GemmSpec(log8, log8, log8)).codes).any()  # no -0 leaves a GEMM


def test_names():
    assert get_format("log8_3") is get_format("log8")
    assert get_format("log12") == get_format("log12_7") == LogFormat("log12", 12, 7)
    for name, message in (
        ("log17", "3 to 16 bits, not 17"),
        ("log8_7", "0 to 6 fraction bits, not 7"),
        ("log16_6", "7 to 14 fraction bits, not 6"),
    ):
        with pytest.raises(ValueError, match=message):
            get_format(name)
