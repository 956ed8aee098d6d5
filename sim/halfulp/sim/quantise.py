"""Numbers to codes and back, at the speed of memory: equal to `Format.encode` and `Format.decode` in all codes."""

from __future__ import annotations

import sys
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
from halfulp.sim.rounding_code import BLOCK, FLOAT32, FLOAT64, SEGMENT, OutputHalves, Source, round_lanes, rounds
from halfulp.sim.step_tables import step_table, worth_a_table
from halfulp.sim.vector_code import F64, I1, I8, I16, I32, I64, Code, Kernel, Lanes, address

__all__ = ["Quantised", "dequantise", "quantise", "quantise_flagged"]

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
        narrow = np.asarray(x)  # float32 numbers have been widened to find that out
        if worth_a_table(narrow, fmt, mode):
            table = step_table(fmt, mode, scale, overflow, signed_zero)
            if table is not None:
                return Quantised(*table.encode(np.ascontiguousarray(narrow), fmt))
        return _by_definition(values, fmt, mode, seed, words, scale, overflow, signed_zero)
    values = np.ascontiguousarray(values)
    codes = np.empty(values.shape, fmt.code_dtype)
    # Only Threefry needs to know of rows.
    columns = values.shape[-1] if mode.is_stochastic and words is None and values.ndim else values.size
    rows = values.size // columns if columns else 0
    given_words = words is not None
    way = "plain"
    if isinstance(fmt, FloatFormat) and not given_words and is_quick(source, fmt, mode, scale):
        way = "aligned" if is_aligned(source, fmt, scale) else "quick"
    kernel = _kernel(source, fmt, mode, overflow, signed_zero, given_words, integers, way)
    flags = kernel(
        address(values),
        address(codes),
        address(words) if given_words else 0,
        rows,
        columns,
        seed & 0xFFFF_FFFF,
        seed >> 32,
        scale,
    )
    return Quantised(codes, bool(flags & 1), bool(flags & 2))


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
    """Kernel over [rows, columns]: numbers, codes, words, rows, columns, key low and high, scale.

    It gives the flags: 1, a NaN without a code; 2, a number beyond the largest. `integers`: the numbers are int32,
    taken as float64. `way`: ``plain``; ``quick``, all but codes beyond a limit by `QuickCodes`; ``aligned``, the same
    where `is_aligned`.
    """
    return _Quantiser(source, fmt, mode, overflow, signed_zero, given_words, integers, way).kernel


class _Quantiser:
    def __init__(
        self,
        source: Source,
        fmt: Format,
        mode: Rounding,
        overflow: str,
        signed_zero: bool,
        given_words: bool,
        integers: bool,
        way: str,
    ) -> None:
        self.source, self.fmt, self.mode, self.overflow, self.signed_zero = source, fmt, mode, overflow, signed_zero
        self.given_words, self.integers = given_words, integers
        self.code = code = Code("quantise", "pppiiiii")
        self.x, self.out, self.words, rows, self.columns, low, high, scale = code.arguments
        self.element = {8: I8, 16: I16, 32: I32}[8 * fmt.container_bytes]
        self.number = I32 if integers else source.integer
        self.scales = code.spread(scale.narrow(source.integer), source.lanes)
        self.x_tail, self.out_tail = code.buffer(self.number, BLOCK), code.buffer(self.element, BLOCK)
        self.words_tail = code.buffer(I32, BLOCK)
        for memory, kind in ((self.x_tail, self.number), (self.words_tail, I32)):
            zero = code.constant(kind, 0)
            code.loop(0, code.constant(I64, BLOCK), 1, [], lambda n, m=memory, z=zero: _store(code, z, m, n))
        self.quickly = None
        if way != "plain":
            assert isinstance(fmt, FloatFormat)  # what is quick
            self.quickly = QuickCodes(source, fmt, mode, overflow, self.scales, aligned=way == "aligned")
        self.halves = None
        if mode.is_stochastic and not given_words:
            place = self.quickly.place if self.quickly else (0xFFFF, 0)
            self.halves = OutputHalves(code, (low, high), place)
        never = code.constant(ir.VectorType(I1, source.lanes), 0)
        found = code.loop(0, rows, 1, [never, never], self._row)
        invalid, beyond = ((flag.bits_as(ir.IntType(source.lanes)) > 0).widen(I64) for flag in found)
        self.kernel = code.compile(invalid | (beyond << 1))

    def _row(self, row: Lanes, *flags: Lanes) -> list[Lanes]:
        code, columns = self.code, self.columns

        def segment(first: Lanes, *flags: Lanes) -> list[Lanes]:
            last = (first + SEGMENT).smaller_signed(columns)
            if self.halves is not None:
                self.halves.fill(row, first, last - first)
            return code.loop(first, last, BLOCK, flags, lambda column, *f: self._block(row, column, column - first, *f))

        if self.halves is not None:
            return code.loop(0, columns, SEGMENT, flags, segment)
        return code.loop(0, columns, BLOCK, flags, lambda column, *f: self._block(row, column, column, *f))

    def _block(self, row: Lanes, column: Lanes, at_half: Lanes, invalid: Lanes, too_large: Lanes) -> list[Lanes]:
        """`BLOCK` numbers, or what is left of a row, by way of the tails; the random halves begin `at_half`."""
        code, lanes = self.code, self.source.lanes
        start, rest, zero = row * self.columns + column, self.columns - column, column.constant(0)
        whole = zero.less_signed(rest - (BLOCK - 1))
        count = whole.choose(zero, rest)
        code.copy(count, self.number, (self.x, start), (self.x_tail, zero))
        at = whole.choose(start, zero)
        x, out, words = whole.choose(self.x, self.x_tail), whole.choose(self.out, self.out_tail), self.words
        if self.given_words:
            code.copy(count, I32, (words, start), (self.words_tail, zero))
            words = whole.choose(words, self.words_tail)

        def group(first: Lanes, invalid: Lanes, too_large: Lanes) -> list[Lanes]:
            word = None
            if self.given_words:
                word = code.load(words, at + first, ir.VectorType(I32, lanes))
            elif self.halves is not None:
                word = self.halves.load(at_half + first, lanes) >> (MAX_OUTPUT_BITS - self.mode.random_bits)
            result = round_lanes(
                self._load(x, at + first),
                self.source,
                self.fmt,
                self.mode,
                self.overflow,
                scale=self.scales,
                word=word.widen(self.source.integer) if word else None,
                signed_zero=self.signed_zero,
            )
            code.store(result.codes.narrow(self.element), out, at + first)
            return [invalid | result.invalid, too_large | result.overflow]

        def plainly(_: Lanes, *flags: Lanes) -> list[Lanes]:
            return code.loop(0, code.constant(I64, BLOCK), lanes, flags, group)

        if self.quickly is None:
            flags = plainly(zero, invalid, too_large)
        else:
            largest = self._quick_block(self.quickly, x, out, at, at_half)
            again = largest.at_least(self.quickly.limit).bits_as(ir.IntType(lanes)) > 0
            beyond = largest > largest.constant(self.quickly.fmt.max_code)
            never = beyond ^ beyond
            too_large = too_large | code.spread(again, lanes).choose(never, beyond)
            flags = code.loop(0, again.widen(I64), 1, [invalid, too_large], plainly)
        code.copy(count, self.element, (self.out_tail, zero), (self.out, start))
        return flags

    def _quick_block(self, quickly: QuickCodes, x: Lanes, out: Lanes, at: Lanes, at_half: Lanes) -> Lanes:
        """Write one block; the largest codes that were met, before they were saturated."""
        lanes = self.source.lanes
        largest = self.scales.constant(0)
        for first in range(0, BLOCK, lanes):
            bits = self._load(x, at + first)
            found = quickly(bits, None if self.halves is None else self.halves.load(at_half + first, lanes))
            largest = (found > largest).choose(found, largest)
            codes = quickly.signed(found, bits, signed_zero=self.signed_zero)
            self.code.store(codes.narrow(self.element), out, at + first)
        return largest

    def _load(self, base: Lanes, index: Lanes) -> Lanes:
        read = self.code.load(base, index, ir.VectorType(self.number, self.source.lanes))
        vector = ir.VectorType(self.source.integer, self.source.lanes)
        return read.to_float(F64).bits_as(vector) if self.integers else read


def _store(code: Code, value: Lanes, base: Lanes, index: Lanes) -> list[Lanes]:
    code.store(value, base, index)
    return []


def dequantise(codes: npt.ArrayLike, fmt: Format | str, dtype: npt.DTypeLike = np.float32) -> npt.NDArray:
    """The values of `codes` as float32 or float64 (float32 rounds what it does not hold: integers of 25 bits on)."""
    return get_format(fmt).to_float64(codes).astype(dtype)
