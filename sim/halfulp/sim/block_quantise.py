"""Numbers to blocks at the speed of memory: equal to `BlockFormat.quantise` in all codes, scales and flags.

Powers of two (E8M0) are taken from the exponent field of a block's largest magnitude; multiplying by their inverse is
exact but for results below 2**-126, which every mode rounds as it rounds any other number far below half the least
element. E4M3 scales need quotients: float64's, made odd where inexact, so that rounding them rounds the exact ones.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from halfulp.numerics.block_formats import E8M0_BIAS, BlockFormat, Blocks
from halfulp.numerics.formats import FixedPointFormat, Format, IntFormat, get_format
from halfulp.numerics.random_bits import MAX_OUTPUT_BITS, check_seed, output_words
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding
from halfulp.sim.llvm import ir
from halfulp.sim.rounding_code import FLOAT32, FLOAT64, Source, round_lanes, rounds, threefry_lanes
from halfulp.sim.vector_code import F32, F64, I1, I8, I16, I32, I64, Code, Kernel, Lanes, address, host_features

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
    random: npt.NDArray[np.unsignedinteger] | None = words
    if rounding.is_stochastic and words is None:
        random = _word_table(seed, values.size // values.shape[-1], values.shape[-1], rounding.random_bits)
        random = random.reshape(values.shape)
    length = values.shape[axis]
    count = fmt.block_count(length)
    numbers = _whole_blocks(values, np.float32 if source is FLOAT32 else np.float64, axis, count * fmt.block)
    if random is not None:
        random = _whole_blocks(random, random.dtype, axis, count * fmt.block)
    whole = fmt.tensor_scale(_largest(numbers) if fmt.scale == "e4m3" else 0.0, tensor_scale)
    codes = np.empty(numbers.shape, fmt.element.code_dtype)
    scales = np.empty((*numbers.shape[:-1], count), np.uint8)
    flags = np.zeros(2, np.uint8)
    constants = np.array([fmt.largest_element * whole, whole])
    wide_words = random is not None and random.dtype == np.uint32
    _kernel(source, fmt, rounding, wide_words)(
        address(numbers),
        address(codes),
        address(scales),
        address(random) if random is not None else 0,
        address(flags),
        address(_scale_table(source, fmt)),
        address(constants),
        scales.size,
    )
    kept = np.moveaxis(codes[..., :length], -1, axis)
    return Blocks(kept, np.moveaxis(scales, -1, axis), whole, bool(flags[0]), bool(flags[1]))


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
    """The largest finite magnitude."""
    low, high = float(x.min()), float(x.max())
    if np.isfinite(low) and np.isfinite(high):
        return max(-low, high)
    return float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))


@lru_cache(maxsize=8)
def _scale_table(source: Source, fmt: BlockFormat) -> npt.NDArray[np.floating]:
    """By scale code: the inverse of a power of two, in the source's lanes; the value of an E4M3 number in float64."""
    if fmt.scale == "e4m3":
        return fmt.scale_values
    inverse = np.ldexp(1.0, E8M0_BIAS - np.arange(256))
    return inverse.astype(np.float32 if source is FLOAT32 else np.float64)


@lru_cache(maxsize=64)
def _kernel(source: Source, fmt: BlockFormat, rounding: Rounding, wide_words: bool) -> Kernel:
    """Kernel over numbers, codes, scales, words, flags, table of scales, limit and tensor scale, and blocks."""
    return _BlockQuantiser(source, fmt, rounding, wide_words).compile()


class _BlockQuantiser:
    def __init__(self, source: Source, fmt: BlockFormat, rounding: Rounding, wide_words: bool) -> None:
        self.source = source
        self.fmt = fmt
        self.rounding = rounding
        self.element, self.shift = _kernel_element(fmt.element)
        self.word = I32 if wide_words else I16
        self.float = F32 if source is FLOAT32 else F64
        self.floats = ir.VectorType(self.float, source.lanes)
        self.integers = ir.VectorType(source.integer, source.lanes)
        self.code = Code("quantise_blocks", "pppppppi")

    def compile(self) -> Kernel:
        code = self.code
        flags, count = code.arguments[4], code.arguments[7]
        never = code.constant(ir.VectorType(I1, self.source.lanes), 0)
        found = code.loop(0, count, 1, [code.constant(I8, 0), never], self._block)
        code.store(found[0], flags, 0)
        code.store((found[1].bits_as(ir.IntType(self.source.lanes)) > 0).widen(I8), flags, 1)
        return code.compile()

    def _block(self, n: Lanes, invalid: Lanes, overflow: Lanes) -> list[Lanes]:
        code, source, fmt = self.code, self.source, self.fmt
        numbers, codes, scales, words = code.arguments[:4]
        at = [n * fmt.block + first for first in range(0, fmt.block, source.lanes)]
        bits = [code.load(numbers, k, self.integers) for k in at]
        largest = self._largest(bits)
        infinity = ((1 << (source.width - 1 - source.fraction_bits)) - 1) << source.fraction_bits
        special = largest > infinity - 1
        power, quotient = self._scale(largest)
        scale = special.choose(power.constant(fmt.nan_scale), power)
        code.store(scale.narrow(I8), scales, n)
        no_shift = code.constant(self.integers, self.shift)
        never = code.spread(special, source.lanes)
        container = {1: I8, 2: I16}[fmt.element.container_bytes]
        for k, x in zip(at, bits, strict=True):
            word = None
            if self.rounding.is_stochastic:
                word = code.load(words, k, ir.VectorType(self.word, source.lanes)).widen(source.integer)
            scaled = quotient(x.bits_as(self.floats))
            rounded = round_lanes(
                scaled.bits_as(self.integers),
                source,
                self.element,
                self.rounding,
                "saturate",
                scale=no_shift,
                word=word,
            )
            code.store(never.choose(rounded.codes.constant(0), rounded.codes).narrow(container), codes, k)
            overflow = overflow | (rounded.overflow & ~never)
        return [invalid | special.widen(I8), overflow]

    def _largest(self, bits: list[Lanes]) -> Lanes:
        """The largest magnitude of a block as the integer of its bits; beyond those of infinity where one is NaN."""
        mask = (1 << (self.source.width - 1)) - 1
        most = bits[0] & mask
        for x in bits[1:]:
            magnitude = x & mask
            most = (most < magnitude).choose(magnitude, most)
        name = f"llvm.vector.reduce.umax.v{self.source.lanes}i{self.source.width}"
        return self.code.intrinsic(name, self.source.integer, most)

    def _scale(self, largest: Lanes):
        """The scale's code, and what divides by it."""
        code, source, fmt = self.code, self.source, self.fmt
        table, constants = code.arguments[5:7]
        if fmt.scale == "e8m0":
            field = largest >> source.fraction_bits
            power = field - (source.bias - E8M0_BIAS + fmt.element_exponent)
            power = power.larger_signed(0).smaller_signed(2 * E8M0_BIAS)
            inverse = code.spread(code.load(table, power.widen(I64), self.float), source.lanes)
            return power, lambda x: x * inverse
        limit, whole = (code.load(constants, i, F64) for i in range(2))
        amax = largest.bits_as(F64)
        scaled = self._odd_quotient(amax, limit).bits_as(I64)
        e4m3 = get_format("float8_e4m3fn")
        power = round_lanes(
            scaled, FLOAT64, e4m3, NEAREST_EVEN, "saturate", scale=code.constant(I64, 0), word=None
        ).codes
        value = code.load(table, power, F64)
        zero = code.spread(value.equals(0.0), source.lanes)
        divisor = code.spread(value * whole, source.lanes)
        return power, lambda x: zero.choose(x * 0.0, self._odd_quotient(x, divisor))

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
