"""Rounding of float32 and float64 lanes to codes, and Threefry's bits, as code for `Kernel`s.

It equals `Format.encode` of the exact value in all codes and flags. The argument, for shift = number of low bits of
the source's significand that the target does not have: every mode is ``(significand + addend) >> shift`` with an
addend below 2**shift. A stochastic mode rounds up iff fraction + (R + ½)/2**r >= 1; multiplied by 2**(r+1) the right
side is an integer, so that neither bits of the fraction below 2**-(r+1) nor bits of the addend below the significand's
lowest one can decide, and both may be cut off.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from halfulp.numerics.formats import FloatFormat, Format, ScaledIntegerFormat
from halfulp.numerics.random_bits import THREEFRY_PARITY, THREEFRY_ROTATIONS
from halfulp.numerics.rounding import Rounding
from halfulp.sim.llvm import ir
from halfulp.sim.vector_code import I16, I32, I64, Code, Kernel, Lanes

__all__ = [
    "BLOCK",
    "FLOAT32",
    "FLOAT64",
    "SEGMENT",
    "OutputHalves",
    "RoundedLanes",
    "Source",
    "round_lanes",
    "round_magnitude",
    "rounds",
]

BLOCK, SEGMENT = 64, 512
"""Columns that one vector of 16 Threefry counters serves, and those of as many as are worked on at a time."""


class Source(NamedTuple):
    """The layout of the numbers that are rounded: integer type of a lane, fraction bits, exponent bias."""

    integer: ir.IntType
    fraction_bits: int
    bias: int

    def __hash__(self) -> int:
        return self.fraction_bits  # quicker than that of an LLVM type: kernels are looked up by it

    @property
    def width(self) -> int:
        """Bits of a number."""
        return self.integer.width

    @property
    def lanes(self) -> int:
        """Lanes of one vector of 512 bits."""
        return 512 // self.width


FLOAT32 = Source(I32, 23, 127)
FLOAT64 = Source(I64, 52, 1023)


class RoundedLanes(NamedTuple):
    """Codes in the source's lanes, and `I1` lanes: no code for a NaN; beyond the largest finite number."""

    codes: Lanes
    invalid: Lanes
    overflow: Lanes


def rounds(source: Source, fmt: Format, rounding: Rounding, scale: int) -> bool:
    """Whether `round_lanes` rounds all numbers of `source`, times 2**scale, to `fmt`."""
    if rounding.random_bits > source.width - 2:
        return False  # a fraction of r + 1 bits is looked at
    if isinstance(fmt, ScaledIntegerFormat):
        return fmt.bits < source.fraction_bits and abs(scale) < 1 << 20
    if not isinstance(fmt, FloatFormat) or not 1 <= fmt.mantissa_bits <= source.fraction_bits:
        return False
    # Subnormal numbers of the source have no leading one; what they are scaled to must not need it.
    room = fmt.min_normal_exponent + source.bias - 1 - (not fmt.subnormals)
    return -(1 << 20) < scale <= room


def round_lanes(
    bits: Lanes,
    source: Source,
    fmt: Format,
    rounding: Rounding,
    overflow: str,
    *,
    scale: Lanes,
    word: Lanes | None,
    signed_zero: bool = True,
) -> RoundedLanes:
    """Write the rounding of 2**scale times the numbers of these bit patterns; `rounds` tells what it holds for.

    `word` is the R of the contract in lanes of the same integer type; `signed_zero` keeps the sign of a zero.
    """
    top = source.width - 1
    magnitude = bits & ((1 << top) - 1)
    negative = bits.less_signed(0)
    field = magnitude >> source.fraction_bits
    fraction = magnitude & ((1 << source.fraction_bits) - 1)
    normal = field > 0
    significand = normal.choose(fraction | (1 << source.fraction_bits), fraction)
    exponent = normal.choose(field, 1) + scale
    infinity = ((1 << (top - source.fraction_bits)) - 1) << source.fraction_bits
    numbers = _Numbers(source, negative, significand, exponent, magnitude.equals(infinity), magnitude > infinity)
    if isinstance(fmt, ScaledIntegerFormat):
        return _to_integer(numbers, fmt, rounding, word)
    assert isinstance(fmt, FloatFormat)  # what `rounds` lets through
    return _to_float(numbers, fmt, rounding, overflow, word, signed_zero=signed_zero)


class _Numbers(NamedTuple):
    """Numbers taken apart: ±significand * 2**(exponent - bias - fraction_bits)."""

    source: Source
    negative: Lanes
    significand: Lanes
    exponent: Lanes
    infinite: Lanes
    nan: Lanes


def _to_float(
    x: _Numbers, fmt: FloatFormat, rounding: Rounding, overflow: str, word: Lanes | None, *, signed_zero: bool
) -> RoundedLanes:
    least = fmt.min_normal_exponent + x.source.bias
    dropped = x.source.fraction_bits - fmt.mantissa_bits
    above = (x.exponent - least).larger_signed(0).smaller_signed((1 << fmt.exponent_bits) + 1)
    below = (x.exponent.constant(least) - x.exponent).larger_signed(0)
    if fmt.subnormals:
        multiples = round_magnitude(x.source, x.significand, below + dropped, dropped > 0, rounding, word)
        code = multiples + (above << fmt.mantissa_bits)
    else:
        small = below > 0
        shift = small.choose(below + x.source.fraction_bits, dropped)
        multiples = round_magnitude(x.source, x.significand, shift, dropped > 0, rounding, word)
        code = small.choose(multiples << fmt.mantissa_bits, multiples + (above << fmt.mantissa_bits))
    special = x.infinite | x.nan
    too_large = (code > fmt.max_code) & ~special
    beyond = fmt.inf_code if fmt.has_inf else fmt.nan_code if fmt.has_nan else fmt.max_code
    at_overflow = beyond if overflow == "ieee" and rounding.kind != "toward_zero" else fmt.max_code
    at_infinity = beyond if fmt.has_inf or overflow == "ieee" else fmt.max_code
    code = too_large.choose(code.constant(at_overflow), code)
    code = x.infinite.choose(code.constant(at_infinity), code)
    unsigned = x.nan
    if fmt.has_nan and not fmt.has_inf:
        unsigned = unsigned | code.equals(fmt.nan_code)
    if not signed_zero:
        unsigned = unsigned | code.equals(0)
    code = (x.negative & ~unsigned).choose(code | fmt.sign_code, code)
    code = x.nan.choose(code.constant(fmt.nan_code if fmt.has_nan else 0), code)
    never = x.nan ^ x.nan
    return RoundedLanes(code, never if fmt.has_nan else x.nan, too_large if fmt.has_inf else too_large | x.infinite)


def _to_integer(x: _Numbers, fmt: ScaledIntegerFormat, rounding: Rounding, word: Lanes | None) -> RoundedLanes:
    unit = x.source.bias + x.source.fraction_bits + fmt.lsb_exponent
    huge = x.exponent.constant(unit).less_signed(x.exponent) & (x.significand > 0)
    shift = (x.exponent.constant(unit) - x.exponent).larger_signed(0)
    multiples = round_magnitude(x.source, x.significand, shift, False, rounding, word)
    limit = x.negative.choose(multiples.constant(-fmt.smallest), fmt.largest)
    too_large = ((multiples > limit) | huge | x.infinite) & ~x.nan
    size = too_large.choose(limit, multiples)
    value = x.negative.choose(size.constant(0) - size, size) & ((1 << fmt.bits) - 1)
    return RoundedLanes(x.nan.choose(value.constant(0), value), x.nan, too_large)


def round_magnitude(
    source: Source, significand: Lanes, shift: Lanes, always: bool, rounding: Rounding, word: Lanes | None
) -> Lanes:
    """Write the rounding of significand / 2**shift to an integer; `always` where no shift is 0."""
    limit = source.width - 1
    near = shift.smaller(limit)
    kept = significand >> (shift - near).smaller(limit)  # what this cuts off is below every fraction bit that counts
    if rounding.kind == "toward_zero":
        return kept >> near
    if rounding.kind == "nearest_even":
        unit = kept.constant(1) << near
        addend = (unit >> 1) + ((kept >> near) & 1) - 1
        if not always:
            addend = near.equals(0).choose(near, addend)
        return (kept + addend) >> near
    assert word is not None
    r = rounding.random_bits
    # (R + ½) / 2**r, or R / 2**r, in units of 2**-limit, brought to units of the significand's lowest bit.
    scaled = ((word << 1) | 1) << (limit - 1 - r) if rounding.kind == "stochastic" else word << (limit - r)
    return (kept + (scaled >> (near.constant(limit) - near))) >> near


def threefry_lanes(key: tuple[Lanes, Lanes], a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """Write Threefry-2x32 with 20 rounds of counters (a, b); all are vectors of as many 32-bit lanes."""
    ((found_a, found_b),) = _threefry_vectors(key, [(a, b)])
    return found_a, found_b


def _threefry_vectors(key: tuple[Lanes, Lanes], counters: list[tuple[Lanes, Lanes]]) -> list[tuple[Lanes, Lanes]]:
    """Of several vectors, a round of all before the next: what one has to wait for gives time to the others."""
    keys = [*key, key[0] ^ key[1] ^ THREEFRY_PARITY]
    found = [(a + keys[0], b + keys[1]) for a, b in counters]
    for step in range(20):
        rotation = THREEFRY_ROTATIONS[step % 8]
        found = [(a + b, b.rotate_left(rotation)) for a, b in found]
        found = [(a, b ^ a) for a, b in found]
        if step % 4 == 3:
            injection = step // 4 + 1
            key_a, key_b = keys[injection % 3], keys[(injection + 1) % 3] + injection
            found = [(a + key_a, b + key_b) for a, b in found]
    return found


class OutputHalves:
    """The random bits of outputs next to each other in a row, 16 for each, in memory for the call's duration.

    `key`: the two words, 64-bit scalars; `place`: masks of the bits that stay, and of those that are set.
    """

    def __init__(self, code: Code, key: tuple[Lanes, Lanes], place: tuple[int, int] = (0xFFFF, 0)) -> None:
        self.code = code
        self.memory = code.buffer(I16, SEGMENT)
        self._where = code.constant(I64, _halves_kernel().address)
        self._rest = [*key, *(code.constant(I64, mask) for mask in place)]

    def fill(self, row: Lanes, first: Lanes, count: Lanes) -> None:
        """Write those of columns `first`, which 64 divides, to `first` + `count`, at least 1 and at most `SEGMENT`.

        What is behind them may be written too.
        """
        self.code.call(self._where, HALVES, self.memory, row, first, count, *self._rest)

    def load(self, at: Lanes, lanes: int) -> Lanes:
        """Those of so many columns from the one that is `at` behind the first."""
        return self.code.load(self.memory, at, ir.VectorType(I16, lanes))


HALVES = "piiiiiii"


@lru_cache(maxsize=1)
def _halves_kernel() -> Kernel:
    """Kernel (`HALVES`) over memory, row, first column, count, key low and high, bits that stay, bits that are set.

    Several vectors of counters are worked on at a time, for a round of each has to wait for the one before.
    """
    code = Code("output_halves", HALVES)
    memory, row, first, count, low, high, stay, be_set = code.arguments
    lanes = BLOCK // 4
    kind, halves = ir.VectorType(I32, lanes), ir.VectorType(I16, BLOCK)
    rows, *key = (code.spread(x.narrow(I32), lanes) for x in (row, low, high))
    quarter = code.spread((first >> 2).narrow(I32), lanes) + code.count_up(kind)
    stays, is_set = (code.spread(x.narrow(I16), BLOCK) for x in (stay, be_set))
    # Words 0 and 1 alternate, and halves go low before high: the order of lanes, on a little-endian machine.
    order = [n // 2 + lanes * (n % 2) for n in range(2 * lanes)]
    done = 0
    for blocks in (1, 4, SEGMENT // BLOCK):  # a few too many at a time are quicker than one after another

        def put(_: Lanes, blocks: int = blocks) -> list[Lanes]:
            words = _threefry_vectors((key[0], key[1]), [(rows, quarter + n * lanes) for n in range(blocks)])
            for n, (a, b) in enumerate(words):
                code.store((a.shuffle(b, order).bits_as(halves) & stays) | is_set, memory, n * BLOCK)
            return []

        wanted = (count > done) & ~(count > blocks * BLOCK)
        code.loop(0, wanted.widen(I64), 1, [], put)
        done = blocks * BLOCK
    return code.compile()
