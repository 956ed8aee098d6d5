"""Posits (docs/numerics.md, section 1): Gustafson and Yonemoto, Supercomputing Frontiers and Innovations 4(2), 2017."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import FINITE, INFINITE, NAN, IntArray, RealArray, bit_length
from halfulp.numerics.format_base import Encoded, Format
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding, check_overflow

__all__ = ["PositFormat"]


@dataclass(frozen=True)
class PositFormat(Format):
    """A posit of `width` bits (3 to 16) with `exponent_bits` (0 to 2), as the 2017 paper defines it.

    A code is two's complement; code 0 is zero, 2**(width - 1) is NaR, which is taken for NaN. Behind the sign come the
    regime (a run of equal bits), the exponent and the fraction.

    Rounding: the stochastic modes and `toward_zero` go by the neighbouring numbers lo and hi, as in all formats.
    `nearest_even` goes by the bits, as posits are defined: the tie is the posit of one more bit between lo and hi, not
    their arithmetic mean where the regime leaves no room for the exponent; and what is not zero does not become
    zero.
    """

    width: int
    exponent_bits: int

    def __post_init__(self) -> None:
        if not 3 <= self.width <= 16:
            raise ValueError(f"{self.name}: posits have 3 to 16 bits, not {self.width}")
        if not 0 <= self.exponent_bits <= 2:
            raise ValueError(f"{self.name}: posits have 0 to 2 exponent bits, not {self.exponent_bits}")

    @property
    def bits(self) -> int:
        """Width of a code."""
        return self.width

    @property
    def lsb_exponent(self) -> int:
        """Exponent of the least positive number, of which all are multiples."""
        return -((self.width - 2) << self.exponent_bits)

    @property
    def significand_bits(self) -> int:
        """The hidden bit, and the fraction beside the shortest regime."""
        return 1 + max(self.width - 3 - self.exponent_bits, 0)

    @property
    def max_shift(self) -> int:
        """Shift of the largest number: its significand is 1."""
        return -2 * self.lsb_exponent

    @property
    def max_units(self) -> int:
        """The largest number is the inverse of the least."""
        return 1 << self.max_shift

    @property
    def nan_code(self) -> int:
        """NaR."""
        return 1 << (self.width - 1)

    @property
    def has_nan(self) -> bool:
        """True: NaR."""
        return True

    @property
    def has_inf(self) -> bool:
        """False."""
        return False

    def _decode(self, codes: npt.NDArray[np.int64]) -> RealArray:
        negative = codes > self.nan_code
        table = _numbers(self.width, self.exponent_bits)
        nan = codes == self.nan_code
        place = np.where(nan, 0, np.where(negative, (1 << self.width) - codes, codes))
        kind = np.where(nan, NAN, FINITE).astype(np.uint8)
        return RealArray(negative, table.significand[place], table.exponent[place], kind)

    def encode(
        self,
        values: RealArray,
        rounding: Rounding = NEAREST_EVEN,
        random: npt.NDArray[np.uint32] | None = None,
        overflow: str = "saturate",
    ) -> Encoded:
        """See `Format.encode`. Overflow: an infinity becomes NaR under ``ieee``; numbers saturate under either."""
        check_overflow(overflow)
        if rounding.is_stochastic and random is None:
            raise ValueError(f"rounding {rounding} needs random words")
        table = _numbers(self.width, self.exponent_bits)
        top = self.nan_code - 1
        lo = np.searchsorted(table.value, _toward_zero(values), side="right") - 1
        lo = np.asarray(lo, np.int64)
        is_nan, infinite = values.kind == NAN, values.kind == INFINITE
        too_large = (values.kind == FINITE) & (lo == top) & ~_equals(values, table, lo)
        inexact = (values.kind == FINITE) & (lo < top) & ~_equals(values, table, lo)
        words = np.zeros(values.kind.shape, np.uint32) if random is None else random
        up = np.zeros(values.kind.shape, np.bool_)
        for n in np.flatnonzero(inexact):
            x = int(values.significand.flat[n]), int(values.exponent.flat[n])
            up.flat[n] = self._goes_up(x, int(lo.flat[n]), rounding, int(words.flat[n]))
        code = np.where(infinite, top, lo + up)
        code = np.where(values.negative, ((1 << self.width) - code) & ((1 << self.width) - 1), code)
        code = np.where(is_nan | (infinite & (overflow == "ieee")), self.nan_code, code)
        never = np.zeros(values.kind.shape, np.bool_)
        return Encoded(code.astype(self.code_dtype), never, too_large | infinite)

    def _goes_up(self, x: tuple[int, int], lo: int, rounding: Rounding, word: int) -> bool:
        """Whether a number strictly between those of codes lo and lo + 1 goes to the latter; in exact integers."""
        table = _numbers(self.width, self.exponent_bits)
        if rounding.kind == "toward_zero":
            return False
        if rounding.kind == "nearest_even":
            finer = _numbers(self.width + 1, self.exponent_bits)
            tie = int(finer.significand[2 * lo + 1]), int(finer.exponent[2 * lo + 1])
            number, middle = _common(x, tie)
            return lo == 0 or number > middle or (number == middle and lo % 2 == 1)
        low, high, number = _common(
            *((int(table.significand[n]), int(table.exponent[n])) for n in (lo, lo + 1)),
            x,
        )
        # (x - lo) / u + (R + h) / 2**r >= 1, times u * 2**(r + 1)
        addend = 2 * word + (rounding.kind == "stochastic")
        whole = 2 << rounding.random_bits
        return (number - low) * whole + (high - low) * addend >= (high - low) * whole


class _Numbers(NamedTuple):
    """The numbers of codes 0 to the largest, ascending; value: float64, exact."""

    significand: IntArray
    exponent: IntArray
    value: npt.NDArray[np.float64]


@lru_cache(maxsize=16)
def _numbers(width: int, exponent_bits: int) -> _Numbers:
    """What the codes of the sign 0 mean, read bit by bit."""
    found = [(0, 0)]
    for code in range(1, 1 << (width - 1)):
        bits = f"{code:0{width - 1}b}"
        run = len(bits) - len(bits.lstrip(bits[0]))
        regime = run - 1 if bits[0] == "1" else -run
        rest = bits[run + 1 :]
        # Exponent bits that the regime has pushed out are zero.
        power = int(rest[:exponent_bits].ljust(exponent_bits, "0") or "0", 2)
        fraction = rest[exponent_bits:]
        found.append((int("1" + fraction, 2), (regime << exponent_bits) + power - len(fraction)))
    significand, exponent = (np.array(part, np.int64) for part in zip(*found, strict=True))
    return _Numbers(significand, exponent, np.ldexp(significand.astype(np.float64), exponent.astype(np.int32)))


def _toward_zero(values: RealArray) -> npt.NDArray[np.float64]:
    """Magnitudes cut to 53 bits, so that comparing them with a posit is comparing the exact ones."""
    excess = np.maximum(bit_length(values.significand) - 53, 0)
    exponent = np.clip(values.exponent + excess, -1000, 900)
    kept = np.where(values.kind == FINITE, values.significand >> excess, 0)
    return np.ldexp(kept.astype(np.float64), exponent.astype(np.int32))


def _equals(values: RealArray, table: _Numbers, place: IntArray) -> npt.NDArray[np.bool_]:
    """Whether magnitudes are the table's numbers at these places."""
    excess = np.maximum(bit_length(values.significand) - 53, 0)
    whole = (values.significand >> excess) << excess == values.significand
    return whole & (_toward_zero(values) == table.value[place])


def _common(*numbers: tuple[int, int]) -> tuple[int, ...]:
    """(significand, exponent) pairs as integers in units of one power of two."""
    least = min(exponent for _, exponent in numbers)
    return tuple(significand << (exponent - least) for significand, exponent in numbers)
