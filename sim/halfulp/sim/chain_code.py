"""Kernels of the accumulators that are rounded at each step, and what each of them is exact for.

`general_kernel` holds for all of them: sums in float64, made odd where they are inexact, then rounded as integers.
`ranged_kernel` keeps the accumulator in float32 or float64 lanes and rounds by adding to the bit pattern; `fits_lanes`
is the range test under which neither subnormal numbers nor bits below the lanes' last one matter.

Operands lie as A [rows, K] of any strides and B [K, columns], rows a multiple of `ROWS`, columns of `COLUMNS`; random
words as [K, rows] and [K, columns], each row of them of a multiple of `WORD_LANES`.
"""

from __future__ import annotations

import math
from functools import lru_cache

from halfulp.numerics.accumulators import FloatAccumulator
from halfulp.sim.llvm import ir
from halfulp.sim.rounding_code import FLOAT32, FLOAT64, Source, round_magnitude, threefry_lanes
from halfulp.sim.vector_code import F32, F64, I32, I64, Code, Kernel, Lanes

__all__ = [
    "CHECK_STEPS",
    "COLUMNS",
    "ROWS",
    "WORD_LANES",
    "fits_lanes",
    "general_kernel",
    "odd_sum",
    "overflow_value",
    "ranged_kernel",
    "round_odd",
    "safe_limit",
    "window_kernel",
    "words_kernel",
]

ROWS, COLUMNS = 4, 32
"""Outputs that a kernel keeps in registers: one tile."""

WORD_LANES = 16
"""What the lengths of word tables are a multiple of."""

CHECK_STEPS = 8
"""Steps between two checks that no sum can have left the accumulator's range."""

NEAREST, UPWARD, DOWNWARD, TOWARD_ZERO = 8, 10, 9, 11
"""AVX-512's rounding of one instruction, exceptions suppressed (Intel SDM, EVEX.RC)."""


def fits_lanes(accumulator: FloatAccumulator, source: Source, lsb_exponent: int) -> bool:
    """Whether lanes of `source` do for products that are multiples of 2**lsb_exponent.

    No sum of them then has a bit below the accumulator's least subnormal (where it has none: is below its least
    normal number), so that a subnormal sum is exact as it is. Of other sums the lanes keep some bits of fraction below
    the accumulator's, truncated or made odd: enough where the r + 1 that decide are among them, or a tie.
    """
    fmt, r = accumulator.format, accumulator.rounding.random_bits
    room = source.fraction_bits - fmt.mantissa_bits
    least = fmt.lsb_exponent if fmt.subnormals else fmt.min_normal_exponent
    if lsb_exponent < least or fmt.mantissa_bits == 0:
        return False
    kind = accumulator.rounding.kind
    needed = {"stochastic": r + 1, "stochastic_floor": r, "toward_zero": 0, "nearest_even": 2}[kind]
    return room >= needed or (kind == "nearest_even" and room == 0)


def safe_limit(
    accumulator: FloatAccumulator, source: Source, largest_product: float, exact_to: float = math.inf
) -> float:
    """Magnitude below which a sum stays in range for `CHECK_STEPS` steps, however each is rounded; 0 where none is.

    A step adds at most the largest product, and rounding at most one part in 2**M. The range is the accumulator's,
    one in which the number that rounds to nearest is finite too, and at most `exact_to`.
    """
    fmt = accumulator.format
    room = source.fraction_bits - fmt.mantissa_bits
    largest = min(fmt.max_units * 2.0**fmt.lsb_exponent, 2.0 ** (source.bias - 1 - room), exact_to)
    growth = (1 + 2.0**-fmt.mantissa_bits) ** CHECK_STEPS
    return max(largest / growth * (1 - 1e-6) - CHECK_STEPS * largest_product, 0.0)


@lru_cache(maxsize=64)
def words_kernel(accumulator: FloatAccumulator, source: Source | None, constant: bool) -> Kernel:
    """Kernel over table [K, lanes], K, lanes, key low and high, counter: `accumulator_words` and their successors.

    `source` None: 32-bit words as they are. Else integers as wide as its lanes with the top r bits where the
    `ranged_kernel` adds them, and with `constant` the half bit below, which only a row's or a column's word may bring.
    """
    code = Code("words", "piiiii")
    table, depth, lanes, low, high, counter = code.arguments
    vector = ir.VectorType(I32, WORD_LANES)
    key = code.spread(low.narrow(I32), WORD_LANES), code.spread(high.narrow(I32), WORD_LANES)
    counters = code.spread(counter.narrow(I32), WORD_LANES)
    r = accumulator.rounding.random_bits

    def column(start: Lanes) -> list[Lanes]:
        def step(k: Lanes, word: Lanes) -> list[Lanes]:
            placed = word
            if source is not None:
                room = source.fraction_bits - accumulator.format.mantissa_bits - r
                placed = (word >> (32 - r)).widen(source.integer) << room
                if constant and accumulator.rounding.kind == "stochastic":
                    placed = placed | (1 << (room - 1))
            code.store(placed, table, k * lanes + start)
            word = word ^ (word << 13)
            word = word ^ (word >> 17)
            return [word ^ (word << 5)]

        positions = code.spread(start.narrow(I32), WORD_LANES) + code.count_up(vector)
        first, _ = threefry_lanes(key, positions, counters)
        code.loop(0, depth, 1, [first.equals(0).choose(first.constant(1), first)], step)
        return []

    code.loop(0, lanes, WORD_LANES, [], column)
    return code.compile()


class _Tiles:
    """The loops over tiles and k that both kernels share; a subclass writes one step of one vector."""

    def __init__(self, source: Source, word: ir.IntType, vectors: int, *, random: bool) -> None:
        self.random = random
        self.source = source
        self.word = word
        self.vectors = vectors
        self.lanes = source.lanes
        self.element = F32 if source is FLOAT32 else F64
        self.floats = ir.VectorType(self.element, self.lanes)
        self.integers = ir.VectorType(source.integer, self.lanes)
        # a, b, row words, column words, sums [rows, columns], K, rows, columns, a's strides by row and k, limit
        self.code = Code("chain", "pppppiiiiii")

    def step(self, total: Lanes, a: Lanes, b: Lanes, row: Lanes | None, column: Lanes | None) -> tuple[Lanes, Lanes]:
        """The next total, and lanes of flags to OR."""
        raise NotImplementedError

    def finish_steps(self, total: Lanes, flag: Lanes) -> Lanes:
        """The flags after `CHECK_STEPS` steps."""
        return flag

    def compile(self) -> Kernel:
        code = self.code
        a, b, row_words, column_words, sums, depth, rows, columns, row_stride, k_stride, _ = code.arguments
        random, vectors = self.random, self.vectors
        row_words_stride = (rows + (WORD_LANES - 1)) & -WORD_LANES
        no_flag = code.constant(ir.VectorType(ir.IntType(1), self.lanes), 0)

        def steps(k: Lanes, i: Lanes, j: Lanes, carried: list[Lanes]) -> list[Lanes]:
            totals, flag = carried[:-1], carried[-1]
            at_row, at_column = k * row_words_stride + i, k * columns + j
            at_a = i * row_stride + k * k_stride
            new = []
            for v in range(vectors):
                right = code.load(b, at_column + v * self.lanes, self.floats)
                column = None
                if random:
                    kind = ir.VectorType(self.word, self.lanes)
                    column = code.load(column_words, at_column + v * self.lanes, kind)
                for r in range(ROWS):
                    left = code.spread(code.load(a, at_a + row_stride * r, self.element), self.lanes)
                    row = code.spread(code.load(row_words, at_row + r, self.word), self.lanes) if random else None
                    total, over = self.step(totals[v * ROWS + r], left, right, row, column)
                    new.append(total)
                    flag = flag | over
            return [*new, flag]

        def tile(i: Lanes, j: Lanes, flag: Lanes) -> list[Lanes]:
            zero = code.constant(self.floats, 0.0)
            carried = [*[zero] * (vectors * ROWS), flag]

            def some(start: Lanes, *now: Lanes) -> list[Lanes]:
                stop = (start + CHECK_STEPS).smaller_signed(depth)
                found = code.loop(start, stop, 1, now, lambda k, *c: steps(k, i, j, list(c)))
                flags_now = found[-1]
                for total in found[:-1]:
                    flags_now = self.finish_steps(total, flags_now)
                return [*found[:-1], flags_now]

            found = code.loop(0, depth, CHECK_STEPS, carried, some)
            for v in range(vectors):
                for r in range(ROWS):
                    code.store(found[v * ROWS + r], sums, (i + r) * columns + j + v * self.lanes)
            return [found[-1]]

        def across(i: Lanes, flag: Lanes) -> list[Lanes]:
            return code.loop(0, columns, vectors * self.lanes, [flag], lambda j, f: tile(i, j, f))

        self.begin()
        (flag,) = code.loop(0, rows, ROWS, [no_flag], across)
        self.end()
        return code.compile((flag.bits_as(ir.IntType(self.lanes)) > 0).widen(I64))

    def begin(self) -> None:
        """Before the loops."""

    def end(self) -> None:
        """After the loops."""


class _Ranged(_Tiles):
    """Accumulators in lanes of `source`; the flag says that a sum was beyond the limit, so that nothing is proven."""

    def __init__(self, accumulator: FloatAccumulator, source: Source, avx512: bool, exact: bool) -> None:
        vectors = 2 if avx512 else 1  # each takes two of sixteen registers without AVX-512
        super().__init__(source, source.integer, vectors, random=accumulator.rounding.is_stochastic)
        self.accumulator = accumulator
        self.avx512 = avx512
        self.exact = exact
        self.shift = source.fraction_bits - accumulator.format.mantissa_bits
        limit = self.code.arguments[-1].narrow(source.integer).bits_as(self.element)
        self.limit = self.code.spread(limit, self.lanes)

    def _fma(self, a: Lanes, b: Lanes, c: Lanes, mode: int) -> Lanes:
        if self.avx512:
            name = "llvm.x86.avx512.vfmadd.ps.512" if self.source is FLOAT32 else "llvm.x86.avx512.vfmadd.pd.512"
            return self.code.intrinsic(name, self.floats, a, b, c, mode)
        return self.code.fma(a, b, c)

    def begin(self) -> None:
        if not self.avx512 and self.accumulator.rounding.kind != "nearest_even":
            self.code.intrinsic("llvm.set.rounding", ir.VoidType(), 0)  # toward zero

    def end(self) -> None:
        if not self.avx512 and self.accumulator.rounding.kind != "nearest_even":
            self.code.intrinsic("llvm.set.rounding", ir.VoidType(), 1)  # to nearest, as it was

    def step(self, total: Lanes, a: Lanes, b: Lanes, row: Lanes | None, column: Lanes | None) -> tuple[Lanes, Lanes]:
        code = self.code
        never = code.constant(ir.VectorType(ir.IntType(1), self.lanes), 0)
        if self.accumulator.rounding.kind == "nearest_even":
            if self.shift == 0:
                return self._fma(a, b, total, NEAREST), never
            if self.exact:
                return self._nearest(self._fma(a, b, total, NEAREST)), never
            return self._nearest(self._odd_sum(total, a, b)), never
        bits = self._fma(a, b, total, TOWARD_ZERO).bits_as(self.integers)
        if row is not None and column is not None:
            bits = bits + (row ^ column)
        return (bits & (-1 << self.shift)).bits_as(self.floats), never

    def _odd_sum(self, total: Lanes, a: Lanes, b: Lanes) -> Lanes:
        """A * b + total, of the two floats around an inexact one that with an odd significand."""
        if self.avx512:
            low, high = (self._fma(a, b, total, mode) for mode in (DOWNWARD, UPWARD))
            is_odd = (low.bits_as(self.integers) & 1).equals(1)
            return is_odd.choose(low, high)
        product = a * b  # exact: without AVX-512, `chains` takes this way only where lanes hold every product
        return odd_sum(product, total, self.integers)

    def _nearest(self, x: Lanes) -> Lanes:
        """To `shift` bits fewer, to nearest even: adding and taking away a number with the last bit there."""
        fraction = self.source.fraction_bits
        field = (1 << (self.source.width - 1)) - (1 << fraction)
        power = (x.bits_as(self.integers) & field) + ((self.shift << fraction) | (1 << (fraction - 1)))
        large = power.bits_as(self.floats)
        return (x + large) - large

    def finish_steps(self, total: Lanes, flag: Lanes) -> Lanes:
        size = (total.bits_as(self.integers) & ((1 << (self.source.width - 1)) - 1)).bits_as(self.floats)
        return flag | (size > self.limit)


def odd_sum(x: Lanes, y: Lanes, integers: ir.Type) -> Lanes:
    """Write x + y, where inexact the odd one of the two floats around it (Boldo and Melquiond, IEEE TC 57(4), 2008).

    Knuth's two-sum gives the error of the sum to nearest; an even sum moves by one place to the error's side.
    """
    total = x + y
    part = total - x
    error = (x - (total - part)) + (y - part)
    bits = total.bits_as(integers)
    inexact = (error > 0.0) | (error < 0.0)
    outward = (error.bits_as(integers) ^ bits).less_signed(0)  # signs differ: towards zero
    moved = outward.choose(bits - 1, bits + 1)
    return (inexact & (bits & 1).equals(0)).choose(moved, bits).bits_as(total.type)


class _General(_Tiles):
    """Accumulators in float64 lanes, rounded as integers; the flag is the accumulator's overflow."""

    def __init__(self, accumulator: FloatAccumulator) -> None:
        super().__init__(FLOAT64, I32, 1, random=accumulator.rounding.is_stochastic)
        self.accumulator = accumulator

    def step(self, total: Lanes, a: Lanes, b: Lanes, row: Lanes | None, column: Lanes | None) -> tuple[Lanes, Lanes]:
        exact = odd_sum(a * b, total, self.integers)
        word = None
        if row is not None and column is not None:
            word = (row ^ column) >> (32 - self.accumulator.rounding.random_bits)
        return round_odd(exact, self.accumulator, word)


def round_odd(exact: Lanes, accumulator: FloatAccumulator, word: Lanes | None) -> tuple[Lanes, Lanes]:
    """Round float64 lanes, made odd where a sum was inexact, to the accumulator's numbers, as float64 lanes.

    `word` is the R of the contract in as many 32-bit lanes. NaN and infinities stay. Also gives `I1` lanes: beyond the
    largest finite number.
    """
    fmt, rounding = accumulator.format, accumulator.rounding
    largest = fmt.max_units * 2.0**fmt.lsb_exponent
    if rounding.kind == "nearest_even" and _are_float32(accumulator):
        rounded = exact.narrow_float(F32).widen_float(F64)
        size, most = (_magnitude(x) for x in (exact, rounded))
        too_large = most.equals(math.inf) & (size < math.inf)
        held = rounded.constant(overflow_value(accumulator, largest)).bits_as(exact.fits(I64))
        signed = held | (exact.bits_as(held.type) & (1 << 63))
        return too_large.choose(signed.bits_as(exact.type), rounded), too_large
    bits = exact.bits_as(exact.fits(I64))
    magnitude = bits & ((1 << 63) - 1)
    special = magnitude > (0x7FF << 52) - 1
    field = magnitude >> 52
    normal = field > 0
    fraction = magnitude & ((1 << 52) - 1)
    significand = normal.choose(fraction | (1 << 52), fraction)
    least = fmt.min_normal_exponent + 1023
    below = (field.constant(least) - field).larger_signed(0)
    shift = below + (52 - fmt.mantissa_bits)
    if not fmt.subnormals:
        shift = (below > 0).choose(below + 52, shift)
    random = None if word is None else word.widen(I64)
    multiples = round_magnitude(FLOAT64, significand, shift, True, rounding, random)
    # The unit is 2**(field + shift - 1075); a sum so small that its exponent is meaningless has no multiples.
    unit = ((field + shift - 52).larger_signed(1) << 52).bits_as(exact.type)
    value = multiples.to_float(F64) * unit
    too_large = (value > largest) & ~special
    value = too_large.choose(value.constant(overflow_value(accumulator, largest)), value)
    signed = value.bits_as(bits.type) | (bits & (1 << 63))
    return special.choose(exact, signed.bits_as(exact.type)), too_large


def _are_float32(accumulator: FloatAccumulator) -> bool:
    """Whether the accumulator's numbers are those of float32, to which the processor rounds by itself."""
    fmt = accumulator.format
    alike = (fmt.exponent_bits, fmt.mantissa_bits, fmt.subnormals) == (8, 23, True)
    return alike and fmt.max_units * 2.0**fmt.lsb_exponent < 2.0**128


def _magnitude(x: Lanes) -> Lanes:
    return (x.bits_as(x.fits(I64)) & ((1 << 63) - 1)).bits_as(x.type)


def overflow_value(accumulator: FloatAccumulator, largest: float) -> float:
    """What the magnitude of a sum beyond the largest finite number becomes."""
    fmt = accumulator.format
    if accumulator.overflow == "saturate" or accumulator.rounding.kind == "toward_zero":
        return largest
    return float("inf") if fmt.has_inf else float("nan") if fmt.has_nan else largest


@lru_cache(maxsize=64)
def ranged_kernel(accumulator: FloatAccumulator, source: Source, avx512: bool, exact: bool) -> Kernel:
    """Kernel over A, B, words of rows and columns, sums, K, rows, columns, strides of A and the limit's bits.

    It gives the flag. `exact`: lanes hold every sum up to the limit before it is rounded to nearest.
    """
    return _Ranged(accumulator, source, avx512, exact).compile()


class _Window(_Tiles):
    """Integers in float64 lanes, saturated to a window's two's complement; the flag says that one was."""

    def __init__(self, width: int) -> None:
        super().__init__(FLOAT64, I32, 2, random=False)
        self.smallest, self.largest = -(2.0 ** (width - 1)), 2.0 ** (width - 1) - 1

    def step(self, total: Lanes, a: Lanes, b: Lanes, row: Lanes | None, column: Lanes | None) -> tuple[Lanes, Lanes]:
        product = self.code.intrinsic(f"llvm.trunc.v{self.lanes}f64", self.floats, a * b)
        exact = total + product
        above, below = exact > self.largest, exact < self.smallest
        held = above.choose(exact.constant(self.largest), exact)
        return below.choose(exact.constant(self.smallest), held), above | below


@lru_cache(maxsize=64)
def window_kernel(width: int) -> Kernel:
    """Kernel of a window of at most 53 bits: the same arguments, A in units of its least place; no words, no limit."""
    return _Window(width).compile()


@lru_cache(maxsize=64)
def general_kernel(accumulator: FloatAccumulator) -> Kernel:
    """Kernel in float64 lanes: the same arguments; the limit is not looked at."""
    return _General(accumulator).compile()
