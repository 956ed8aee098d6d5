"""Float accumulators, rounded at each step: `float_chain` of the golden model, in all sums and flags, compiled."""

from __future__ import annotations

import struct
from functools import lru_cache
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
from halfulp.sim.operands import Operand, as_floats, by_rows, holds
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
    for source, exact in _choices(spec, _has_avx512()).ways:
        if not fits_lanes(accumulator, source, lsb):
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


class _Choices:
    """What is known of a GEMM before its operands are.

    ways: lanes that hold the operands and that this processor adds up, and whether sums are to be exact in them, the
    fastest first; dtype: what operands are tried as, for most are right for float32 lanes where their formats are.
    """

    def __init__(self, spec: GemmSpec, accumulator: FloatAccumulator, avx512: bool) -> None:
        ways = [(FLOAT32, False), (FLOAT64, False)]
        if accumulator.rounding.kind == "nearest_even":
            # AVX-512 makes sums odd in three instructions, others in many.
            between = [(FLOAT32, False), (FLOAT64, True)] if avx512 else [(FLOAT64, True), (FLOAT32, False)]
            ways = [(FLOAT32, True), *between, (FLOAT64, False)]
        self.ways = [way for way in ways if _can_add(spec, accumulator, way[0], avx512, exact=way[1])]
        in_float32 = any(source is FLOAT32 for source, _ in self.ways)
        both = in_float32 and holds(np.float32, spec.a) and holds(np.float32, spec.b)
        self.dtype = np.float32 if both else np.float64
        self.accumulator, self.avx512 = accumulator, avx512
        self._kernels: dict[tuple[int, bool], Kernel] = {}
        self._words: dict[tuple[int, bool], Kernel] = {}

    def kernel(self, lanes: Lanes | None) -> Kernel:
        """The kernel for these lanes, or the general one."""
        key = (lanes.source.width, lanes.exact) if lanes else (0, False)
        if key not in self._kernels:
            accumulator = self.accumulator
            self._kernels[key] = (
                ranged_kernel(accumulator, lanes.source, self.avx512, lanes.exact)
                if lanes
                else general_kernel(accumulator)
            )
        return self._kernels[key]

    def words(self, lanes: Lanes | None, seed: int, depth: int, count: int, counter: int) -> npt.NDArray:
        """Words of all steps, [K, count] and more columns up to a multiple of `WORD_LANES`."""
        source = lanes.source if lanes else None
        key = source.width if source else 0, counter == COLUMN_COUNTER
        if key not in self._words:
            self._words[key] = words_kernel(self.accumulator, source, key[1])
        return _word_table(self._words[key], source, seed, depth, count, counter)


@lru_cache(maxsize=256)
def _choices(spec: GemmSpec, avx512: bool) -> _Choices:
    assert isinstance(spec.accumulator, FloatAccumulator)  # what chains are of
    return _Choices(spec, spec.accumulator, avx512)


def _can_add(spec: GemmSpec, accumulator: FloatAccumulator, source: Source, avx512: bool, *, exact: bool) -> bool:
    """Whether operands are exact in these lanes, and this processor has the instructions that add them up."""
    significand = source.fraction_bits + 1
    if max(_bits(spec.a), _bits(spec.b)) > significand:
        return False
    if avx512:
        return True
    nearest = accumulator.rounding.kind == "nearest_even"
    return "fma" in host_features() and not (nearest and not exact and _bits(spec.a) + _bits(spec.b) > significand)


def _has_avx512() -> bool:
    return "avx512f" in host_features()


def chain_sums(
    a: CodeArray, b: CodeArray, spec: GemmSpec, accumulator: FloatAccumulator, seed: int
) -> tuple[npt.NDArray[np.floating], bool]:
    """The accumulated sums [M, N], exact in float32 or float64, and whether a step overflowed."""
    rows_of_b = by_rows(b)
    choices = _choices(spec, _has_avx512())
    left, right = _operands(a, rows_of_b, spec, choices.dtype)  # their range comes with the values
    lanes = proven_lanes(left, right, spec, accumulator)
    if choices.dtype is np.float32 and not (lanes and lanes.source is FLOAT32):
        left, right = _operands(a, rows_of_b, spec, np.float64)
    if lanes is not None:
        sums, beyond = _run(choices, left.values, right.values, seed, lanes)
        if not beyond:
            return sums, False
        if lanes.source is FLOAT32:
            left, right = _operands(a, rows_of_b, spec, np.float64)
    for operand, codes, fmt in ((left, a, spec.a), (right, rows_of_b, spec.b)):
        if operand.special:
            operand.values[...] = fmt.to_float64(codes)
    return _run(choices, left.values, right.values, seed, None)


def _operands(a: CodeArray, b: CodeArray, spec: GemmSpec, dtype: npt.DTypeLike) -> tuple[Operand, Operand]:
    """Both operands as kernels take them."""
    return as_floats(a, spec.a, dtype, pad=(ROWS, 1)), as_floats(b, spec.b, dtype, pad=(1, COLUMNS))


def _run(
    choices: _Choices, a: npt.NDArray[np.floating], b: npt.NDArray[np.floating], seed: int, lanes: Lanes | None
) -> tuple[npt.NDArray[np.floating], bool]:
    """Sums [M, N] and the kernel's flag, of operands that are followed by zeros as `as_floats` pads them."""
    (m, depth), n = a.shape, b.shape[1]
    rows, columns = -(-m // ROWS) * ROWS, -(-n // COLUMNS) * COLUMNS
    dtype = a.dtype
    row_words = column_words = None
    if choices.accumulator.rounding.is_stochastic:
        row_words = choices.words(lanes, seed, depth, rows, ROW_COUNTER)
        column_words = choices.words(lanes, seed, depth, columns, COLUMN_COUNTER)
    sums = np.empty((rows, columns), dtype)
    # A float's bits do for the limit: the kernel compares to it in its own lanes.
    kind, bits = ("<f", "<i") if dtype == np.float32 else ("<d", "<q")
    (limit,) = struct.unpack(bits, struct.pack(kind, lanes.limit if lanes else 0.0))
    flag = choices.kernel(
        lanes
    )(
        address(a[:1, :1]),  # of what is contiguous it is found sooner
        address(b[:1, :1]),
        0 if row_words is None else address(row_words),
        0 if column_words is None else address(column_words),
        address(sums),
        depth,
        rows,
        columns,
        *(stride // dtype.itemsize for stride in a.strides),
        limit,
    )
    return sums[:m, :n], bool(flag)


def step_words(
    accumulator: FloatAccumulator, seed: int, depth: int, lanes: int, counter: int
) -> npt.NDArray[np.unsignedinteger]:
    """Words of all steps as they are, [K, lanes]."""
    kernel = words_kernel(accumulator, None, counter == COLUMN_COUNTER)
    return np.ascontiguousarray(_word_table(kernel, None, seed, depth, lanes, counter)[:, :lanes])


def _word_table(
    kernel: Kernel, source: Source | None, seed: int, depth: int, lanes: int, counter: int
) -> npt.NDArray[np.unsignedinteger]:
    padded = -(-lanes // WORD_LANES) * WORD_LANES
    table = np.empty((depth, padded), np.uint64 if source is FLOAT64 else np.uint32)
    kernel(address(table), depth, padded, seed & 0xFFFF_FFFF, seed >> 32, counter)
    return table
