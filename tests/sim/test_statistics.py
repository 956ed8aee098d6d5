"""Stochastic rounding is unbiased, as noisy as it must be, and not correlated over rows, columns and steps.

Each test asks of a number of sample means whether they lie within what chance allows. `FALSE_ALARM` is the probability
that any of all tests here fails although everything is right: with a fixed seed it cannot happen again, and `make
fuzz` draws a fresh one. Bounds are Bernstein's inequality for means of bounded values, which holds for every
distribution and number of samples (Boucheron, Lugosi and Massart, Concentration Inequalities, 2.8), shared out over
`CHECKS` checks.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from halfulp.numerics.accumulators import FloatAccumulator, parse_accumulator
from halfulp.numerics.formats import get_format
from halfulp.numerics.gemm import GemmSpec
from halfulp.sim.emulator import emulate_gemm
from halfulp.sim.quantise import dequantise, quantise

FALSE_ALARM = 1e-6
CHECKS = 400
"""An upper bound on the means that are looked at in this file."""


def bound(variance: float, largest: float, samples: int) -> float:
    """How far the mean of independent values of this variance, at most `largest` off their own mean, may be off."""
    log = math.log(2 * CHECKS / FALSE_ALARM)
    return math.sqrt(2 * variance * log / samples) + 2 * largest * log / (3 * samples)


def check_mean(values: np.ndarray, mean: float, variance: float, largest: float) -> None:
    found = float(np.mean(values))
    assert abs(found - mean) <= bound(variance, largest, values.size), f"mean {found}, not {mean}"


def chance_up(kind: str, fraction: float, bits: int) -> float:
    """The probability of rounding up that the contract gives (docs/numerics.md, section 2)."""
    words = np.arange(1 << bits)
    addend = (words + (0.5 if kind == "stochastic" else 0.0)) / (1 << bits)
    return float(np.mean(fraction + addend >= 1))


@pytest.mark.parametrize("mode", ["stochastic:3", "stochastic:8", "stochastic:16", "stochastic_floor:8"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.7, 0.99])
def test_output_rounding_goes_up_as_often_as_it_must(mode, fraction, seed):
    """Mean and variance of the error of one number rounded 65,536 times, each time with the bits of its position."""
    kind, _, bits = mode.partition(":")
    x = np.full((256, 256), 1 + fraction / 8)  # e4m3's spacing at 1
    up = (dequantise(quantise(x, "e4m3", mode, seed=seed), "e4m3", np.float64) - 1) * 8
    assert set(np.unique(up)) <= {0.0, 1.0}
    p = chance_up(kind, fraction, int(bits))
    assert abs(p - fraction) <= 2.0 ** -(int(bits) + (kind == "stochastic"))
    check_mean(up, p, p * (1 - p), 1)
    check_mean((up - p) ** 2, p * (1 - p), p * (1 - p), 1)


APART = [(0, 1), (0, 2), (0, 3), (0, 4), (0, 16), (0, 64), (1, 0), (2, 0), (4, 0), (1, 1), (64, 0)]
"""Rows and columns between two outputs: where lanes, words and counters may betray themselves."""


def check_uncorrelated(errors: np.ndarray, variance: float) -> None:
    """Products of errors some rows and columns apart have mean 0.

    Each error is in two products, so that these are taken in two lots, each of products without a common error.
    """
    for rows, columns in APART:
        product = errors[: errors.shape[0] - rows, : errors.shape[1] - columns] * errors[rows:, columns:]
        i, j = np.indices(product.shape)
        lot = (i // rows if rows else j // columns) % 2
        for number in (0, 1):
            check_mean(product[lot == number], 0.0, variance**2, 1)


@pytest.mark.parametrize("mode", ["stochastic:8", "stochastic:16"])
def test_output_errors_are_not_correlated(mode, seed):
    up = (dequantise(quantise(np.full((256, 256), 1.0625), "e4m3", mode, seed=seed), "e4m3", np.float64) - 1) * 8
    check_uncorrelated(up - 0.5, 0.25)


def test_seeds_are_not_correlated(seed):
    """Seeds that differ in one bit give errors that have nothing to do with each other."""
    x = np.full((128, 128), 1.0625)
    first = dequantise(quantise(x, "e4m3", "stochastic:8", seed=seed), "e4m3", np.float64) * 8 - 8.5
    for bit in (0, 1, 31, 32, 62):
        other = dequantise(quantise(x, "e4m3", "stochastic:8", seed=seed ^ (1 << bit)), "e4m3", np.float64) * 8 - 8.5
        check_mean(first * other, 0.0, 1 / 16, 1)


def step_error(text: str, k: int, shape: tuple[int, int], seed: int) -> np.ndarray:
    """1 where step k of an accumulator at 1 rounded 1 + 1/4 spacing up: one product there, zeros elsewhere."""
    accumulator = parse_accumulator(text)
    assert isinstance(accumulator, FloatAccumulator)
    spacing = 2.0**-accumulator.format.mantissa_bits
    bfloat16 = get_format("bfloat16")
    a = np.zeros((shape[0], k + 1))
    b = np.zeros((k + 1, shape[1]))
    a[:, k], b[k, :] = 1.0, 1.0 + spacing / 4
    codes = quantise(a, bfloat16), quantise(b, bfloat16)
    spec = GemmSpec(bfloat16, bfloat16, "float32", accumulator)
    sums = dequantise(emulate_gemm(*codes, spec, seed=seed).codes, "float32", np.float64)
    return (sums - 1) / spacing


@pytest.mark.parametrize("text", ["e6m5:stochastic:2", "e6m5:stochastic:13", "e5m4:stochastic:9"])
def test_accumulator_steps_go_up_as_often_as_they_must(text, seed):
    """Of a step's errors over all outputs: mean and variance.

    Words of all outputs are independent in pairs only. Those of one row are all independent: a sample is one row.
    """
    for k in (0, 1, 7):
        up = step_error(text, k, (8, 4096), seed)
        assert set(np.unique(up)) <= {0.0, 1.0}
        for row in up:
            check_mean(row, 0.25, 0.1875, 1)
        check_mean((up[0] - 0.25) ** 2, 0.1875, 0.0625 * 0.75, 1)


@pytest.mark.parametrize("text", ["e6m5:stochastic:9", "e6m5:stochastic:2"])
def test_accumulator_errors_are_not_correlated_over_rows_columns_and_steps(text, seed):
    """Two outputs of a row, two of a column, one output at two steps: products of errors have mean 0.

    Words are row_i xor column_j: along a row two columns' words differ by the same bits everywhere, so that one row has
    one sample to give. Samples here are outputs on the diagonal with their neighbours, each of a row and columns of its
    own, under several seeds.
    """
    size, variance = 512, 0.1875
    s = np.arange(0, size, 2)
    over_rows, over_columns, over_steps = [], [], {1: [], 2: [], 8: []}
    for number in range(8):
        run = seed ^ number << 40
        first = step_error(text, 0, (size, size), run) - 0.25
        over_rows.append(first[s, s] * first[s + 1, s])
        over_columns.append(first[s, s] * first[s, s + 1])
        for k, products in over_steps.items():
            later = step_error(text, k, (size, 64), run) - 0.25
            products.append(first[:64, :64].diagonal() * later[:64].diagonal())
    for products in (over_rows, over_columns, *over_steps.values()):
        check_mean(np.concatenate(products), 0.0, variance**2, 1)


def test_chains_are_unbiased(seed):
    """31 additions to 16 of 1/4 of the spacing there: nearest stays, stochastic rounding climbs as it must.

    Columns of one row have independent words, and the errors of a column's steps are independent in pairs.
    """
    bfloat16, steps = get_format("bfloat16"), 31
    a = quantise(np.concatenate([[16.0], np.full(steps, 0.125)])[None, :], bfloat16)
    b = quantise(np.ones((steps + 1, 4096)), bfloat16)
    sums = [
        dequantise(emulate_gemm(a, b, GemmSpec(bfloat16, bfloat16, "float32", text), seed=seed).codes, "float32")
        for text in ("e6m5", "e6m5:stochastic:13")
    ]
    assert (sums[0] == 16).all()
    climbed = (sums[1].astype(np.float64) - 16) / 0.5
    check_mean(climbed, steps / 4, steps * 0.1875, steps)


def test_a_generator_with_a_stuck_bit_is_found(seed):
    """The bounds are narrow enough: a word whose top bit sticks, or a mean off by 2**-5, is seen in 65,536 numbers."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 256, (256, 256), np.uint32)
    x = np.full((256, 256), 1 + 0.7 / 8)
    p = chance_up("stochastic", 0.7, 8)
    for stuck in (words | np.uint32(0x80), words & np.uint32(0x7F), np.minimum(words + 8, 255).astype(np.uint32)):
        up = (dequantise(quantise(x, "e4m3", "stochastic:8", words=stuck), "e4m3", np.float64) - 1) * 8
        with pytest.raises(AssertionError, match="mean"):
            check_mean(up, p, p * (1 - p), 1)
