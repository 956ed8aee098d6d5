"""Float accumulators, rounded at each step: `float_chain` of the golden model, in all sums and flags, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.accumulators import FloatAccumulator
from halfulp.numerics.formats import CodeArray, Format
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
from halfulp.sim.operands import Operand, as_floats, holds
from halfulp.sim.rounding_code import FLOAT32, FLOAT64, Source
from halfulp.sim.vector_code import Kernel, address, host_features

__all__ = ["Lanes", "can_chain", "chain_sums", "proven_lanes", "step_words"]


def can_chain(spec: GemmSpec, accumulator: FloatAccumulator) -> bool:
    """Whether the kernels hold for these formats: products of at most 53 bits, and a fraction to round to."""
    return _bits(spec.a) + _bits(spec.b) <= 53 and accumulator.format.mantissa_bits > 0


def _bits(fmt: Format) -> int:
    return fmt.significand_bits


class Lanes(NamedTuple):
    """Lanes proven right for some operands, as long as no sum is beyond the limit.

    exact: every sum up to the limit is exact in them, so that it needs no odd one in its place.
    """

    source: Source
    limit: float
    exact: bool = False


def proven_lanes(a: Operand, b: Operand, spec: GemmSpec, accumulator: FloatAccumulator) -> Lanes | None:
    """The fastest lanes that a range test proves right for these operands; None: only the general kernel is."""
    if a.special or b.special:
        return None
    lsb, depth = a.lsb_exponent + b.lsb_exponent, a.values.shape[1]
    largest = float(a.max_units) * float(b.max_units) * 2.0**lsb
    for source, exact in _ways(accumulator):
        if not _can_add(spec, accumulator, source, exact=exact) or not fits_lanes(accumulator, source, lsb):
            continue
        limit = safe_limit(accumulator, source, largest)
        if exact:
            # Sums are multiples of the last bit that occurs: exact up to 2**(fraction bits + 1) of those.
            whole, limit = limit, safe_limit(accumulator, source, largest, 2.0 ** (lsb + source.fraction_bits + 1))
            if limit < min(whole, 2 * depth * largest):
                continue
        if limit > 0:
            return Lanes(source, limit, exact)
    return None


def _ways(accumulator: FloatAccumulator) -> list[tuple[Source, bool]]:
    """Lanes, and whether sums are to be exact in them: the fastest first."""
    if accumulator.rounding.kind != "nearest_even":
        return [(FLOAT32, False), (FLOAT64, False)]
    odd_in_float32, exact_in_float64 = (FLOAT32, False), (FLOAT64, True)
    # AVX-512 makes sums odd in three instructions, others in many.
    between = [odd_in_float32, exact_in_float64] if _has_avx512() else [exact_in_float64, odd_in_float32]
    return [(FLOAT32, True), *between, (FLOAT64, False)]


def _can_add(spec: GemmSpec, accumulator: FloatAccumulator, source: Source, *, exact: bool) -> bool:
    """Whether operands are exact in these lanes, and this processor has the instructions that add them up."""
    significand = source.fraction_bits + 1
    if max(_bits(spec.a), _bits(spec.b)) > significand:
        return False
    if _has_avx512():
        return True
    nearest = accumulator.rounding.kind == "nearest_even"
    return "fma" in host_features() and not (nearest and not exact and _bits(spec.a) + _bits(spec.b) > significand)


def _has_avx512() -> bool:
    return "avx512f" in host_features()


def chain_sums(
    a: CodeArray, b: CodeArray, spec: GemmSpec, accumulator: FloatAccumulator, seed: int
) -> tuple[npt.NDArray[np.floating], bool]:
    """The accumulated sums [M, N], exact in float32 or float64, and whether a step overflowed."""
    rows_of_b = np.ascontiguousarray(b)
    # Most operands are right for float32 lanes where the formats are, and their range comes with the values.
    hopeful = (
        _can_add(spec, accumulator, FLOAT32, exact=True) and holds(np.float32, spec.a) and holds(np.float32, spec.b)
    )
    left, right = _operands(a, rows_of_b, spec, np.float32 if hopeful else np.float64)
    lanes = proven_lanes(left, right, spec, accumulator)
    if hopeful and not (lanes and lanes.source is FLOAT32):
        left, right = _operands(a, rows_of_b, spec, np.float64)
    if lanes is not None:
        kernel = ranged_kernel(accumulator, lanes.source, _has_avx512(), lanes.exact)
        sums, beyond = _run(kernel, left.values, right.values, accumulator, seed, lanes)
        if not beyond:
            return sums, False
        if lanes.source is FLOAT32:
            left, right = _operands(a, rows_of_b, spec, np.float64)
    for operand, codes, fmt in ((left, a, spec.a), (right, rows_of_b, spec.b)):
        if operand.special:
            operand.values[...] = fmt.to_float64(codes)
    return _run(general_kernel(accumulator), left.values, right.values, accumulator, seed, None)


def _operands(a: CodeArray, b: CodeArray, spec: GemmSpec, dtype: npt.DTypeLike) -> tuple[Operand, Operand]:
    """Both operands as kernels take them."""
    return as_floats(a, spec.a, dtype, pad=(ROWS, 1)), as_floats(b, spec.b, dtype, pad=(1, COLUMNS))


def _run(
    kernel: Kernel,
    a: npt.NDArray[np.floating],
    b: npt.NDArray[np.floating],
    accumulator: FloatAccumulator,
    seed: int,
    lanes: Lanes | None,
) -> tuple[npt.NDArray[np.floating], bool]:
    """Sums [M, N] and the kernel's flag, of operands that are followed by zeros as `as_floats` pads them."""
    (m, depth), n = a.shape, b.shape[1]
    rows, columns = -(-m // ROWS) * ROWS, -(-n // COLUMNS) * COLUMNS
    dtype = a.dtype
    row_words = column_words = np.empty(0, np.uint32)
    if accumulator.rounding.is_stochastic:
        source = lanes.source if lanes else None
        row_words = step_words(accumulator, source, seed, depth, rows, ROW_COUNTER)
        column_words = step_words(accumulator, source, seed, depth, columns, COLUMN_COUNTER)
    sums, flag = np.empty((rows, columns), dtype), np.zeros(1, np.uint8)
    # A float's bits do for the limit: the kernel compares to it in its own lanes.
    limit = np.array([lanes.limit if lanes else 0.0]).astype(dtype).view(f"i{dtype.itemsize}")
    kernel(
        address(a),
        address(b),
        address(row_words),
        address(column_words),
        address(sums),
        address(flag),
        depth,
        rows,
        columns,
        *(stride // dtype.itemsize for stride in a.strides),
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
