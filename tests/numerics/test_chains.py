"""Accumulators that round or saturate at each step: golden against the rational reference."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.numerics.accumulators import (
    ExactAccumulator,
    FixedAccumulator,
    FloatAccumulator,
    parse_accumulator,
)
from halfulp.numerics.exact import add, from_float64, multiply
from halfulp.numerics.formats import FloatFormat, Format, get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.rounding import Rounding

ACCUMULATORS = (
    "e6m5",
    "e6m5:stochastic:13",
    "e6m5:stochastic_floor:9",
    "e6m5:toward_zero",
    "e6m5-nosub:stochastic:24",
    "e4m3-finite:stochastic:1",
    "e4m3",
    "e4m3:ieee",
    "e5m2:nearest_even:ieee",
    "e5m10",
    "e8m23",
    "e8m23:ieee",
    "e8m23:stochastic:24",
    "e8m7:stochastic:16",
    "e2m1:stochastic:3",
    "fixed:12:-4",
    "fixed:24:-9",
    "fixed:62:-30",
    "fixed:63:-30",
    "fixed:128:-64",
    "fixed:4:3",
)
PAIRS = [("e4m3", "e4m3"), ("e5m2", "e4m3"), ("e5m2", "e5m2"), ("int8", "int8"), ("bfloat16", "float32")]


def any_codes(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> np.ndarray:
    return rng.integers(0, 1 << fmt.bits, shape, np.uint64).astype(fmt.code_dtype)


def alike(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> np.ndarray:
    """Magnitudes within a few binades of 1: chains that cancel, tie and swamp."""
    if not isinstance(fmt, FloatFormat):
        return any_codes(rng, fmt, shape)
    one = (1 << (fmt.exponent_bits - 1)) - 1 << fmt.mantissa_bits
    codes = rng.integers(one - (2 << fmt.mantissa_bits), one + (1 << fmt.mantissa_bits), shape)
    return (codes | rng.integers(0, 2, shape) * fmt.sign_code).astype(fmt.code_dtype)


@pytest.mark.parametrize("make", [any_codes, alike])
@pytest.mark.parametrize("accumulator", ACCUMULATORS)
def test_chains_are_the_references(accumulator, make, reference, rng):
    for name_a, name_b in PAIRS:
        a, b = make(rng, get_format(name_a), (3, 20)), make(rng, get_format(name_b), (20, 4))
        out = str(rng.choice(["float32", "bfloat16", "e4m3", "int8"]))
        spec = GemmSpec(name_a, name_b, out, accumulator, scale=int(rng.integers(-3, 3)))
        seed = int(rng.integers(1 << 62))
        codes, invalid, overflow = reference.gemm(a, b, spec, seed)
        got = golden_gemm(a, b, spec, seed=seed)
        assert (got.codes == codes).all(), str(spec)
        assert (got.invalid, got.overflow) == (invalid, overflow), str(spec)


@pytest.mark.parametrize("depth", [64, 1000])
@pytest.mark.parametrize("accumulator", ["e6m5:stochastic:13", "e6m5", "e6m5:stochastic_floor:13"])
def test_long_chains_are_the_references(accumulator, depth, reference, rng):
    """Random, cancelling in pairs, and swamped by one large product at the start."""
    e5m2 = get_format("e5m2")
    a, b = alike(rng, e5m2, (3, depth)), alike(rng, e5m2, (depth, 2))
    a[1, 1::2], b[1::2] = a[1, ::2] ^ np.uint8(0x80), b[::2]
    a[2, 0] = 0x7B
    spec = GemmSpec("e5m2", "e5m2", "float32", accumulator)
    codes, _, overflow = reference.gemm(a, b, spec, 9)
    got = golden_gemm(a, b, spec, seed=9)
    assert (got.codes == codes).all()
    assert got.overflow == overflow


def test_sums_are_exact_or_jammed(rng, reference):
    """Against rationals: exact in 60 bits, else the lowest bit is 1 and the sum lies strictly beside it."""
    sizes = 2.0 ** rng.integers(-80, 80, 3000)
    x = rng.integers(-(1 << 30), 1 << 30, 3000) * np.where(rng.integers(0, 2, 3000), sizes, 1.0)
    y = rng.integers(-(1 << 30), 1 << 30, 3000) * np.where(rng.integers(0, 2, 3000), 2.0**-10, 1.0)
    total = add(from_float64(x), from_float64(y))
    for n in range(3000):
        exact = reference.value(float(x[n])) + reference.value(float(y[n]))
        unit = reference.value(2.0) ** int(total.exponent[n])
        near = (-1 if total.negative[n] else 1) * int(total.significand[n]) * unit
        assert near == exact or (total.significand[n] & 1 and abs(near - exact) < unit)


def test_specials_multiply_and_add_as_ieee_has_them():
    x = np.array([np.inf, np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0, np.inf])
    y = np.array([np.inf, -np.inf, 1.0, 0.0, np.inf, -np.inf, 2.0, 0.0])
    with np.errstate(invalid="ignore"):
        for ours, theirs in ((multiply, x * y), (add, x + y)):
            real = ours(from_float64(x), from_float64(y))
            expected = from_float64(theirs)
            assert (real.kind == expected.kind).all()
            decided = real.kind == 1
            assert (real.negative[decided] == expected.negative[decided]).all()


def test_swamped_sums_stagnate_to_nearest_and_not_stochastically():
    """1 + 1024 times 2**-6 in e6m5: to nearest it stays 1; stochastically it is right on average (17)."""
    e4m3 = get_format("e4m3")
    a = np.full((40, 1025), 0x20, np.uint8)  # 2**-3
    a[:, 0] = 0x38
    b = np.full((1025, 40), 0x20, np.uint8)
    b[0] = 0x38
    to_nearest = golden_gemm(a[:1], b[:, :1], GemmSpec(e4m3, e4m3, "float32", "e6m5"))
    assert get_format("float32").to_float64(to_nearest.codes)[0, 0] == 1.0
    spec = GemmSpec(e4m3, e4m3, "float32", "e6m5:stochastic:13")
    sums = get_format("float32").to_float64(golden_gemm(a, b, spec, seed=1).codes)
    assert abs(sums.mean() - 17) < 0.5
    assert sums.std() > 0.1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exact", ExactAccumulator()),
        ("exact:1024", ExactAccumulator(1024)),
        ("fixed:24:-12", FixedAccumulator(24, -12)),
        ("e6m5", FloatAccumulator(FloatFormat("e6m5", 6, 5))),
        ("e6m5:stochastic:13", FloatAccumulator(FloatFormat("e6m5", 6, 5), Rounding("stochastic", 13))),
        ("e8m23:ieee", FloatAccumulator(FloatFormat("float32", 8, 23), overflow="ieee")),
        ("E5M10:toward_zero:ieee", FloatAccumulator(FloatFormat("float16", 5, 10), Rounding("toward_zero"), "ieee")),
    ],
)
def test_spellings(text, expected):
    assert parse_accumulator(text) == expected
    assert parse_accumulator(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fixed:24", "spelled fixed:WIDTH:LSB"),
        ("fixed:129:0", "2 to 128 bits, not 129"),
        ("fixed:1:0", "2 to 128 bits, not 1"),
        ("e6m5:stochastic", "needs its number of random bits"),
        ("e6m5:stochastic:25", "at most 24 random bits"),
        ("e6m5:wrap", "unknown rounding 'wrap'"),
        ("int8", "unknown accumulator 'int8'"),
        ("e9m5", "exponent bits must be 1 to 8, not 9"),
    ],
)
def test_wrong_accumulators_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_accumulator(text)
