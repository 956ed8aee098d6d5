"""Logarithmic numbers: a sign and a fixed-point exponent (docs/numerics.md, section 1).

Kingsbury and Rayner, Electronics Letters 7(2), 1971; for training: Miyashita et al., arXiv:1603.01025.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import FINITE, IntArray, RealArray
from halfulp.numerics.table_formats import Magnitudes, TableFormat

__all__ = ["SIGNIFICAND_BITS", "LogFormat"]

SIGNIFICAND_BITS = 16
"""Bits that a power of two with a broken exponent is rounded to."""

MAX_INTEGER_BITS = 7
"""Of the exponent, before its point: magnitudes stay within float32's 2**-128 to 2**128."""

GUARD_BITS = 96
"""Fraction bits of the roots of two while the powers are computed."""


@dataclass(frozen=True)
class LogFormat(TableFormat):
    """A sign, then a biased exponent of `width` - 1 bits, `fraction_bits` (F) of them behind the point.

    Exponent field 0 is zero; field e is 2**((e - bias) / 2**F), bias = 2**(width - 2). Those powers 2**(f / 2**F) that
    are irrational are those numbers rounded to nearest to 16 significand bits, so that each value is a dyadic rational.
    No NaN, no Inf.
    """

    width: int
    fraction_bits: int

    def __post_init__(self) -> None:
        if not 3 <= self.width <= 16:
            raise ValueError(f"{self.name}: logarithmic formats have 3 to 16 bits, not {self.width}")
        least, most = max(self.width - 2 - MAX_INTEGER_BITS, 0), self.width - 2
        if not least <= self.fraction_bits <= most:
            raise ValueError(
                f"{self.name}: the exponent of {self.width} bits has {least} to {most} fraction bits, "
                f"not {self.fraction_bits}"
            )

    @property
    def bits(self) -> int:
        """Width of a code."""
        return self.width

    @property
    def bias(self) -> int:
        """Exponent bias, 2**(width - 2)."""
        return 1 << (self.width - 2)

    @property
    def min_exponent(self) -> int:
        """The least number's exponent, rounded down to an integer."""
        return (1 - self.bias) >> self.fraction_bits

    @property
    def lsb_exponent(self) -> int:
        """Exponent of the last place of the least number."""
        return self.min_exponent - (self.significand_bits - 1)

    @property
    def significand_bits(self) -> int:
        """16; 1 where all numbers are powers of two."""
        return SIGNIFICAND_BITS if self.fraction_bits else 1

    @property
    def max_shift(self) -> int:
        """Binades between the least number and the largest."""
        return int(self.magnitudes.exponent[-1]) - self.lsb_exponent

    @property
    def max_units(self) -> int:
        """The largest number, in units of the last place of the least."""
        return int(self.magnitudes.significand[-1]) << self.max_shift

    @property
    def nan_code(self) -> int:
        """0: there is no NaN."""
        return 0

    @property
    def sign_code(self) -> int:
        """The sign bit."""
        return 1 << (self.width - 1)

    @property
    def magnitudes(self) -> Magnitudes:
        """Zero, then a number for each exponent field."""
        return _magnitudes(self.width, self.fraction_bits)

    def _decode(self, codes: npt.NDArray[np.int64]) -> RealArray:
        table, place = self.magnitudes, codes & (self.sign_code - 1)
        kind = np.full(codes.shape, FINITE, np.uint8)
        return RealArray(codes >= self.sign_code, table.significand[place], table.exponent[place], kind)

    def _signed(self, codes: IntArray, negative: npt.NDArray[np.bool_]) -> IntArray:
        return np.where(negative, codes | self.sign_code, codes)


@lru_cache(maxsize=32)
def _magnitudes(width: int, fraction_bits: int) -> Magnitudes:
    powers = np.array(powers_of_two(fraction_bits), np.int64)
    field = np.arange(1 << (width - 1))
    # The bias is a multiple of 2**F: the exponent's integer and fraction are the field's.
    whole = (field >> fraction_bits) - (1 << (width - 2 - fraction_bits))
    significand = powers[field & (len(powers) - 1)]
    exponent = whole - (int(powers[0]).bit_length() - 1)
    significand[0] = exponent[0] = 0
    value = np.ldexp(significand.astype(np.float64), exponent.astype(np.int32))
    value = np.append(value, 2.0 ** (1 << (width - 2 - fraction_bits)))
    return Magnitudes(significand, exponent, value, (value[1:] + value[:-1]) / 2)


@lru_cache(maxsize=16)
def powers_of_two(fraction_bits: int) -> tuple[int, ...]:
    """2**(f / 2**F) for f = 0 to 2**F - 1, times 2**15, rounded to nearest; for F = 0 just 1.

    Products of the roots of two, each an integer square root of the one before. A product is at most F + 1 roots, each
    rounded down by less than 2**-96 of it, so that it is low by less than 2**-90; no power but 1 lies that near a tie
    (tests/numerics/test_log_formats.py).
    """
    if fraction_bits == 0:
        return (1,)
    root, exact = 2 << GUARD_BITS, [1 << GUARD_BITS]
    for _ in range(fraction_bits):
        root = isqrt(root << GUARD_BITS)
        # Each so far, and each times this finer root.
        exact = [p for power in exact for p in (power, power * root >> GUARD_BITS)]
    drop = GUARD_BITS - (SIGNIFICAND_BITS - 1)
    return tuple((power + (1 << (drop - 1))) >> drop for power in exact)
