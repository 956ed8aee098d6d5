"""The four rounding modes (docs/numerics.md, section 2), on exact values, with the random bits as an argument."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import IntArray, bit_length, shift_right_jam
from halfulp.numerics.names import unknown_name

__all__ = ["NEAREST_EVEN", "OVERFLOWS", "TOWARD_ZERO", "Rounding", "check_overflow", "round_to_multiple"]

KINDS = ("nearest_even", "toward_zero", "stochastic", "stochastic_floor")
OVERFLOWS = ("saturate", "ieee")
"""What a finite value beyond the largest finite one becomes: that largest one, or Inf (NaN where there is no Inf)."""


@dataclass(frozen=True)
class Rounding:
    """A rounding mode: one of `KINDS`, with the number of random bits r for the stochastic ones.

    Spelled ``nearest_even``, ``toward_zero``, ``stochastic:R``, ``stochastic_floor:R`` (1 <= R <= 32; at the output
    of a GEMM at most 16).
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
) -> IntArray:
    """Round magnitudes significand * 2**exponent to integer multiples of 2**ulp_exponent.

    With x = lo + f * ulp, 0 <= f < 1, the result is lo + carry, where the fraction f is read as a fixed-point number
    of g bits with a jammed sticky bit, and carry = (f + addend >= 1) for a constant or random addend a mode.

    Parameters
    ----------
    significand, exponent, ulp_exponent
        int64 arrays of one shape; see `RealArray`. Results beyond 2**(61 - g) multiples come out as about that large
        a number, which is beyond every format, so that the caller's overflow test still holds.
    random
        uint32 array of that shape, each below 2**r: the R of the contract. Only for stochastic modes.

    Returns
    -------
    int64 array: the number of multiples.
    """
    r = rounding.random_bits
    g = r + 2 if rounding.is_stochastic else 2
    shift = exponent - (ulp_exponent - g)  # from units of 2**exponent to units of ulp / 2**g
    # An exact left shift, limited to what int64 holds: only values far beyond every format meet the limit.
    left = np.clip(shift, 0, 61 - bit_length(significand))
    fixed = np.where(shift >= 0, significand << left, shift_right_jam(significand, np.maximum(-shift, 0)))
    if rounding.kind == "toward_zero":
        return fixed >> g
    if rounding.kind == "nearest_even":
        # f is in quarters, the lower one sticky: up iff f = 3/4 (above a half), or f = 2/4 (the tie) and lo is odd.
        odd = (fixed >> g) & 1
        return (fixed + 1 + odd) >> g
    if random is None:
        raise ValueError(f"rounding {rounding} needs random words")
    word = random.astype(np.int64)
    if rounding.kind == "stochastic":
        addend = (2 * word + 1) << 1  # (R + 1/2) / 2**r in units of 2**-(r+2)
    else:
        addend = word << 2
    return (fixed + addend) >> g

