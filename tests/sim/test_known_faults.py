"""Faults that other emulators of low precision have, each shown to be absent here, in golden model and emulator."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import FloatFormat, get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.rounding import Rounding
from halfulp.sim.emulator import emulate_gemm
from halfulp.sim.quantise import quantise
from halfulp.sim.torch_gemm import tensor_gemm

FORMATS = ["e4m3", "e5m2", "e3m2", "e2m1", "e6m5"]
WAYS = {
    "golden": golden_gemm,
    "emulator": emulate_gemm,
    "torch": lambda a, b, spec, seed: tensor_gemm(torch.from_numpy(a), torch.from_numpy(b), spec, seed=seed),
}


def by_golden(x: np.ndarray, name: str, mode: str = "nearest_even") -> np.ndarray:
    return get_format(name).encode(from_float64(x), Rounding.parse(mode)).codes


@pytest.fixture(params=[quantise, by_golden], ids=["kernel", "golden"])
def rounded(request):
    return request.param


def positive(name: str) -> tuple[FloatFormat, np.ndarray]:
    fmt = get_format(name)
    assert isinstance(fmt, FloatFormat)
    return fmt, fmt.to_float64(np.arange(fmt.max_code + 1, dtype=fmt.code_dtype))


@pytest.mark.parametrize("name", FORMATS)
def test_every_tie_goes_to_the_even_code(name, rounded):
    """qtorch gets half of the ties wrong; microxcaling's default rounds them away from zero."""
    fmt, values = positive(name)
    lower = np.arange(fmt.max_code)
    ties = (values[:-1] + values[1:]) / 2
    for sign, bit in ((1, 0), (-1, fmt.sign_code)):
        assert (rounded(sign * ties, name) == (lower + lower % 2) | bit).all()
        assert (rounded(sign * np.nextafter(ties, 0), name) == lower | bit).all()
        assert (rounded(sign * np.nextafter(ties, np.inf), name) == (lower + 1) | bit).all()


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_beyond_the_largest_becomes_that(name, rounded):
    """qtorch clamps e4m3 at 480, pychop gives 0."""
    fmt, values = positive(name)
    for factor in (1.01, 1.2, 2.0, 1e30):
        assert rounded(np.array([factor * values[-1]]), name)[0] == fmt.max_code
    assert get_format("e4m3").to_float64(rounded(np.array([1e9]), "e4m3"))[0] == 448


@pytest.mark.parametrize("name", FORMATS)
def test_a_carry_goes_into_the_exponent(name, rounded):
    """Just below a power of two rounds to it, from the subnormal numbers on."""
    fmt, values = positive(name)
    powers = values[(np.frexp(values)[0] == 0.5) & (values > fmt.to_float64(np.uint8(1)))]
    assert (fmt.to_float64(rounded(powers * (1 - 2.0**-20), name)) == powers).all()


def test_float64_is_rounded_once(rounded):
    """torch and ml_dtypes go by float32: 1.0625 + 2**-40 is a tie there, and goes down."""
    x = np.array([1.0625 + 2.0**-40, 1.0625 - 2.0**-40, 1.0625])
    assert rounded(x, "e4m3").tolist() == [0x39, 0x38, 0x38]


@pytest.mark.parametrize("accumulator", ["exact", "e6m5:stochastic:13"])
def test_seeds_repeat_and_matter(accumulator, rng):
    """MPTorch's stochastic rounding cannot be seeded, and its CPU and GPU add in different orders."""
    spec = GemmSpec("e4m3", "e4m3", "e4m3", accumulator, "stochastic:8")
    a, b = rng.integers(0, 0x70, (17, 90)).astype(np.uint8), rng.integers(0, 0x70, (90, 35)).astype(np.uint8)
    a[:, ::2] |= 0x80
    first = {name: np.asarray(way(a, b, spec, seed=1).codes) for name, way in WAYS.items()}
    assert all((codes == first["golden"]).all() for codes in first.values())
    for name, way in WAYS.items():
        assert (np.asarray(way(a, b, spec, seed=1).codes) == first[name]).all()
        assert (np.asarray(way(a, b, spec, seed=2).codes) != first[name]).any()


def test_all_random_bits_count():
    """MPTorch's mask of random bits lets one through: of r = 4, every one of the 16 words gives its own threshold."""
    fractions = np.arange(16) / 16 + 1 / 64
    words = np.arange(16, dtype=np.uint32)
    x = np.repeat(1 + fractions[:, None] / 8, 16, axis=1)
    up = quantise(x, "e4m3", "stochastic_floor:4", words=np.repeat(words[None, :], 16, axis=0)) == 0x39
    assert (up == (np.arange(16)[:, None] + words[None, :] >= 16)).all()


def test_products_are_not_rounded_before_they_are_added():
    """APyTypes rounds each product to the accumulator's format: 1.125 * 1.375 = 1 + 35/64 lies between e6m5's numbers.

    Added to ±1/64 it is 1 + 36/64 or 1 + 34/64, which are; rounded before, both would be 1 + 36/64.
    """
    e4m3 = get_format("e4m3")
    for last, expected in ((1 / 64, 1 + 36 / 64), (-1 / 64, 1 + 34 / 64)):
        a, b = (by_golden(np.array(x), "e4m3") for x in ([[last, 1.125]], [[1.0], [1.375]]))
        for way in WAYS.values():
            got = way(a, b, GemmSpec(e4m3, e4m3, "float32", "e6m5"), seed=0)
            assert get_format("float32").to_float64(np.asarray(got.codes))[0, 0] == expected


def test_least_bits_decide_ties_that_float32_forgets():
    """A nearest add in float32 lanes loses 2**-18 beside a product of 64 or more: every tie of e6m5 then goes to even.

    For all products of two e4m3 numbers that are such ties, after ±2**-18, the exact sum decides. A plain kernel
    (float32's sum, then rounded) gets half of them wrong.
    """
    e4m3, e6m5 = positive("e4m3")[0], positive("e6m5")[0]
    values = e4m3.to_float64(np.arange(e4m3.max_code + 1, dtype=np.uint8))
    ties = []
    for left, right in itertools.product(range(1, e4m3.max_code + 1), repeat=2):
        product = Fraction(values[left]) * Fraction(values[right])
        unit = Fraction(2) ** (int(np.frexp(float(product))[1]) - 1 - e6m5.mantissa_bits)
        if product >= 64 and (product / unit).denominator == 2:
            ties.append((left, right, product, unit))
    assert len(ties) > 200
    a = np.array([[tiny, left] for left, _, _, _ in ties for tiny in (0x01, 0x81)], np.uint8)
    b = np.array([[0x01] * len(ties), [right for _, right, _, _ in ties]], np.uint8)
    expected, plain = [], []
    for _, _, product, unit in ties:
        for sign in (1, -1):
            below = product // unit * unit
            expected.append(float(below + (unit if sign > 0 else 0)))
            forgetful = np.float32(float(product)) + np.float32(sign * 2.0**-18)
            plain.append(float(round(Fraction(float(forgetful)) / unit) * unit))
    assert 2 * np.sum(np.array(plain) != expected) == len(expected)
    for way in (golden_gemm, emulate_gemm):
        spec = GemmSpec(e4m3, e4m3, "float32", "e6m5")
        sums = get_format("float32").to_float64(np.asarray(way(a, b, spec, seed=0).codes))
        column = np.arange(len(ties))
        assert (sums[2 * column, column] == expected[::2]).all()
        assert (sums[2 * column + 1, column] == expected[1::2]).all()
