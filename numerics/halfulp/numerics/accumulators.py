"""Accumulators: how the exact products of a dot product are summed (docs/numerics.md, section 3)."""

from __future__ import annotations

import re
from abc import ABC
from dataclasses import dataclass

from halfulp.numerics.formats import FloatFormat, Format, get_format
from halfulp.numerics.names import UnknownNameError, unknown_name
from halfulp.numerics.rounding import NEAREST_EVEN, OVERFLOWS, Rounding, check_overflow

__all__ = [
    "MAX_ACCUMULATOR_BITS",
    "Accumulator",
    "ExactAccumulator",
    "FixedAccumulator",
    "FloatAccumulator",
    "parse_accumulator",
]

MAX_ACCUMULATOR_BITS = 128
"""Widest accumulator that hardware is generated for."""

MAX_STEP_BITS = 24
"""Most random bits of one rounding inside an accumulator."""


@dataclass(frozen=True)
class Accumulator(ABC):  # noqa: B024  (a closed family: what differs is data, matched by type)
    """What sums a dot product."""


@dataclass(frozen=True)
class ExactAccumulator(Accumulator):
    """Fixed point wide enough that no sum of `max_k` products is inexact (Kulisch).

    Spelled ``exact`` (no limit, for software) or ``exact:MAX_K``.
    """

    max_k: int | None = None

    def __post_init__(self) -> None:
        if self.max_k is not None and self.max_k < 1:
            raise ValueError(f"max_k of an exact accumulator must be at least 1, not {self.max_k}")

    def check_k(self, k: int) -> None:
        """Raise where `k` products may not fit."""
        if self.max_k is not None and k > self.max_k:
            raise ValueError(f"K = {k} is beyond the exact accumulator's max_k = {self.max_k}")

    @staticmethod
    def width(a: Format, b: Format, max_k: int) -> int:
        """Bits, sign included, of a sum of max_k products, in units of both formats' least ulps."""
        return (a.max_units * b.max_units * max_k).bit_length() + 1

    def __str__(self) -> str:
        return "exact" if self.max_k is None else f"exact:{self.max_k}"


@dataclass(frozen=True)
class FixedAccumulator(Accumulator):
    """A window of `width` bits, two's complement, in units of 2**lsb.

    A product's magnitude is cut off below 2**lsb; each sum, k ascending, saturates and then raises `overflow`.
    Spelled ``fixed:WIDTH:LSB``, as in ``fixed:24:-12``.
    """

    width: int
    lsb: int

    def __post_init__(self) -> None:
        for name, value in (("width", self.width), ("lsb", self.lsb)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} of a fixed accumulator must be an integer, not {value!r}")
        if not 2 <= self.width <= MAX_ACCUMULATOR_BITS:
            raise ValueError(f"a fixed accumulator has 2 to {MAX_ACCUMULATOR_BITS} bits, not {self.width}")
        if abs(self.lsb) > 1024:
            raise ValueError(f"lsb of a fixed accumulator must be within ±1024, not {self.lsb}")

    @property
    def smallest(self) -> int:
        """The least sum, in units of 2**lsb."""
        return -(1 << (self.width - 1))

    @property
    def largest(self) -> int:
        """The greatest sum, in units of 2**lsb."""
        return (1 << (self.width - 1)) - 1

    def __str__(self) -> str:
        return f"fixed:{self.width}:{self.lsb}"


@dataclass(frozen=True)
class FloatAccumulator(Accumulator):
    """A float that is rounded at each step: acc <- round(acc + a * b), the sum exact, k ascending from +0.

    Parameters
    ----------
    format
        A `FloatFormat`, for its numbers: NaN and infinities are kept whether or not it has codes for them.
    rounding
        Any mode; the stochastic ones with up to 24 random bits.
    overflow
        ``saturate``: a sum beyond the largest finite number becomes that; ``ieee``: Inf (NaN in formats without Inf).

    Spelled ``eXmY``, ``eXmY:ROUNDING`` or ``eXmY:ROUNDING:OVERFLOW``, as in ``e6m5:stochastic:13`` and ``e8m23:ieee``.
    """

    format: FloatFormat
    rounding: Rounding = NEAREST_EVEN
    overflow: str = "saturate"

    def __post_init__(self) -> None:
        if not isinstance(self.format, FloatFormat):
            raise TypeError(f"the format of a float accumulator must be a float, not {self.format!r}")
        check_overflow(self.overflow)
        if self.rounding.random_bits > MAX_STEP_BITS:
            raise ValueError(f"a float accumulator takes at most {MAX_STEP_BITS} random bits, not {self.rounding}")

    def __str__(self) -> str:
        text = self.format.name if self.rounding == NEAREST_EVEN else f"{self.format.name}:{self.rounding}"
        return text if self.overflow == "saturate" else f"{text}:{self.overflow}"


def parse_accumulator(text: str | Accumulator) -> Accumulator:
    """Read ``exact``, ``exact:MAX_K``, ``fixed:WIDTH:LSB`` or ``eXmY[:ROUNDING][:OVERFLOW]``.

    An accumulator is returned as it is.
    """
    if isinstance(text, Accumulator):
        return text
    if not isinstance(text, str):
        raise TypeError(f"accumulator must be a string or an Accumulator, not {text!r}")
    kind, colon, rest = text.strip().lower().partition(":")
    if kind == "exact":
        if colon and not rest.isdecimal():
            raise ValueError(f"accumulator {text!r}: max_k must be an integer, not {rest!r}")
        return ExactAccumulator(int(rest) if colon else None)
    if kind == "fixed":
        found = re.fullmatch(r"(\d+):(-?\d+)", rest)
        if not found:
            raise ValueError(f"accumulator {text!r}: a window is spelled fixed:WIDTH:LSB, as in 'fixed:24:-12'")
        return FixedAccumulator(int(found[1]), int(found[2]))
    try:
        fmt = get_format(kind)
    except UnknownNameError:
        fmt = None
    if not isinstance(fmt, FloatFormat):
        known = ["exact", "exact:MAX_K", "fixed:WIDTH:LSB", "eXmY", "eXmY:ROUNDING", "eXmY:ROUNDING:OVERFLOW"]
        raise unknown_name("accumulator", text, known)
    mode, _, last = rest.rpartition(":")
    if last in OVERFLOWS:
        return FloatAccumulator(fmt, Rounding.parse(mode) if mode else NEAREST_EVEN, last)
    return FloatAccumulator(fmt, Rounding.parse(rest) if colon else NEAREST_EVEN)
