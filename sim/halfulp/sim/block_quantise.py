"""Numbers to blocks at the speed of memory: equal to `BlockFormat.quantise` in all codes, scales and flags."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.block_formats import BlockFormat, Blocks
from halfulp.numerics.random_bits import MAX_OUTPUT_BITS, check_seed, output_words
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding
from halfulp.sim.block_quantise_code import across_kernel, along_kernel, infinity, kernel_element
from halfulp.sim.llvm import ir
from halfulp.sim.rounding_code import FLOAT32, FLOAT64, SEGMENT, Source, rounds, threefry_lanes
from halfulp.sim.vector_code import I16, I32, I64, Code, Kernel, Lanes, address, host_features

__all__ = ["quantise_blocks"]

WORDS = 64
"""Columns that one vector of 16 Threefry counters serves."""


def quantise_blocks(
    x: npt.NDArray[np.floating],
    fmt: BlockFormat,
    rounding: Rounding = NEAREST_EVEN,
    *,
    axis: int = -1,
    seed: int = 0,
    words: npt.NDArray[np.uint32] | None = None,
    tensor_scale: float | None = None,
) -> Blocks:
    """What `BlockFormat.quantise` gives, fast.

    Parameters
    ----------
    x
        float16, float32 or float64 numbers of any shape but (); blocks lie along `axis`.
    seed, words
        Random bits of the stochastic modes: the R of each element in `words` (uint32, below 2**r, of x's shape), else
        those of `output_words(seed, i, j, r)`, r <= 16, where j counts along the last axis and i all the others,
        along whichever axis the blocks lie.
    tensor_scale
        As `BlockFormat.quantise` takes it.
    """
    check_seed(seed)
    values = np.asarray(x)
    if values.dtype.kind != "f" or values.dtype.itemsize > 8:
        raise TypeError(f"numbers to quantise must be float16, float32 or float64, not {values.dtype}")
    words = _checked_words(words, values.shape, rounding)
    source = FLOAT32 if values.dtype != np.float64 and fmt.scale == "e8m0" else FLOAT64
    if values.size == 0 or not _can(source, fmt, rounding):
        if rounding.is_stochastic and words is None:
            rows = values.size // max(values.shape[-1], 1)
            words = output_words(seed, np.arange(rows), np.arange(values.shape[-1]), rounding.random_bits)
            words = words.reshape(values.shape)
        return fmt.quantise(values, rounding, axis=axis, random=words, tensor_scale=tensor_scale)
    if axis < -values.ndim or axis >= values.ndim:
        raise IndexError(f"axis {axis} is none of an array of {values.ndim} dimensions")
    axis %= values.ndim
    inner = math.prod(values.shape[axis + 1 :])
    across = inner >= source.lanes
    random: npt.NDArray[np.unsignedinteger] | None = words
    from_seed = rounding.is_stochastic and words is None
    # Kernels know of rows and columns where blocks lie along the last axis, or the one before.
    in_kernel = axis == values.ndim - 1 or (across and axis == values.ndim - 2 and inner % source.lanes == 0)
    if from_seed and not in_kernel:
        random = _word_table(seed, values.size // values.shape[-1], values.shape[-1], rounding.random_bits)
        random = random.reshape(values.shape)
    kind = "none" if not rounding.is_stochastic else "seed" if random is None else str(8 * random.itemsize)
    job = _Job(source, fmt, rounding, kind, random, seed, axis, tensor_scale)
    return _across(values, job) if across else _along(values, job)


class _Job(NamedTuple):
    """What both ways are to do; words: where random bits come from (`block_quantise_code.WORDS`), and the table."""

    source: Source
    fmt: BlockFormat
    rounding: Rounding
    words: str
    random: npt.NDArray[np.unsignedinteger] | None
    seed: int
    axis: int
    tensor_scale: float | None

    def run(self, kernel: Callable[..., Kernel], numbers: npt.NDArray, scales: tuple[int, ...], *sizes: int) -> Blocks:
        """What the kernel gives, scales in the shape given."""
        fmt, random = self.fmt, self.random
        random = random if random is None else np.ascontiguousarray(random)
        whole = 1.0 if fmt.scale == "e8m0" and self.tensor_scale is None else self._tensor_scale(numbers)
        codes, found = np.empty(numbers.shape, fmt.element.code_dtype), np.empty(scales, np.uint8)
        constants = np.array([fmt.largest_element * whole, whole]) if fmt.scale == "e4m3" else None
        flags = kernel(self.source, fmt, self.rounding, self.words, numbers.dtype == np.float64)(
            address(numbers),
            address(codes),
            address(found),
            0 if random is None else address(random),
            0 if constants is None else address(constants),
            *sizes,
            self.seed & 0xFFFF_FFFF,
            self.seed >> 32,
        )
        return Blocks(codes, found, whole, bool(flags & 1), bool(flags & 2))

    def _tensor_scale(self, numbers: npt.NDArray) -> float:
        """`BlockFormat.tensor_scale`; where it is the rounding of amax over a limit, by float64's quotient made odd."""
        amax = _largest(numbers) if self.tensor_scale is None and self.fmt.scale == "e4m3" else 0.0
        limit = 448.0 * self.fmt.largest_element
        quotient = amax / limit
        if not 2.0**-125 < quotient < 2.0**127:  # among others 0: it was given, or there is none
            return self.fmt.tensor_scale(amax, self.tensor_scale)
        rest = Fraction(amax) - Fraction(quotient) * Fraction(limit)
        if rest and not int(math.ldexp(math.frexp(quotient)[0], 53)) & 1:
            quotient = math.nextafter(quotient, math.inf if rest > 0 else 0.0)
        return float(np.float32(quotient))


def _across(values: npt.NDArray[np.floating], job: _Job) -> Blocks:
    """Blocks along another axis than the last, each lane with one of its own."""
    axis, shape = job.axis, values.shape
    count, length = job.fmt.block_count(shape[axis]), shape[axis]
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    scales = (*shape[:axis], count, *shape[axis + 1 :])
    return job.run(across_kernel, _numbers(values), scales, outer, count, length, inner)


def _along(values: npt.NDArray[np.floating], job: _Job) -> Blocks:
    """Blocks one after another, along the last axis or where there are few numbers behind them."""
    axis, length = job.axis, values.shape[job.axis]
    count = job.fmt.block_count(length)
    is_last = axis == values.ndim - 1
    if not is_last or length % job.fmt.block:
        values = _whole_blocks(values, values.dtype, axis, count * job.fmt.block)
        if job.random is not None:
            job = job._replace(random=_whole_blocks(job.random, job.random.dtype, axis, count * job.fmt.block))
    rows = values.size // values.shape[-1]
    found = job.run(along_kernel, _numbers(values), (*values.shape[:-1], count), rows, count)
    codes, scales = found.codes, found.scales
    if codes.shape[-1] != length:
        codes = codes[..., :length]
    if not is_last:
        codes, scales = np.moveaxis(codes, -1, axis), np.moveaxis(scales, -1, axis)
    return found._replace(codes=codes, scales=scales)


def _numbers(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Contiguous float32 or float64: there is no arithmetic of float16, and float64 lanes take float32 as it is."""
    if values.dtype in (np.float32, np.float64):
        return np.ascontiguousarray(values)
    with np.errstate(invalid="ignore"):  # the widening of a signalling NaN
        return np.ascontiguousarray(values, np.float32)


def _checked_words(
    words: npt.NDArray[np.uint32] | None, shape: tuple[int, ...], rounding: Rounding
) -> npt.NDArray[np.uint32] | None:
    if not rounding.is_stochastic:
        return None
    if words is None:
        if rounding.random_bits > MAX_OUTPUT_BITS:
            raise ValueError(f"from a seed come at most {MAX_OUTPUT_BITS} random bits, not {rounding}: give words")
    elif words.dtype != np.uint32 or words.shape != shape:
        raise ValueError(f"words must be uint32 of shape {shape}, not {words.dtype} of shape {words.shape}")
    return words


def _can(source: Source, fmt: BlockFormat, rounding: Rounding) -> bool:
    """Whether the kernel holds for this format: whole vectors a block, and what its arithmetic relies on."""
    element, scale = kernel_element(fmt.element)
    whole = fmt.block in (source.lanes << n for n in range((SEGMENT // source.lanes).bit_length()))
    if not whole or not rounds(source, element, rounding, scale):
        return False
    if fmt.scale == "e8m0":
        return fmt.element_exponent >= 0  # so that subnormal largest magnitudes have the least scale
    return not fmt.element.has_inf and "fma" in host_features()


def _whole_blocks(x: npt.NDArray, dtype: npt.DTypeLike, axis: int, length: int) -> npt.NDArray:
    """`x` with `axis` last, contiguous, zeros after it up to `length`."""
    moved = np.moveaxis(x, axis, -1)
    with np.errstate(invalid="ignore"):  # the widening of a signalling NaN
        if moved.shape[-1] == length:
            return np.ascontiguousarray(moved, dtype)
        padded = np.empty((*moved.shape[:-1], length), dtype)
        padded[..., : moved.shape[-1]] = moved
    padded[..., moved.shape[-1] :] = 0
    return padded


def _largest(x: npt.NDArray[np.floating]) -> float:
    """The largest finite magnitude of contiguous float32 or float64 numbers."""
    found = np.empty(1, np.uint64)
    source = FLOAT32 if x.dtype == np.float32 else FLOAT64
    _largest_kernel(source)(address(x), address(found), x.size)
    return float(found.astype(f"u{x.itemsize}").view(x.dtype)[0])


@lru_cache(maxsize=2)
def _largest_kernel(source: Source) -> Kernel:
    """Kernel over numbers, the bits of the largest finite magnitude, and the count of numbers."""
    code = Code("largest", "ppi")
    numbers, found, count = code.arguments
    magnitudes = (1 << (source.width - 1)) - 1

    def seen(bits: Lanes, largest: Lanes) -> list[Lanes]:
        magnitude = bits & magnitudes
        return [((magnitude > largest) & (magnitude < infinity(source))).choose(magnitude, largest)]

    vector = ir.VectorType(source.integer, source.lanes)
    whole = count & -source.lanes
    start = [code.constant(vector, 0)]
    (most,) = code.loop(0, whole, source.lanes, start, lambda n, x: seen(code.load(numbers, n, vector), x))
    one = code.intrinsic(f"llvm.vector.reduce.umax.v{source.lanes}i{source.width}", source.integer, most)
    (one,) = code.loop(whole, count, 1, [one], lambda n, x: seen(code.load(numbers, n, source.integer), x))
    code.store(one.widen(I64), found, 0)
    return code.compile()


def _word_table(seed: int, rows: int, columns: int, random_bits: int) -> npt.NDArray[np.uint16]:
    """`output_words` of a whole matrix, [rows, columns]."""
    table = np.empty((rows, -(-columns // WORDS) * WORDS), np.uint16)
    _words_kernel(random_bits)(address(table), rows, table.shape[1], seed & 0xFFFF_FFFF, seed >> 32)
    return table[:, :columns]


@lru_cache(maxsize=MAX_OUTPUT_BITS)
def _words_kernel(random_bits: int) -> Kernel:
    """Kernel over table, rows, columns (a multiple of `WORDS`), key low and high."""
    code = Code("output_words", "piiii")
    table, rows, columns, low, high = code.arguments
    counters = WORDS // 4
    kind = ir.VectorType(I32, counters)
    key = code.spread(low.narrow(I32), counters), code.spread(high.narrow(I32), counters)
    # Words 0 and 1 of a counter alternate, and halves go low before high.
    order = [n // 2 + counters * (n % 2) for n in range(2 * counters)]

    def group(row: Lanes, first: Lanes) -> list[Lanes]:
        quarter = code.spread((first >> 2).narrow(I32), counters) + code.count_up(kind)
        a, b = threefry_lanes(key, code.spread(row.narrow(I32), counters), quarter)
        halves = a.shuffle(b, order).bits_as(ir.VectorType(I16, WORDS))
        code.store(halves >> (MAX_OUTPUT_BITS - random_bits), table, row * columns + first)
        return []

    def each(row: Lanes) -> list[Lanes]:
        return code.loop(0, columns, WORDS, [], lambda first: group(row, first))

    code.loop(0, rows, 1, [], each)
    return code.compile()
