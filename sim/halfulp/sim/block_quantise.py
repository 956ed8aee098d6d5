"""Numbers to blocks at the speed of memory: equal to `BlockFormat.quantise` in all codes, scales and flags.

Powers of two (E8M0) are taken from the exponent field of a block's largest magnitude; multiplying by their inverse is
exact but for results below 2**-126, which every mode rounds as it rounds any other number far below half the least
element. E4M3 scales need quotients: float64's, made odd where inexact, so that rounding them rounds the exact ones.

Blocks along the last axis lie in vectors one after another; along any other axis each lane has a block of its own.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt

from halfulp.numerics.block_formats import E8M0_BIAS, BlockFormat, Blocks
from halfulp.numerics.formats import FixedPointFormat, FloatFormat, Format, IntFormat, get_format
from halfulp.numerics.random_bits import MAX_OUTPUT_BITS, check_seed, output_words
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding
from halfulp.sim.llvm import ir
from halfulp.sim.quick_code import QuickCodes, is_aligned, is_quick
from halfulp.sim.rounding_code import FLOAT32, FLOAT64, Source, round_lanes, rounds, threefry_lanes
from halfulp.sim.vector_code import F32, F64, I1, I8, I16, I32, I64, Code, Kernel, Lanes, address, host_features

__all__ = ["quantise_blocks"]

E4M3 = cast(FloatFormat, get_format("float8_e4m3fn"))

VECTORS_ACROSS = 4
"""Vectors of neighbouring blocks that are done at a time along other axes than the last."""

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
    random: npt.NDArray[np.unsignedinteger] | None = words
    if rounding.is_stochastic and words is None:
        random = _word_table(seed, values.size // values.shape[-1], values.shape[-1], rounding.random_bits)
        random = random.reshape(values.shape)
    length = values.shape[axis]
    axis = axis % values.ndim
    outer, inner = math.prod(values.shape[:axis]), math.prod(values.shape[axis + 1 :])
    count = fmt.block_count(length)
    across = inner >= source.lanes
    if not across:
        values = _whole_blocks(values, values.dtype, axis, count * fmt.block)
        random = random if random is None else _whole_blocks(random, random.dtype, axis, count * fmt.block)
    # No arithmetic of float16; float64 lanes take float32 numbers as they are.
    with np.errstate(invalid="ignore"):  # the widening of a signalling NaN
        numbers = np.ascontiguousarray(values, np.float64 if values.dtype == np.float64 else np.float32)
    random = random if random is None else np.ascontiguousarray(random)
    whole = fmt.tensor_scale(_largest(numbers) if fmt.scale == "e4m3" else 0.0, tensor_scale)
    codes = np.empty(numbers.shape, fmt.element.code_dtype)
    scales = np.empty((outer, count, inner) if across else (outer * inner, count), np.uint8)
    flags = np.zeros(2, np.uint8)
    constants = np.array([fmt.largest_element * whole, whole])
    wide_words = random is not None and random.dtype == np.uint32
    _kernel(source, fmt, rounding, wide_words, numbers.dtype == np.float64, across)(
        address(numbers),
        address(codes),
        address(scales),
        address(random) if random is not None else 0,
        address(flags),
        address(constants),
        outer if across else scales.size,
        count,
        length,
        inner,
    )
    if across:
        scales = scales.reshape(*values.shape[:axis], count, *values.shape[axis + 1 :])
    else:
        codes = np.moveaxis(codes[..., :length], -1, axis)
        scales = np.moveaxis(scales.reshape(*numbers.shape[:-1], count), -1, axis)
    return Blocks(codes, scales, whole, bool(flags[0]), bool(flags[1]))


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
    element, scale = _kernel_element(fmt.element)
    if fmt.block % source.lanes or not rounds(source, element, rounding, scale):
        return False
    if fmt.scale == "e8m0":
        return fmt.element_exponent >= 0  # so that subnormal largest magnitudes have the least scale
    return not fmt.element.has_inf and "fma" in host_features()


def _kernel_element(element: Format) -> tuple[Format, int]:
    """What elements are rounded as, and the power of two that they are multiplied by before."""
    if isinstance(element, FixedPointFormat):  # an integer in units of its last bit: the same codes
        return IntFormat(f"int{element.bits}", element.bits), -element.lsb_exponent
    return element, 0


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
        return [((magnitude > largest) & (magnitude < _infinity(source))).choose(magnitude, largest)]

    vector = ir.VectorType(source.integer, source.lanes)
    whole = count & -source.lanes
    start = [code.constant(vector, 0)]
    (most,) = code.loop(0, whole, source.lanes, start, lambda n, x: seen(code.load(numbers, n, vector), x))
    one = code.intrinsic(f"llvm.vector.reduce.umax.v{source.lanes}i{source.width}", source.integer, most)
    (one,) = code.loop(whole, count, 1, [one], lambda n, x: seen(code.load(numbers, n, source.integer), x))
    code.store(one.widen(I64), found, 0)
    return code.compile()


def _infinity(source: Source) -> int:
    return ((1 << (source.width - 1 - source.fraction_bits)) - 1) << source.fraction_bits


@lru_cache(maxsize=64)
def _kernel(
    source: Source, fmt: BlockFormat, rounding: Rounding, wide_words: bool, wide_numbers: bool, across: bool
) -> Kernel:
    """Kernel over numbers, codes, scales, words, flags, limit and tensor scale, and four sizes.

    `across`: [outer, length, inner] numbers with blocks along the second axis, and the sizes outer, blocks of length,
    length, inner, of at least as many as a vector has; else whole blocks one after another, and their number first.
    """
    return _BlockQuantiser(source, fmt, rounding, wide_words, wide_numbers).compile(across=across)


class _BlockQuantiser:
    def __init__(
        self, source: Source, fmt: BlockFormat, rounding: Rounding, wide_words: bool, wide_numbers: bool
    ) -> None:
        self.source = source
        self.fmt = fmt
        self.rounding = rounding
        self.element, self.shift = _kernel_element(fmt.element)
        self.word = I32 if wide_words else I16
        self.number = F64 if wide_numbers else F32
        self.float = F32 if source is FLOAT32 else F64
        self.floats = ir.VectorType(self.float, source.lanes)
        self.integers = ir.VectorType(source.integer, source.lanes)
        self.container = {1: I8, 2: I16}[fmt.element.container_bytes]
        self.code = Code("quantise_blocks", "ppppppiiii")
        self.no_shift = self.code.constant(self.integers, self.shift)
        self.quickly = None
        few_bits = rounding.random_bits <= MAX_OUTPUT_BITS
        if isinstance(self.element, FloatFormat) and few_bits and is_quick(source, self.element, rounding, self.shift):
            aligned = is_aligned(source, self.element, self.shift)
            self.quickly = QuickCodes(source, self.element, rounding, "saturate", self.no_shift, aligned=aligned)

    def compile(self, *, across: bool) -> Kernel:
        code = self.code
        flags, outer = code.arguments[4], code.arguments[6]
        never = code.constant(ir.VectorType(I1, self.source.lanes), 0)
        found = code.loop(0, outer, 1, [never, never], self._blocks_across if across else self._block)
        for n, lanes in enumerate(found):
            code.store((lanes.bits_as(ir.IntType(self.source.lanes)) > 0).widen(I8), flags, n)
        return code.compile()

    def _block(self, n: Lanes, invalid: Lanes, overflow: Lanes) -> list[Lanes]:
        """Block n of those that lie one after another."""
        code, source, block = self.code, self.source, self.fmt.block
        at = [n * block + first for first in range(0, block, source.lanes)]
        bits = [self._load(k) for k in at]
        most = bits[0] & self._magnitudes
        for x in bits[1:]:
            most = self._larger(most, x)
        name = f"llvm.vector.reduce.umax.v{source.lanes}i{source.width}"
        scale, divisor, special = self._scale(code.intrinsic(name, source.integer, most))
        code.store(scale.narrow(I8), code.arguments[2], n)
        never, divisors = code.spread(special, source.lanes), code.spread(divisor, source.lanes)
        for k, x in zip(at, bits, strict=True):
            overflow = overflow | self._put(k, x, divisors, never)
        return [invalid | never, overflow]

    def _blocks_across(self, o: Lanes, invalid: Lanes, overflow: Lanes) -> list[Lanes]:
        """All blocks of one [length, inner], as many as there are lanes in a few vectors at a time."""
        code, lanes = self.code, self.source.lanes
        scales, blocks, length, inner = (code.arguments[n] for n in (2, 7, 8, 9))
        # Several neighbours in a row: memory is read in longer runs.
        wide = inner & -(VECTORS_ACROSS * lanes)

        def group(n: Lanes, first: Lanes, count: int, invalid: Lanes, overflow: Lanes) -> list[Lanes]:
            # The last group of columns may overlap the one before, and gives the same again.
            columns = [(first + v * lanes).smaller_signed(inner - lanes) for v in range(count)]
            start = n * self.fmt.block
            stop = (start + self.fmt.block).smaller_signed(length)

            def larger(row: Lanes, *most: Lanes) -> list[Lanes]:
                at = (o * length + row) * inner
                return [self._larger(m, self._load(at + column)) for m, column in zip(most, columns, strict=True)]

            found = code.loop(start, stop, 1, [code.constant(self.integers, 0)] * count, larger)
            of_blocks = [self._scale(most) for most in found]
            for (scale, _, special), column in zip(of_blocks, columns, strict=True):
                code.store(scale.narrow(I8), scales, (o * blocks + n) * inner + column)
                invalid = invalid | special

            def put(row: Lanes, flag: Lanes) -> list[Lanes]:
                at = (o * length + row) * inner
                for (_, divisor, special), column in zip(of_blocks, columns, strict=True):
                    flag = flag | self._put(at + column, self._load(at + column), divisor, special)
                return [flag]

            return [invalid, *code.loop(start, stop, 1, [overflow], put)]

        def each(n: Lanes, *flags: Lanes) -> list[Lanes]:
            step = VECTORS_ACROSS * lanes
            flags = tuple(code.loop(0, wide, step, flags, lambda column, *f: group(n, column, VECTORS_ACROSS, *f)))
            return code.loop(wide, inner, lanes, flags, lambda column, *f: group(n, column, 1, *f))

        return code.loop(0, blocks, 1, [invalid, overflow], each)

    @property
    def _magnitudes(self) -> int:
        return (1 << (self.source.width - 1)) - 1

    def _load(self, at: Lanes) -> Lanes:
        """The bits of a vector of numbers, in the lanes' own floats."""
        read = self.code.load(self.code.arguments[0], at, ir.VectorType(self.number, self.source.lanes))
        return read.widen_float(self.float).bits_as(self.integers)

    def _larger(self, most: Lanes, bits: Lanes) -> Lanes:
        """The larger magnitude as the integer of its bits; beyond those of infinity where one is NaN."""
        magnitude = bits & self._magnitudes
        return (most < magnitude).choose(magnitude, most)

    def _scale(self, largest: Lanes) -> tuple[Lanes, Lanes, Lanes]:
        """The scale's code, what `_put` divides by (of a power of two: its inverse), and whether there is a special."""
        source, fmt = self.source, self.fmt
        special = largest > _infinity(source) - 1
        floats = largest.fits(self.float)
        if fmt.scale == "e8m0":
            field = largest >> source.fraction_bits
            power = field - (source.bias - E8M0_BIAS + fmt.element_exponent)
            power = power.larger_signed(0).smaller_signed(2 * E8M0_BIAS)
            inverse = (power.constant(source.bias + E8M0_BIAS) - power) << source.fraction_bits
            if source is FLOAT32:  # whose 2**-127 is subnormal
                inverse = inverse.equals(0).choose(inverse.constant(1 << (source.fraction_bits - 1)), inverse)
            return special.choose(power.constant(fmt.nan_scale), power), inverse.bits_as(floats), special
        limit, whole = (self._constant(n, largest) for n in range(2))
        scaled = self._odd_quotient(largest.bits_as(floats), limit).bits_as(largest.type)
        no_shift = largest.constant(0)
        power = round_lanes(scaled, FLOAT64, E4M3, NEAREST_EVEN, "saturate", scale=no_shift, word=None).codes
        least_normal = 1 << E4M3.mantissa_bits
        rebiased = power + ((source.bias - E4M3.bias) << E4M3.mantissa_bits)
        normal = (rebiased << (source.fraction_bits - E4M3.mantissa_bits)).bits_as(floats)
        value = (power < least_normal).choose(power.to_float(F64) * 2.0**E4M3.lsb_exponent, normal)
        return special.choose(power.constant(fmt.nan_scale), power), value * whole, special

    def _constant(self, n: int, like: Lanes) -> Lanes:
        """The float64 constant of that number, in as many lanes as `like` has."""
        scalar = self.code.load(self.code.arguments[5], n, F64)
        return self.code.spread(scalar, like.type.count) if isinstance(like.type, ir.VectorType) else scalar

    def _put(self, at: Lanes, bits: Lanes, divisor: Lanes, never: Lanes) -> Lanes:
        """Round and store a vector of numbers; which are beyond the largest element."""
        code, source = self.code, self.source
        word = None
        if self.rounding.is_stochastic:
            word = code.load(code.arguments[3], at, ir.VectorType(self.word, source.lanes))
        x = bits.bits_as(self.floats)
        if self.fmt.scale == "e8m0":
            scaled = x * divisor
        else:
            scaled = divisor.equals(0.0).choose(x * 0.0, self._odd_quotient(x, divisor))
        scaled = scaled.bits_as(self.integers)
        if self.quickly is not None:
            half = None
            if word is not None:
                half = self.quickly.place_halves(word.narrow(I16) << (MAX_OUTPUT_BITS - self.rounding.random_bits))
            found = self.quickly(scaled, half)
            beyond = found > self.quickly.fmt.max_code
            codes = self.quickly.signed(found, scaled, signed_zero=True)
        else:
            codes, _, beyond = round_lanes(
                scaled,
                source,
                self.element,
                self.rounding,
                "saturate",
                scale=self.no_shift,
                word=word.widen(source.integer) if word is not None else None,
            )
        code.store(never.choose(codes.constant(0), codes).narrow(self.container), code.arguments[1], at)
        return beyond & ~never

    def _odd_quotient(self, x: Lanes, y: Lanes) -> Lanes:
        """X / y for y > 0, made odd where inexact; the rest of an even one says to which side it is to move."""
        quotient = x / y
        bits = quotient.bits_as(quotient.fits(I64))
        rest = self.code.fma(quotient.constant(0.0) - quotient, y, x)
        inexact = (rest > 0.0) | (rest < 0.0)
        inward = (rest.bits_as(bits.type) ^ bits).less_signed(0)
        moved = inward.choose(bits - 1, bits + 1)
        return (inexact & (bits & 1).equals(0)).choose(moved, bits).bits_as(quotient.type)


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
