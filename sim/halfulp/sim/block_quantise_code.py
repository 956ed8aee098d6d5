"""Kernels that quantise numbers to blocks: a block's largest magnitude, its scale, then each element times its inverse.

Along the last axis the largest magnitudes of as many blocks as a vector has lanes are brought into one vector, so that
their scales are found together. Along any other axis each lane has a block of its own: rows are read one after another,
once for the largest magnitudes and, from the cache, once more.

E8M0's powers of two are taken from the exponent field of the largest magnitude; multiplying by their inverse is exact
but for results below 2**-126, which every mode rounds as it rounds any other number far below half the least element.
E4M3 scales need quotients: float64's, made odd where inexact, so that rounding them rounds the exact ones.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

from halfulp.numerics.block_formats import E8M0_BIAS, BlockFormat
from halfulp.numerics.formats import FixedPointFormat, FloatFormat, Format, IntFormat, get_format
from halfulp.numerics.random_bits import MAX_OUTPUT_BITS
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding
from halfulp.sim.llvm import ir
from halfulp.sim.quick_code import QuickCodes, is_aligned, is_quick
from halfulp.sim.rounding_code import FLOAT32, FLOAT64, SEGMENT, OutputHalves, Source, round_lanes
from halfulp.sim.vector_code import F32, F64, I8, I16, I32, I64, Code, Kernel, Lanes

__all__ = ["CHUNK", "across_kernel", "along_kernel", "infinity", "kernel_element"]

E4M3 = cast(FloatFormat, get_format("float8_e4m3fn"))

CHUNK = 2048
"""Columns whose blocks are done at a time along other axes than the last: they stay in the cache between two passes."""

WORDS = ("none", "seed", "16", "32")
"""Where random bits come from: nowhere, the kernel's own generator, or a table of words of so many bits."""


def kernel_element(element: Format) -> tuple[Format, int]:
    """What elements are rounded as, and the power of two that they are multiplied by before."""
    if isinstance(element, FixedPointFormat):  # an integer in units of its last bit: the same codes
        return IntFormat(f"int{element.bits}", element.bits), -element.lsb_exponent
    return element, 0


def infinity(source: Source) -> int:
    """The bits of a lane that is infinite."""
    return ((1 << (source.width - 1 - source.fraction_bits)) - 1) << source.fraction_bits


@lru_cache(maxsize=64)
def along_kernel(source: Source, fmt: BlockFormat, rounding: Rounding, words: str, wide_numbers: bool) -> Kernel:
    """Kernel over numbers, codes, scales, words, limit and tensor scale, rows, blocks of a row, key low and high.

    Rows are of whole blocks, one after another. It gives the flags: 1, a NaN or infinity; 2, an element beyond the
    largest.
    """
    return _Along(source, fmt, rounding, words, wide_numbers).compile()


@lru_cache(maxsize=64)
def across_kernel(source: Source, fmt: BlockFormat, rounding: Rounding, words: str, wide_numbers: bool) -> Kernel:
    """Kernel over the same pointers, then outer, blocks, length, inner, key low and high; it gives the same flags.

    Numbers are [outer, length, inner] with blocks along the second axis; inner is at least a vector's lanes and, where
    words come from the kernel's own generator, a multiple of them: then rows are those of the first two axes.
    """
    return _Across(source, fmt, rounding, words, wide_numbers).compile()


class _BlockQuantiser:
    """What both kernels do to a vector of numbers."""

    def __init__(
        self, source: Source, fmt: BlockFormat, rounding: Rounding, words: str, wide_numbers: bool, sizes: int
    ) -> None:
        self.source, self.fmt, self.rounding, self.words = source, fmt, rounding, words
        self.element, self.shift = kernel_element(fmt.element)
        self.number = F64 if wide_numbers else F32
        self.float = F32 if source is FLOAT32 else F64
        self.floats = ir.VectorType(self.float, source.lanes)
        self.integers = ir.VectorType(source.integer, source.lanes)
        self.container = {1: I8, 2: I16}[fmt.element.container_bytes]
        self.code = code = Code("quantise_blocks", "ppppp" + "i" * (sizes + 2))
        self.numbers, self.codes, self.scales, self.random, self.constants, *self.sizes = code.arguments
        *_, low, high = self.sizes
        self.no_shift = code.constant(self.integers, self.shift)
        self.zero = code.constant(self.integers, 0)
        self.quickly = None
        few_bits = rounding.random_bits <= MAX_OUTPUT_BITS
        if isinstance(self.element, FloatFormat) and few_bits and is_quick(source, self.element, rounding, self.shift):
            aligned = is_aligned(source, self.element, self.shift)
            self.quickly = QuickCodes(source, self.element, rounding, "saturate", self.no_shift, aligned=aligned)
        self.halves = None
        if words == "seed":
            self.halves = OutputHalves(code, (low, high), self.quickly.place if self.quickly else (0xFFFF, 0))

    def finish(self, invalid: Lanes, most: Lanes) -> Kernel:
        """End the kernel with the flags; `invalid` lanes are not 0, `most` as `put` gives it."""
        limit = self.quickly.fmt.max_code if self.quickly else 0
        bits = [lanes.bits_as(ir.IntType(self.source.lanes)) > 0 for lanes in (invalid > 0, most > limit)]
        return self.code.compile(bits[0].widen(I64) | (bits[1].widen(I64) << 1))

    def load(self, at: Lanes) -> Lanes:
        """The bits of a vector of numbers, in the lanes' own floats."""
        read = self.code.load(self.numbers, at, ir.VectorType(self.number, self.source.lanes))
        return read.widen_float(self.float).bits_as(self.integers)

    def magnitude(self, bits: Lanes) -> Lanes:
        """The magnitude as the integer of its bits; beyond those of infinity where it is NaN."""
        return bits & ((1 << (self.source.width - 1)) - 1)

    def scale(self, largest: Lanes) -> tuple[Lanes, Lanes, Lanes]:
        """The scale's code, what `put` divides by (of a power of two: its inverse), and the bits of numbers to keep.

        Of blocks with a NaN or infinity none.
        """
        source, fmt = self.source, self.fmt
        special = largest > infinity(source) - 1
        keep = special.choose(largest.constant(0), largest.constant(-1))
        floats = largest.fits(self.float)
        if fmt.scale == "e8m0":
            field = largest >> source.fraction_bits
            power = field - (source.bias - E8M0_BIAS + fmt.element_exponent)
            power = power.larger_signed(0).smaller_signed(2 * E8M0_BIAS)
            inverse = (power.constant(source.bias + E8M0_BIAS) - power) << source.fraction_bits
            if source is FLOAT32:  # whose 2**-127 is subnormal
                inverse = inverse.equals(0).choose(inverse.constant(1 << (source.fraction_bits - 1)), inverse)
            return special.choose(power.constant(fmt.nan_scale), power), inverse.bits_as(floats), keep
        limit, whole = (self._constant(n, largest) for n in range(2))
        scaled = self._odd_quotient(largest.bits_as(floats), limit).bits_as(largest.type)
        no_shift = largest.constant(0)
        power = round_lanes(scaled, FLOAT64, E4M3, NEAREST_EVEN, "saturate", scale=no_shift, word=None).codes
        least_normal = 1 << E4M3.mantissa_bits
        rebiased = power + ((source.bias - E4M3.bias) << E4M3.mantissa_bits)
        normal = (rebiased << (source.fraction_bits - E4M3.mantissa_bits)).bits_as(floats)
        value = (power < least_normal).choose(power.to_float(F64) * 2.0**E4M3.lsb_exponent, normal)
        divisor = special.choose(value.constant(1.0), value * whole)
        return special.choose(power.constant(fmt.nan_scale), power), divisor, keep

    def _constant(self, n: int, like: Lanes) -> Lanes:
        """The float64 constant of that number, in as many lanes as `like` has."""
        scalar = self.code.load(self.constants, n, F64)
        return self.code.spread(scalar, like.type.count) if isinstance(like.type, ir.VectorType) else scalar

    def put(self, at: Lanes, at_half: Lanes, divisor: Lanes, keep: Lanes, most: Lanes) -> Lanes:
        """Round and store the vector of numbers `at` a place; beyond the largest code in a lane where an element was.

        `at_half`: where its random bits are in `halves`.
        """
        code, source = self.code, self.source
        x = (self.load(at) & keep).bits_as(self.floats)
        if self.fmt.scale == "e8m0":
            scaled = x * divisor
        else:
            scaled = divisor.equals(0.0).choose(x * 0.0, self._odd_quotient(x, divisor))
        bits = scaled.bits_as(self.integers)
        if self.quickly is not None:
            found = self.quickly(bits, self._placed_half(self.quickly, at, at_half))
            codes = self.quickly.signed(found, bits, signed_zero=True)
            most = (found > most).choose(found, most)
        else:
            word = self._word(at, at_half)
            codes, _, beyond = round_lanes(
                bits,
                source,
                self.element,
                self.rounding,
                "saturate",
                scale=self.no_shift,
                word=word.widen(source.integer) if word is not None else None,
            )
            most = beyond.choose(most.constant(1), most)
        code.store(codes.narrow(self.container), self.codes, at)
        return most

    def _word(self, at: Lanes, at_half: Lanes) -> Lanes | None:
        """The random bits of a vector of numbers as they are."""
        if self.halves is not None:
            return self.halves.load(at_half, self.source.lanes) >> (MAX_OUTPUT_BITS - self.rounding.random_bits)
        if self.words == "none":
            return None
        return self.code.load(self.random, at, ir.VectorType(I16 if self.words == "16" else I32, self.source.lanes))

    def _placed_half(self, quickly: QuickCodes, at: Lanes, at_half: Lanes) -> Lanes | None:
        if self.halves is not None:
            return self.halves.load(at_half, self.source.lanes)
        word = self._word(at, at_half)
        if word is None:
            return None
        return quickly.place_halves(word.narrow(I16) << (MAX_OUTPUT_BITS - self.rounding.random_bits))

    def _odd_quotient(self, x: Lanes, y: Lanes) -> Lanes:
        """X / y for y > 0, made odd where inexact; the rest of an even one says to which side it is to move."""
        quotient = x / y
        bits = quotient.bits_as(quotient.fits(I64))
        rest = self.code.fma(quotient.constant(0.0) - quotient, y, x)
        inexact = (rest > 0.0) | (rest < 0.0)
        inward = (rest.bits_as(bits.type) ^ bits).less_signed(0)
        moved = inward.choose(bits - 1, bits + 1)
        return (inexact & (bits & 1).equals(0)).choose(moved, bits).bits_as(quotient.type)


class _Along(_BlockQuantiser):
    def __init__(self, source: Source, fmt: BlockFormat, rounding: Rounding, words: str, wide_numbers: bool) -> None:
        super().__init__(source, fmt, rounding, words, wide_numbers, 2)
        self.rows, self.blocks = self.sizes[:2]
        # Of the blocks whose scales are found together.
        self.divisors = self.code.buffer(self.float, source.lanes)
        self.keeps = self.code.buffer(source.integer, source.lanes)

    def compile(self) -> Kernel:
        code, block = self.code, self.fmt.block
        width = self.blocks * block

        def row(r: Lanes, *flags: Lanes) -> list[Lanes]:
            def segment(first: Lanes, *flags: Lanes) -> list[Lanes]:
                last = (first + SEGMENT).smaller_signed(width)
                if self.halves is not None:
                    self.halves.fill(r, first, last - first)
                group = block * self.source.lanes
                most = first + ((last - first) & -group)
                found = code.loop(first, most, group, flags, lambda at, *f: self._group(r, at, at - first, *f))
                return code.loop(most, last, block, found, lambda at, *f: self._single(r, at, at - first, *f))

            return code.loop(0, width, SEGMENT, flags, segment)

        return self.finish(*code.loop(0, self.rows, 1, [self.zero, self.zero], row))

    def _group(self, row: Lanes, column: Lanes, at_half: Lanes, invalid: Lanes, most: Lanes) -> list[Lanes]:
        """As many blocks as there are lanes."""
        code, lanes, block = self.code, self.source.lanes, self.fmt.block
        first = (row * self.blocks) * block + column
        of_blocks = []
        for n in range(lanes):
            found = self.zero
            for place in range(0, block, lanes):
                magnitude = self.magnitude(self.load(first + n * block + place))
                found = (found < magnitude).choose(magnitude, found) if place else magnitude
            of_blocks.append(found)
        scale, divisor, keep = self.scale(_largest_of_each(of_blocks))
        at_scale = row * self.blocks + _divided(column, block)
        code.store(scale.narrow(I8), self.scales, at_scale)
        code.store(divisor, self.divisors, 0)
        code.store(keep, self.keeps, 0)
        stop = column.constant(lanes)
        (most,) = code.loop(0, stop, 1, [most], lambda n, m: [self._put_block(first, at_half, n, m)])
        return [invalid | ~keep, most]

    def _single(self, row: Lanes, column: Lanes, at_half: Lanes, invalid: Lanes, most: Lanes) -> list[Lanes]:
        """One block of what is left of a row."""
        code, source, block = self.code, self.source, self.fmt.block
        first = (row * self.blocks) * block + column
        found = self.zero
        for place in range(0, block, source.lanes):
            magnitude = self.magnitude(self.load(first + place))
            found = (found < magnitude).choose(magnitude, found)
        name = f"llvm.vector.reduce.umax.v{source.lanes}i{source.width}"
        scale, divisor, keep = self.scale(code.intrinsic(name, source.integer, found))
        code.store(scale.narrow(I8), self.scales, row * self.blocks + _divided(column, block))
        code.store(divisor, self.divisors, 0)
        code.store(keep, self.keeps, 0)
        most = self._put_block(first, at_half, column.constant(0), most)
        return [invalid | ~code.spread(keep, source.lanes), most]

    def _put_block(self, first: Lanes, at_half: Lanes, n: Lanes, most: Lanes) -> Lanes:
        """Block n of a group."""
        code, source, block = self.code, self.source, self.fmt.block
        divisor = code.spread(code.load(self.divisors, n, self.float), source.lanes)
        keep = code.spread(code.load(self.keeps, n, source.integer), source.lanes)
        for place in range(0, block, source.lanes):
            at = n * block + place
            # A group is read twice in a row, then nothing for long: what is next is asked for in between.
            code.prefetch(self.numbers, first + at + block * source.lanes, self.number)
            most = self.put(first + at, at_half + at, divisor, keep, most)
        return most


def _divided(column: Lanes, block: int) -> Lanes:
    """Columns in whole blocks, counted in blocks; a power of two, as `can` has it."""
    return column >> (block.bit_length() - 1)


def _largest_of_each(vectors: list[Lanes]) -> Lanes:
    """The largest lane of each of as many vectors as they have lanes: neighbours first, then ever longer runs."""
    size, step = len(vectors), 1
    while step < size:
        swapped = [lane ^ step for lane in range(size)]
        stays = [lane if not lane & step else size + lane for lane in range(size)]
        moves = [swapped[lane] if not lane & step else size + swapped[lane] for lane in range(size)]
        new = []
        for x, y in zip(vectors[::2], vectors[1::2], strict=True):
            one, other = x.shuffle(y, stays), x.shuffle(y, moves)
            new.append((one < other).choose(other, one))
        vectors, step = new, 2 * step
    return vectors[0]


class _Across(_BlockQuantiser):
    def __init__(self, source: Source, fmt: BlockFormat, rounding: Rounding, words: str, wide_numbers: bool) -> None:
        super().__init__(source, fmt, rounding, words, wide_numbers, 4)
        self.outer, self.blocks, self.length, self.inner = self.sizes[:4]
        # Of the columns of a chunk, from one vector on: the last vector of columns may overlap the one before.
        room = CHUNK + 2 * source.lanes
        self.largest = self.code.buffer(source.integer, room)
        self.divisors = self.code.buffer(self.float, room)
        self.keeps = self.code.buffer(source.integer, room)

    def compile(self) -> Kernel:
        code = self.code

        def each(o: Lanes, *flags: Lanes) -> list[Lanes]:
            def block(n: Lanes, *flags: Lanes) -> list[Lanes]:
                return code.loop(0, self.inner, CHUNK, flags, lambda first, *f: self._chunk(o, n, first, *f))

            return code.loop(0, self.blocks, 1, flags, block)

        return self.finish(*code.loop(0, self.outer, 1, [self.zero, self.zero], each))

    def _chunk(self, o: Lanes, n: Lanes, first: Lanes, invalid: Lanes, most: Lanes) -> list[Lanes]:
        """The blocks of some neighbouring columns."""
        code, lanes = self.code, self.source.lanes
        last = (first + CHUNK).smaller_signed(self.inner)
        start = n * self.fmt.block
        stop = (start + self.fmt.block).smaller_signed(self.length)
        # To the chunk that comes next: of the same rows, or of those below.
        ahead = last.less_signed(self.inner).choose(last - first, self.inner * self.fmt.block - first)

        def place(column: Lanes) -> tuple[Lanes, Lanes]:
            """Where a vector begins, among the columns and in the chunk's memory."""
            held = column.smaller_signed(self.inner - lanes)
            return held, held - first + lanes

        def empty(column: Lanes) -> list[Lanes]:
            code.store(self.zero, self.largest, place(column)[1])
            return []

        def larger(row: Lanes) -> list[Lanes]:
            def some(column: Lanes) -> list[Lanes]:
                held, at = place(column)
                magnitude = self.magnitude(self.load((o * self.length + row) * self.inner + held))
                found = code.load(self.largest, at, self.integers)
                code.store((found < magnitude).choose(magnitude, found), self.largest, at)
                return []

            return code.loop(first, last, lanes, [], some)

        def scale(column: Lanes, invalid: Lanes) -> list[Lanes]:
            held, at = place(column)
            found, divisor, keep = self.scale(code.load(self.largest, at, self.integers))
            code.store(found.narrow(I8), self.scales, (o * self.blocks + n) * self.inner + held)
            code.store(divisor, self.divisors, at)
            code.store(keep, self.keeps, at)
            return [invalid | ~keep]

        def put(row: Lanes, most: Lanes) -> list[Lanes]:
            line = o * self.length + row

            def some(column: Lanes, at_half: Lanes, most: Lanes) -> list[Lanes]:
                held, at = place(column)
                divisor, keep = code.load(self.divisors, at, self.floats), code.load(self.keeps, at, self.integers)
                code.prefetch(self.numbers, line * self.inner + held + ahead, self.number)
                return [self.put(line * self.inner + held, at_half, divisor, keep, most)]

            def segment(column: Lanes, most: Lanes) -> list[Lanes]:
                end = (column + SEGMENT).smaller_signed(last)
                if self.halves is not None:
                    self.halves.fill(line, column, end - column)
                return code.loop(column, end, lanes, [most], lambda c, m: some(c, c - column, m))

            return code.loop(first, last, SEGMENT, [most], segment)

        code.loop(first, last, lanes, [], empty)
        code.loop(start, stop, 1, [], larger)
        (invalid,) = code.loop(first, last, lanes, [invalid], scale)
        return [invalid, *code.loop(start, stop, 1, [most], put)]
