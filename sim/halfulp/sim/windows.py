"""Windows of fixed point, saturated at each step: `fixed_chain` of the golden model, in all sums and flags, compiled.

Sums are integers in float64 lanes. A product of at most 53 bits is exact there, and so is its truncation; a sum of that
and of a number in the window is exact, or so large that it saturates either way.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from halfulp.numerics.accumulators import FixedAccumulator
from halfulp.numerics.chains import fixed_chain
from halfulp.numerics.exact import FINITE, INFINITE, NAN
from halfulp.numerics.formats import CodeArray
from halfulp.numerics.gemm import GemmSpec
from halfulp.sim.chain_code import COLUMNS, ROWS, window_kernel
from halfulp.sim.operands import as_floats, by_rows
from halfulp.sim.vector_code import address

__all__ = ["can_window", "window_sums"]

MAX_WIDTH = 53
"""Widest window whose integers float64 holds."""

MAX_LSB = 500
"""Largest magnitude of a window's lsb: operands in units of 2**lsb then stay normal float64 numbers."""


def can_window(spec: GemmSpec, accumulator: FixedAccumulator) -> bool:
    """Whether the kernel holds for these formats and this window."""
    bits = spec.a.significand_bits + spec.b.significand_bits
    return bits <= 53 and accumulator.width <= MAX_WIDTH and abs(accumulator.lsb) <= MAX_LSB


def window_sums(
    a: CodeArray, b: CodeArray, spec: GemmSpec, accumulator: FixedAccumulator
) -> tuple[npt.NDArray[np.float64], bool]:
    """The sums [M, N] in units of 2**lsb, and whether a step saturated.

    NaN and infinities are few: their rows and columns are left to the golden model.
    """
    left = as_floats(a, spec.a, np.float64, pad=(ROWS, 1))
    right = as_floats(by_rows(b), spec.b, np.float64, pad=(1, COLUMNS))
    if not left.special and not right.special:
        return _run(left.values * 2.0**-accumulator.lsb, right.values, accumulator)
    odd_rows = (spec.a.decode(a).kind != FINITE).any(axis=1)
    odd_columns = (spec.b.decode(b).kind != FINITE).any(axis=0)
    sums, overflow = np.empty((len(odd_rows), len(odd_columns))), False
    every = np.ones(len(odd_columns), np.bool_)
    for rows, columns, way in (
        (~odd_rows, ~odd_columns, window_sums),
        (~odd_rows, odd_columns, _golden_sums),
        (odd_rows, every, _golden_sums),
    ):
        if rows.any() and columns.any():
            found, raised = way(a[rows], b[:, columns], spec, accumulator)
            sums[np.ix_(rows, columns)] = found
            overflow |= raised
    return sums, overflow


def _golden_sums(
    a: CodeArray, b: CodeArray, spec: GemmSpec, accumulator: FixedAccumulator
) -> tuple[npt.NDArray[np.float64], bool]:
    real, overflow = fixed_chain(spec.a.decode(a), spec.b.decode(b), accumulator)
    size = np.ldexp(real.significand.astype(np.float64), (real.exponent - accumulator.lsb).astype(np.int32))
    size = np.where(real.kind == NAN, np.nan, np.where(real.kind == INFINITE, np.inf, size))
    return np.where(real.negative, -size, size), overflow


def _run(
    a: npt.NDArray[np.floating], b: npt.NDArray[np.floating], accumulator: FixedAccumulator
) -> tuple[npt.NDArray[np.float64], bool]:
    """Sums of operands that are followed by zeros as `as_floats` pads them, A in units of 2**lsb."""
    (m, depth), n = a.shape, b.shape[1]
    rows, columns = -(-m // ROWS) * ROWS, -(-n // COLUMNS) * COLUMNS
    padded = np.zeros((depth, rows))
    padded[:, :m] = a.T
    sums, strides = np.empty((rows, columns)), (1, rows)
    kernel = window_kernel(accumulator.width)
    saturated = kernel(address(padded), address(b), 0, 0, address(sums), depth, rows, columns, *strides, 0)
    return sums[:m, :n], bool(saturated)
