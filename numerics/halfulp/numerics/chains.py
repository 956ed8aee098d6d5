"""Golden models of the accumulators that round or saturate at each step (docs/numerics.md, section 3)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.accumulators import FixedAccumulator, FloatAccumulator
from halfulp.numerics.exact import FINITE, RealArray, add, bit_length, from_integers, multiply
from halfulp.numerics.random_bits import accumulator_words, xorshift32

__all__ = ["Chain", "fixed_chain", "float_chain", "where"]


class Chain(NamedTuple):
    """The accumulated sums [M, N], and whether any step was beyond the largest finite number."""

    sums: RealArray
    overflow: bool


def float_chain(a: RealArray, b: RealArray, accumulator: FloatAccumulator, *, seed: int = 0) -> Chain:
    """Dot products of A [M, K] with B [K, N] in a float accumulator: acc <- round(acc + a * b), k ascending."""
    fmt, rounding = accumulator.format, accumulator.rounding
    rows, depth, columns = (*a.significand.shape, b.significand.shape[1])
    row_words, column_words = accumulator_words(seed, np.arange(rows), np.arange(columns))
    shift = np.uint32(32 - rounding.random_bits)
    total = _zeros(rows, columns)
    overflow = False
    for k in range(depth):
        exact = add(total, multiply(a.at(np.s_[:, k, None]), b.at(np.s_[None, k, :])))
        random = None
        if rounding.is_stochastic:
            random = (row_words[:, None] ^ column_words[None, :]) >> shift
            row_words, column_words = xorshift32(row_words), xorshift32(column_words)
        finite = exact.kind == FINITE
        rounded = fmt.encode(exact._replace(kind=np.zeros_like(exact.kind)), rounding, random, accumulator.overflow)
        total = where(finite, fmt.decode(rounded.codes), exact)  # NaN and Inf stay, code or no code
        overflow |= bool((rounded.overflow & finite).any())
    return Chain(total, overflow)


def fixed_chain(a: RealArray, b: RealArray, accumulator: FixedAccumulator) -> Chain:
    """Dot products of A [M, K] with B [K, N] in a window of fixed point, each sum saturated, k ascending."""
    rows, depth, columns = (*a.significand.shape, b.significand.shape[1])
    integers = np.int64 if accumulator.width <= 62 else object
    total = np.zeros((rows, columns), integers)
    special = _zeros(rows, columns)
    overflow = False
    for k in range(depth):
        product = multiply(a.at(np.s_[:, k, None]), b.at(np.s_[None, k, :]))
        total = total + _windowed(product, accumulator).astype(integers)
        finite = product.kind == FINITE
        special = add(special, product._replace(significand=np.where(finite, 0, product.significand)))
        held = np.clip(total, accumulator.smallest, accumulator.largest)
        overflow |= bool(((held != total) & (special.kind == FINITE)).any())
        total = held
    sums = from_integers(total, accumulator.lsb)
    return Chain(where(special.kind == FINITE, sums, special), overflow)


def _windowed(product: RealArray, accumulator: FixedAccumulator) -> npt.NDArray:
    """Products in units of 2**lsb, magnitudes truncated; those beyond the window as one that saturates."""
    shift = product.exponent - accumulator.lsb
    beyond = (product.significand != 0) & (shift + bit_length(product.significand) > accumulator.width)
    if accumulator.width <= 62:
        right = product.significand >> np.clip(-shift, 0, 63)
        kept = np.where(shift >= 0, product.significand << np.clip(shift, 0, accumulator.width), right)
        magnitude = np.where(beyond, 1 << accumulator.width, kept)
    else:
        wide = product.significand.astype(object)
        left = wide << np.clip(shift, 0, accumulator.width).astype(object)
        right = product.significand >> np.clip(-shift, 0, 63)
        magnitude = np.where(beyond, 1 << accumulator.width, np.where(shift >= 0, left, right))
    return np.where(product.kind != FINITE, 0, np.where(product.negative, -magnitude, magnitude))


def _zeros(rows: int, columns: int) -> RealArray:
    zeros = np.zeros((rows, columns), np.int64)
    return RealArray(zeros > 0, zeros, zeros, zeros.astype(np.uint8))


def where(condition: npt.NDArray[np.bool_], yes: RealArray, no: RealArray) -> RealArray:
    """The numbers of `yes` where the condition holds, else those of `no`."""
    return RealArray(
        np.where(condition, yes.negative, no.negative),
        np.where(condition, yes.significand, no.significand),
        np.where(condition, yes.exponent, no.exponent),
        np.where(condition, yes.kind, no.kind),
    )
