"""The four rounding modes on exact values, random bits as an argument (docs/numerics.md, section 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import IntArray, bit_length, shift_right_jam
from halfulp.numerics.names import unknown_name

__all__ = ["NEAREST_EVEN", "OVERFLOWS", "TOWARD_ZERO", "Rounding", "check_overflow", "round_to_multiple"]

KINDS = ("nearest_even", "toward_zero", "stochastic", "stochastic_floor")
OVERFLOWS = ("saturate", "ieee")
"""What a finite value beyond the largest becomes: that largest one, or Inf (NaN where there is no Inf)."""


@dataclass(frozen=True)
class Rounding:
    """A rounding mode: one of `KINDS`, with the number of random bits r for the stochastic ones.

    Spelled ``nearest_even``, ``toward_zero``, ``stochastic:R``, ``stochastic_floor:R`` (1 <= R <= 32; at the
    output of a GEMM at most 16).
    """

    kind: str
    random_bits: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("rounding", self.kind, KINDS)
        if not isinstance(self.random_bits, int) or isinstance(self.random_bits, bool):
            raise TypeError(f"random bits must be an integer, not {self.random_bits!r}")
        if self.is_stochastic and not 1 <= self.random_bits <= 32:
            raise ValueError(f"{self.kind} needs 1 to 32 random bits, not {self.random_bits}")
        if not self.is_stochastic and self.random_bits:
            raise ValueError(f"{self.kind} takes no random bits, not {self.random_bits}")

    @property
    def is_stochastic(self) -> bool:
        """Whether random bits decide."""
        return self.kind.startswith("stochastic")

    @classmethod
    def parse(cls, text: str) -> Rounding:
        """Read ``nearest_even``, ``toward_zero``, ``stochastic:R`` or ``stochastic_floor:R``."""
        kind, colon, bits = text.strip().lower().partition(":")
        if kind not in KINDS:
            raise unknown_name("rounding", text, ["nearest_even", "toward_zero", "stochastic:R", "stochastic_floor:R"])
        if not colon:
            if kind.startswith("stochastic"):
                raise ValueError(f"rounding {text!r} needs its number of random bits, as in '{kind}:8'")
            return cls(kind)
        if not bits.isdecimal():
            raise ValueError(f"rounding {text!r}: the number of random bits must be an integer, not {bits!r}")
        return cls(kind, int(bits))

    def __str__(self) -> str:
        return f"{self.kind}:{self.random_bits}" if self.is_stochastic else self.kind


NEAREST_EVEN = Rounding("nearest_even")
TOWARD_ZERO = Rounding("toward_zero")


def check_overflow(overflow: str) -> str:
    """Return `overflow`, or raise where it is none of `OVERFLOWS`."""
    if overflow not in OVERFLOWS:
        raise unknown_name("overflow behaviour", overflow, OVERFLOWS)
    return overflow


def round_to_multiple(
    significand: IntArray,
    exponent: IntArray,
    ulp_exponent: IntArray,
    rounding: Rounding,
    random: npt.NDArray[np.uint32] | None = None,
    odd: npt.NDArray[np.bool_] | None = None,
) -> IntArray:
    """Round magnitudes significand * 2**exponent to integer multiples of 2**ulp_exponent.

    With x = (lo + f) * ulp, lo an integer and 0 <= f < 1, the result is lo + carry, where the fraction f is
    read as a fixed-point number of g bits with a jammed sticky bit, and carry = (f + addend >= 1) for a
    constant or random addend a mode.

    Parameters
    ----------
    significand, exponent, ulp_exponent
        int64 arrays of one shape; see `RealArray`. Results beyond 2**61 multiples come out as about that
        large a number, which is beyond every format, so that the caller's overflow test still holds.
    random
        uint32 array of that shape, each below 2**r: the R of the contract. Only for stochastic modes.
    odd
        Whether the code of lo is odd, for a tie of `nearest_even`; where not given, lo's own parity, which is
        that of its code in every format with a fraction bit.

    Returns
    -------
    int64 array: the number of multiples.
    """
    r = rounding.random_bits
    g = r + 2 if rounding.is_stochastic else 2
    shift = exponent - ulp_exponent
    # An exact left shift, limited to what int64 holds: only values far beyond every format meet the limit.
    left = np.clip(shift, 0, 62 - bit_length(significand))
    right = np.clip(-shift, 0, 63)
    lo = (significand << left) >> right
    if rounding.kind == "toward_zero":
        return lo
    remainder = np.where(shift < 0, significand - (lo << right), 0)
    longer = np.maximum(-shift - g, 0)  # how many more bits the remainder has than f
    fraction = shift_right_jam(remainder, longer) << np.clip(g + shift, 0, g)
    if rounding.kind == "nearest_even":
        # f is in quarters, the lower one sticky: up iff f = 3/4 (above a half), or f = 2/4 (the tie) and lo
        # is odd.
        parity = lo & 1 if odd is None else odd.astype(np.int64)
        return lo + ((fraction + 1 + parity) >> g)
    if random is None:
        raise ValueError(f"rounding {rounding} needs random words")
    word = random.astype(np.int64)
    # R / 2**r in units of 2**-(r+2), and the 1/2 that centres it.
    addend = (word << 2) + (2 if rounding.kind == "stochastic" else 0)
    return lo + ((fraction + addend) >> g)
