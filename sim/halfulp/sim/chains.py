"""Float accumulators, rounded at each step: `float_chain` of the golden model, in all sums and flags, compiled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from halfulp.numerics.accumulators import FloatAccumulator
from halfulp.numerics.formats import CodeArray, FloatFormat, Format, IntFormat
from halfulp.numerics.gemm import GemmSpec
from halfulp.numerics.random_bits import COLUMN_COUNTER, ROW_COUNTER
from halfulp.sim.chain_code import COLUMNS, ROWS, fits_narrow, narrow_kernel, safe_limit, wide_kernel, words_kernel
from halfulp.sim.operands import Operand, as_float64
from halfulp.sim.vector_code import Kernel, address, host_features

__all__ = ["can_chain", "chain_sums", "takes_narrow"]

WORD_LANES = 16
"""What the lengths of word vectors are a multiple of."""


def can_chain(spec: GemmSpec, accumulator: FloatAccumulator) -> bool:
    """Whether the kernels hold for these formats: products of at most 53 bits, and a fraction to round to."""
    plain = all(isinstance(f, (FloatFormat, IntFormat)) for f in (spec.a, spec.b))
    return plain and _bits(spec.a) + _bits(spec.b) <= 53 and accumulator.format.mantissa_bits > 0


def _bits(fmt: Format) -> int:
    return fmt.significand_bits


def takes_narrow(a: Operand, b: Operand, spec: GemmSpec, accumulator: FloatAccumulator) -> float:
    """The magnitude up to which float32 lanes are proven right for these operands; 0: they are not taken."""
    features = host_features()
    if a.special or b.special or max(_bits(spec.a), _bits(spec.b)) > 24:
        return 0.0
    if "avx512f" not in features:
        nearest = accumulator.rounding.kind == "nearest_even"
        if "fma" not in features or (nearest and _bits(spec.a) + _bits(spec.b) > 24):
            return 0.0
    if not fits_narrow(accumulator, a.lsb_exponent + b.lsb_exponent):
        return 0.0
    largest = float(a.max_units) * float(b.max_units) * 2.0 ** (a.lsb_exponent + b.lsb_exponent)
    return safe_limit(accumulator, largest)


def chain_sums(
    a: CodeArray, b: CodeArray, spec: GemmSpec, accumulator: FloatAccumulator, seed: int
) -> tuple[npt.NDArray[np.floating], bool]:
    """The accumulated sums [M, N], exact in float32 or float64, and whether a step overflowed."""
    left, right = as_float64(a, spec.a), as_float64(b, spec.b)
    limit = takes_narrow(left, right, spec, accumulator)
    if limit > 0:
        kernel = narrow_kernel(accumulator, "avx512f" in host_features())
        bits = int(np.float32(limit).view(np.uint32))
        sums, beyond = _run(kernel, left.values, right.values, accumulator, seed, np.float32, bits)
        if not beyond:
            return sums, False
    values_a = spec.a.to_float64(a) if left.special else left.values
    values_b = spec.b.to_float64(b) if right.special else right.values
    return _run(wide_kernel(accumulator), values_a, values_b, accumulator, seed, np.float64, 0)


def _run(
    kernel: Kernel,
    a: npt.NDArray[np.float64],
    b: npt.NDArray[np.float64],
    accumulator: FloatAccumulator,
    seed: int,
    dtype: type[np.floating],
    limit: int,
) -> tuple[npt.NDArray[np.floating], bool]:
    (m, depth), n = a.shape, b.shape[1]
    rows, columns = -(-m // ROWS) * ROWS, -(-n // COLUMNS) * COLUMNS
    left, right = np.zeros((depth, rows), dtype), np.zeros((depth, columns), dtype)
    left[:, :m], right[:, :n] = a.T, b
    row_words = column_words = np.zeros(0, np.uint32)
    if accumulator.rounding.is_stochastic:
        row_words, column_words = _words(accumulator, seed, depth, rows, columns, narrow=dtype is np.float32)
    sums, flag = np.empty((rows, columns), dtype), np.zeros(1, np.uint8)
    kernel(
        address(left),
        address(right),
        address(row_words),
        address(column_words),
        address(sums),
        address(flag),
        depth,
        rows,
        columns,
        limit,
    )
    return sums[:m, :n], bool(flag[0])


def _words(
    accumulator: FloatAccumulator, seed: int, depth: int, rows: int, columns: int, *, narrow: bool
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Words of all steps: [K, rows] and [K, columns]."""
    padded = -(-rows // WORD_LANES) * WORD_LANES
    tables = np.empty((depth, padded), np.uint32), np.empty((depth, columns), np.uint32)
    mantissa_bits = accumulator.format.mantissa_bits if narrow else None
    for table, counter, constant in zip(tables, (ROW_COUNTER, COLUMN_COUNTER), (False, True), strict=True):
        kernel = words_kernel(accumulator.rounding, mantissa_bits, constant)
        kernel(address(table), depth, table.shape[1], seed & 0xFFFF_FFFF, seed >> 32, counter)
    return np.ascontiguousarray(tables[0][:, :rows]), tables[1]
