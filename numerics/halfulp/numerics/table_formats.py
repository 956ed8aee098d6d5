"""Formats whose numbers have no one spacing: their magnitudes are a table, the code its index.

Rounding needs no more than the table: between the neighbours lo and hi of a magnitude lies the number from which on it
goes up, and that is exact in float64 (`TableFormat.encode`).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import FINITE, INFINITE, NAN, IntArray, RealArray, bit_length, shift_right_jam
from halfulp.numerics.format_base import Encoded, Format
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding, check_overflow

__all__ = ["Magnitudes", "TableFormat"]


class Magnitudes(NamedTuple):
    """The magnitudes of codes 0 to the largest, ascending.

    significand, exponent: int64, at most 16 bits of significand; value: the same in float64, exact, and one more: that
    to which a number beyond the largest is rounded before it overflows; tie: float64, halfway from each to the next.
    """

    significand: IntArray
    exponent: IntArray
    value: npt.NDArray[np.float64]
    tie: npt.NDArray[np.float64]


@dataclass(frozen=True)
class TableFormat(Format):
    """A format of a sign and one of `magnitudes`; a magnitude's code is its index."""

    @property
    @abstractmethod
    def magnitudes(self) -> Magnitudes:
        """What the codes of sign 0 mean."""

    @property
    @abstractmethod
    def nan_code(self) -> int:
        """The code of NaN; 0 where there is none."""

    @abstractmethod
    def _signed(self, codes: IntArray, negative: npt.NDArray[np.bool_]) -> IntArray:
        """The codes of the numbers of these magnitudes and signs."""

    @property
    def max_code(self) -> int:
        """Code of the largest number."""
        return len(self.magnitudes.tie) - 1

    def encode(
        self,
        values: RealArray,
        rounding: Rounding = NEAREST_EVEN,
        random: npt.NDArray[np.uint32] | None = None,
        overflow: str = "saturate",
    ) -> Encoded:
        """See `Format.encode`. Numbers saturate; an infinity becomes NaN under ``ieee``, where there is one.

        A stochastic mode goes up where (x - lo)/u + (R + h)/2**r >= 1, that is x >= hi - u * (R + h)/2**r. Neighbours
        have at most 17 bits from the higher one's first to the last of either, so this bound has at most 50, and
        float64 holds it. Of x 53 bits are enough then, the last one jammed.
        """
        check_overflow(overflow)
        table, top = self.magnitudes, self.max_code
        x = _jammed(values)
        lo = np.asarray(np.searchsorted(table.value, x, side="right") - 1, np.int64)
        place = np.minimum(lo, top)
        if rounding.kind == "nearest_even":
            tie = table.tie[place]
            up = (x > tie) | ((x == tie) & (place % 2 == 1))
        elif rounding.is_stochastic:
            if random is None:
                raise ValueError(f"rounding {rounding} needs random words")
            share = (2.0 * random + (rounding.kind == "stochastic")) * 2.0 ** -(rounding.random_bits + 1)
            low, high = table.value[place], table.value[place + 1]
            up = (x > low) & (x >= high - (high - low) * share)
        else:
            up = np.zeros(x.shape, np.bool_)
        rounded = np.where(lo > top, lo, place + up)
        is_nan, infinite = values.kind == NAN, values.kind == INFINITE
        too_large = ((values.kind == FINITE) & (rounded > top)) | infinite
        code = self._signed(np.where(too_large, top, rounded), values.negative)
        no_number = is_nan | (infinite & (overflow == "ieee")) if self.has_nan else is_nan
        code = np.where(no_number, self.nan_code, code)
        return Encoded(code.astype(self.code_dtype), is_nan & (not self.has_nan), too_large)


def _jammed(values: RealArray) -> npt.NDArray[np.float64]:
    """Magnitudes in float64, inexact ones with an odd significand; beyond all tables only about."""
    excess = np.maximum(bit_length(values.significand) - 53, 0)
    exponent = np.clip(values.exponent + excess, -1000, 900)
    kept = np.where(values.kind == FINITE, shift_right_jam(values.significand, excess), 0)
    return np.ldexp(kept.astype(np.float64), exponent.astype(np.int32))
