"""Numbers to codes and back, at the speed of memory: equal to `Format.encode` and `Format.decode` in all codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import CodeArray, FloatFormat, Format, get_format
from halfulp.numerics.random_bits import MAX_OUTPUT_BITS, check_seed, output_words
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding, check_overflow
from halfulp.sim.llvm import ir
from halfulp.sim.quick_code import QuickCodes, is_aligned, is_quick
from halfulp.sim.rounding_code import BLOCK, FLOAT32, FLOAT64, Source, round_lanes, rounds, threefry_halves
from halfulp.sim.vector_code import F64, I8, I16, I32, I64, Code, Kernel, Lanes, address

__all__ = ["Quantised", "dequantise", "quantise", "quantise_flagged"]

QUICK_BLOCK = 256
"""Numbers that are rounded at a time where random words are what takes long: several vectors of those under way."""

LITTLE_ENDIAN = sys.byteorder == "little"


class Quantised(NamedTuple):
    """Codes, and whether any element was a NaN without a code, or beyond the largest finite number."""

    codes: CodeArray
    invalid: bool
    overflow: bool


def quantise(
    x: npt.ArrayLike,
    fmt: Format | str,
    rounding: Rounding | str = NEAREST_EVEN,
    *,
    seed: int = 0,
    words: npt.NDArray[np.uint32] | None = None,
    scale: int = 0,
    overflow: str = "saturate",
) -> CodeArray:
    """Round 2**scale * x to codes of `fmt`, once.

    Parameters
    ----------
    x
        float32, float64 or int32, any shape and strides; other real types are taken as float64.
    rounding
        A `Rounding` or its spelling.
    seed, words
        Random bits of the stochastic modes: the R of each element in `words` (uint32, below 2**r, of x's shape), else
        those of `output_words(seed, i, j, r)`, r <= 16, where j counts along the last axis and i all the others.
    overflow
        ``saturate`` or ``ieee``.

    Returns
    -------
    Codes in the format's `code_dtype`, C-contiguous, of x's shape.
    """
    return quantise_flagged(x, fmt, rounding, seed=seed, words=words, scale=scale, overflow=overflow).codes


def quantise_flagged(
    x: npt.ArrayLike,
    fmt: Format | str,
    rounding: Rounding | str = NEAREST_EVEN,
    *,
    seed: int = 0,
    words: npt.NDArray[np.uint32] | None = None,
    scale: int = 0,
    overflow: str = "saturate",
    signed_zero: bool = True,
) -> Quantised:
    """As `quantise`, with the status flags; without `signed_zero` a zero is always +0, as a GEMM gives it."""
    fmt = get_format(fmt)
    mode = Rounding.parse(rounding) if isinstance(rounding, str) else rounding
    check_overflow(overflow)
    check_seed(seed)
    values = np.asarray(x)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"numbers to quantise must be real, not {values.dtype}")
    integers = values.dtype == np.int32 and LITTLE_ENDIAN and rounds(FLOAT64, fmt, mode, scale)
    if values.dtype not in (np.float32, np.float64) and not integers:
        values = values.astype(np.float64)
    if mode.is_stochastic:
        words = _check_words(words, values.shape, mode)
    source = FLOAT32 if values.dtype == np.float32 else FLOAT64
    if source is FLOAT32 and not rounds(source, fmt, mode, scale):
        with np.errstate(invalid="ignore"):  # the widening of a signalling NaN
            values, source = values.astype(np.float64), FLOAT64
    if not LITTLE_ENDIAN or not rounds(source, fmt, mode, scale):
        return _by_definition(values, fmt, mode, seed, words, scale, overflow, signed_zero)
    values = np.ascontiguousarray(values)
    codes = np.empty(values.shape, fmt.code_dtype)
    # Only Threefry needs to know of rows.
    columns = values.shape[-1] if mode.is_stochastic and words is None and values.ndim else values.size
    rows = values.size // columns if columns else 0
    flags = np.zeros(2, np.uint8)
    given_words = words is not None
    way = "plain"
    if isinstance(fmt, FloatFormat) and not given_words and is_quick(source, fmt, mode, scale):
        way = "aligned" if is_aligned(source, fmt, scale) else "quick"
    kernel = _kernel(source, fmt, mode, overflow, signed_zero, given_words, integers, way)
    kernel(
        address(values),
        address(codes),
        address(words) if given_words else 0,
        address(flags),
        rows,
        columns,
        seed & 0xFFFF_FFFF,
        seed >> 32,
        scale,
    )
    return Quantised(codes, bool(flags[0]), bool(flags[1]))


def _check_words(
    words: npt.NDArray[np.uint32] | None, shape: tuple[int, ...], mode: Rounding
) -> npt.NDArray[np.uint32] | None:
    if words is None:
        if mode.random_bits > MAX_OUTPUT_BITS:
            raise ValueError(f"from a seed come at most {MAX_OUTPUT_BITS} random bits, not {mode}: give words")
        return None
    if words.dtype != np.uint32 or words.shape != shape:
        raise ValueError(f"words must be uint32 of shape {shape}, not {words.dtype} of shape {words.shape}")
    if words.size and int(words.max()) >> mode.random_bits:
        raise ValueError(f"word {int(words.max())} is not below 2**{mode.random_bits}, as {mode} needs")
    return np.ascontiguousarray(words)


def _by_definition(
    values: npt.NDArray,
    fmt: Format,
    mode: Rounding,
    seed: int,
    words: npt.NDArray[np.uint32] | None,
    scale: int,
    overflow: str,
    signed_zero: bool,
) -> Quantised:
    """By the golden model: formats and scales that `rounds` leaves out."""
    if mode.is_stochastic and words is None:
        columns = values.shape[-1] if values.ndim else 1
        rows = values.size // columns if columns else 0
        words = output_words(seed, np.arange(rows), np.arange(columns), mode.random_bits).reshape(values.shape)
    exact = from_float64(values)
    codes, invalid, too_large = fmt.encode(exact._replace(exponent=exact.exponent + scale), mode, words, overflow)
    if not signed_zero:
        codes = fmt.without_minus_zero(codes)
    return Quantised(codes, bool(invalid.any()), bool(too_large.any()))


@lru_cache(maxsize=256)
def _kernel(
    source: Source,
    fmt: Format,
    mode: Rounding,
    overflow: str,
    signed_zero: bool,
    given_words: bool,
    integers: bool,
    way: str,
) -> Kernel:
    """Kernel over [rows, columns]: numbers, codes, words, flags, rows, columns, key low and high, scale.

    `integers`: the numbers are int32, taken as float64. `way`: ``plain``; ``quick``, all but codes
    beyond a limit by `QuickCodes`; ``aligned``, the same where `is_aligned`.
    """
    code = Code("quantise", "ppppiiiii")
    x, out, words, flags, rows, columns, low, high, scale = code.arguments
    element = {8: I8, 16: I16, 32: I32}[8 * fmt.container_bytes]
    number = I32 if integers else source.integer
    vector = ir.VectorType(source.integer, source.lanes)
    flag_vector = ir.VectorType(ir.IntType(1), source.lanes)
    key = code.spread(low.narrow(I32), BLOCK // 4), code.spread(high.narrow(I32), BLOCK // 4)
    scales = code.spread(scale.narrow(source.integer), source.lanes)
    x_tail, out_tail = code.buffer(number, BLOCK), code.buffer(element, BLOCK)
    words_tail = code.buffer(I32, BLOCK)
    for memory, kind in ((x_tail, number), (words_tail, I32)):
        zero = code.constant(kind, 0)
        code.loop(0, code.constant(I64, BLOCK), 1, [], lambda n, m=memory, z=zero: _store(code, z, m, n))
    halves_memory = code.buffer(I16, QUICK_BLOCK)
    random_from_seed = mode.is_stochastic and not given_words
    quickly = None
    if way != "plain":
        assert isinstance(fmt, FloatFormat)  # what is quick
        quickly = QuickCodes(source, fmt, mode, overflow, scales, aligned=way == "aligned")

    def load(base: Lanes, index: Lanes) -> Lanes:
        read = code.load(base, index, ir.VectorType(number, source.lanes))
        return read.to_float(F64).bits_as(vector) if integers else read

    def block(row: Lanes, size: int, column: Lanes, invalid: Lanes, too_large: Lanes) -> list[Lanes]:
        start = row * columns + column
        rest = columns - column
        zero = start.constant(0)
        whole = zero.less_signed(rest - (size - 1))
        count = whole.choose(zero, rest)
        code.copy(count, number, (x, start), (x_tail, zero))
        x_at = whole.choose(x, x_tail), whole.choose(start, zero)
        out_at = whole.choose(out, out_tail), whole.choose(start, zero)
        words_at = words, start
        halves: list[Lanes] = []
        if given_words:
            code.copy(count, I32, (words, start), (words_tail, zero))
            words_at = whole.choose(words, words_tail), whole.choose(start, zero)
        elif random_from_seed:
            halves = threefry_halves(code, key, code.spread(row.narrow(I32), BLOCK // 4), column, size // BLOCK)

        def group(first: Lanes, invalid: Lanes, too_large: Lanes) -> list[Lanes]:
            word = None
            if given_words:
                word = code.load(words_at[0], words_at[1] + first, ir.VectorType(I32, source.lanes))
            elif random_from_seed:
                half = code.load(halves_memory, first, ir.VectorType(I16, source.lanes))
                word = half >> (MAX_OUTPUT_BITS - mode.random_bits)
            result = round_lanes(
                load(x_at[0], x_at[1] + first),
                source,
                fmt,
                mode,
                overflow,
                scale=scales,
                word=word.widen(source.integer) if word else None,
                signed_zero=signed_zero,
            )
            code.store(result.codes.narrow(element), out_at[0], out_at[1] + first)
            return [invalid | result.invalid, too_large | result.overflow]

        def plainly(_: Lanes, invalid: Lanes, too_large: Lanes) -> list[Lanes]:
            for n, some in enumerate(halves):
                code.store(some, halves_memory, n * BLOCK)
            return code.loop(0, code.constant(I64, size), source.lanes, [invalid, too_large], group)

        if quickly is None:
            flags = plainly(zero, invalid, too_large)
        else:
            largest = _quick_block(code, quickly, size, halves, x_at, out_at, element, load, signed_zero=signed_zero)
            again = largest.at_least(quickly.limit).bits_as(ir.IntType(source.lanes)) > 0
            beyond = largest > largest.constant(quickly.fmt.max_code)
            never = beyond ^ beyond
            too_large = too_large | code.spread(again, source.lanes).choose(never, beyond)
            flags = code.loop(0, again.widen(I64), 1, [invalid, too_large], plainly)
        code.copy(count, element, (out_tail, zero), (out, start))
        return flags

    def each_row(row: Lanes, invalid: Lanes, too_large: Lanes) -> list[Lanes]:
        flags, most = [invalid, too_large], columns.constant(0)
        if quickly and random_from_seed:
            most = columns & -QUICK_BLOCK
            flags = code.loop(0, most, QUICK_BLOCK, flags, lambda column, *f: block(row, QUICK_BLOCK, column, *f))
        return code.loop(most, columns, BLOCK, flags, lambda column, *f: block(row, BLOCK, column, *f))

    never = code.constant(flag_vector, 0)
    found = code.loop(0, rows, 1, [never, never], each_row)
    for n, lanes in enumerate(found):
        whole = lanes.bits_as(ir.IntType(source.lanes))
        code.store((whole > 0).widen(I8), flags, n)
    return code.compile()


def _quick_block(
    code: Code,
    quickly: QuickCodes,
    size: int,
    halves: list[Lanes],
    x_at: tuple[Lanes, Lanes],
    out_at: tuple[Lanes, Lanes],
    element: ir.IntType,
    load: Callable[[Lanes, Lanes], Lanes],
    *,
    signed_zero: bool,
) -> Lanes:
    """Write one block; the largest codes that were met, before they were saturated."""
    lanes = quickly.source.lanes
    placed = [quickly.place_halves(some) for some in halves]
    largest = quickly.scale.constant(0)
    for first in range(0, size, lanes):
        bits = load(x_at[0], x_at[1] + first)
        half = None
        if placed:
            some, start = placed[first // BLOCK], first % BLOCK
            half = some.shuffle(some, range(start, start + lanes))
        found = quickly(bits, half)
        largest = (found > largest).choose(found, largest)
        code.store(quickly.signed(found, bits, signed_zero=signed_zero).narrow(element), out_at[0], out_at[1] + first)
    return largest


def _store(code: Code, value: Lanes, base: Lanes, index: Lanes) -> list[Lanes]:
    code.store(value, base, index)
    return []


def dequantise(codes: npt.ArrayLike, fmt: Format | str, dtype: npt.DTypeLike = np.float32) -> npt.NDArray:
    """The values of `codes` as float32 or float64 (float32 rounds what it does not hold: integers of 25 bits on)."""
    return get_format(fmt).to_float64(codes).astype(dtype)
