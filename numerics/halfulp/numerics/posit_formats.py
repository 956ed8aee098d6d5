"""Posits (docs/numerics.md, section 1): Gustafson and Yonemoto, Supercomputing Frontiers and Innovations 4(2), 2017."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import FINITE, NAN, IntArray, RealArray
from halfulp.numerics.table_formats import Magnitudes, TableFormat

__all__ = ["PositFormat"]


@dataclass(frozen=True)
class PositFormat(TableFormat):
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
    def magnitudes(self) -> Magnitudes:
        """The numbers of the codes of sign 0."""
        return _numbers(self.width, self.exponent_bits)

    def _decode(self, codes: npt.NDArray[np.int64]) -> RealArray:
        negative = codes > self.nan_code
        table = self.magnitudes
        nan = codes == self.nan_code
        place = np.where(nan, 0, np.where(negative, (1 << self.width) - codes, codes))
        kind = np.where(nan, NAN, FINITE).astype(np.uint8)
        return RealArray(negative, table.significand[place], table.exponent[place], kind)

    def _signed(self, codes: IntArray, negative: npt.NDArray[np.bool_]) -> IntArray:
        return np.where(negative, ((1 << self.width) - codes) & ((1 << self.width) - 1), codes)


@lru_cache(maxsize=32)
def _numbers(width: int, exponent_bits: int) -> Magnitudes:
    """The table: ties are the posits of one more bit. What is beyond the largest number overflows, however near."""
    significand, exponent = read_posits(width, exponent_bits)
    value = np.ldexp(significand.astype(np.float64), exponent.astype(np.int32))
    finer_significand, finer_exponent = read_posits(width + 1, exponent_bits)
    tie = np.ldexp(finer_significand[1::2].astype(np.float64), finer_exponent[1::2].astype(np.int32))
    tie[0] = 0  # what is not zero does not become zero
    return Magnitudes(significand, exponent, np.append(value, np.nextafter(value[-1], np.inf)), tie)


def read_posits(width: int, exponent_bits: int) -> tuple[IntArray, IntArray]:
    """Significands and exponents of the codes of sign 0, ascending, read bit by bit."""
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
    return significand, exponent
