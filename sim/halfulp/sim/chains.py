"""Float accumulators, rounded at each step: `float_chain` of the golden model, in all sums and flags, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.accumulators import FloatAccumulator
from halfulp.numerics.formats import CodeArray, FloatFormat, Format, IntFormat
from halfulp.numerics.gemm import GemmSpec
from halfulp.numerics.random_bits import COLUMN_COUNTER, ROW_COUNTER
from halfulp.sim.chain_code import (
    COLUMNS,
    ROWS,
    WORD_LANES,
    fits_lanes,
    general_kernel,
    ranged_kernel,
    safe_limit,
    words_kernel,
)
from halfulp.sim.operands import Operand, as_float64
from halfulp.sim.rounding_code import FLOAT32, FLOAT64, Source
from halfulp.sim.vector_code import Kernel, address, host_features

__all__ = ["Lanes", "can_chain", "chain_sums", "proven_lanes", "step_words"]


def can_chain(spec: GemmSpec, accumulator: FloatAccumulator) -> bool:
    """Whether the kernels hold for these formats: products of at most 53 bits, and a fraction to round to."""
    plain = all(isinstance(f, (FloatFormat, IntFormat)) for f in (spec.a, spec.b))
    return plain and _bits(spec.a) + _bits(spec.b) <= 53 and accumulator.format.mantissa_bits > 0


def _bits(fmt: Format) -> int:
    return fmt.significand_bits


class Lanes(NamedTuple):
    """Lanes proven right for some operands, as long as no sum is beyond the limit."""

    source: Source
    limit: float


def proven_lanes(a: Operand, b: Operand, spec: GemmSpec, accumulator: FloatAccumulator) -> Lanes | None:
    """The narrowest lanes that a range test proves right for these operands; None: only the general kernel is."""
    if a.special or b.special:
        return None
    largest = float(a.max_units) * float(b.max_units) * 2.0 ** (a.lsb_exponent + b.lsb_exponent)
    for source in (FLOAT32, FLOAT64):
        if not _can_add(spec, accumulator, source):
            continue
        if fits_lanes(accumulator, source, a.lsb_exponent + b.lsb_exponent):
            limit = safe_limit(accumulator, source, largest)
            if limit > 0:
                return Lanes(source, limit)
    return None


def _can_add(spec: GemmSpec, accumulator: FloatAccumulator, source: Source) -> bool:
    """Whether operands are exact in these lanes, and this processor has the instructions that add them up."""
    significand = source.fraction_bits + 1
    if max(_bits(spec.a), _bits(spec.b)) > significand:
        return False
    if _has_avx512():
        return True
    nearest = accumulator.rounding.kind == "nearest_even"
    return "fma" in host_features() and not (nearest and _bits(spec.a) + _bits(spec.b) > significand)


def _has_avx512() -> bool:
    return "avx512f" in host_features()


def chain_sums(
    a: CodeArray, b: CodeArray, spec: GemmSpec, accumulator: FloatAccumulator, seed: int
) -> tuple[npt.NDArray[np.floating], bool]:
    """The accumulated sums [M, N], exact in float32 or float64, and whether a step overflowed."""
    left, right = as_float64(a, spec.a), as_float64(b, spec.b)
    lanes = proven_lanes(left, right, spec, accumulator)
    if lanes is not None:
        kernel = ranged_kernel(accumulator, lanes.source, _has_avx512())
        sums, beyond = _run(kernel, left.values, right.values, accumulator, seed, lanes)
        if not beyond:
            return sums, False
    values_a = spec.a.to_float64(a) if left.special else left.values
    values_b = spec.b.to_float64(b) if right.special else right.values
    return _run(general_kernel(accumulator), values_a, values_b, accumulator, seed, None)


def _run(
    kernel: Kernel,
    a: npt.NDArray[np.float64],
    b: npt.NDArray[np.float64],
    accumulator: FloatAccumulator,
    seed: int,
    lanes: Lanes | None,
) -> tuple[npt.NDArray[np.floating], bool]:
    """Sums [M, N] and the kernel's flag."""
    (m, depth), n = a.shape, b.shape[1]
    rows, columns = -(-m // ROWS) * ROWS, -(-n // COLUMNS) * COLUMNS
    dtype = np.dtype(np.float32 if lanes and lanes.source is FLOAT32 else np.float64)
    left, right = np.zeros((depth, rows), dtype), np.zeros((depth, columns), dtype)
    left[:, :m], right[:, :n] = a.T, b
    row_words = column_words = np.zeros(0, np.uint32)
    if accumulator.rounding.is_stochastic:
        source = lanes.source if lanes else None
        row_words = step_words(accumulator, source, seed, depth, rows, ROW_COUNTER)
        column_words = step_words(accumulator, source, seed, depth, columns, COLUMN_COUNTER)
    sums, flag = np.empty((rows, columns), dtype), np.zeros(1, np.uint8)
    # A float's bits do for the limit: the kernel compares to it in its own lanes.
    limit = np.array([lanes.limit if lanes else 0.0]).astype(dtype).view(f"i{dtype.itemsize}")
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
        int(limit[0]),
    )
    return sums[:m, :n], bool(flag[0])


def step_words(
    accumulator: FloatAccumulator, source: Source | None, seed: int, depth: int, lanes: int, counter: int
) -> npt.NDArray[np.unsignedinteger]:
    """Words of all steps, [K, lanes]."""
    padded = -(-lanes // WORD_LANES) * WORD_LANES
    table = np.empty((depth, padded), np.uint64 if source is FLOAT64 else np.uint32)
    kernel = words_kernel(accumulator, source, counter == COLUMN_COUNTER)
    kernel(address(table), depth, padded, seed & 0xFFFF_FFFF, seed >> 32, counter)
    return np.ascontiguousarray(table[:, :lanes])
