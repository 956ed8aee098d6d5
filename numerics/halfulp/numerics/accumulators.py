"""Accumulators: how the exact products of a dot product are summed (docs/numerics.md, section 3)."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

from halfulp.numerics.formats import Format
from halfulp.numerics.names import unknown_name

__all__ = ["MAX_ACCUMULATOR_BITS", "Accumulator", "ExactAccumulator", "parse_accumulator"]

MAX_ACCUMULATOR_BITS = 128
"""Widest accumulator that hardware is generated for."""


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


def parse_accumulator(text: str | Accumulator) -> Accumulator:
    """Read ``exact`` or ``exact:MAX_K``; an accumulator is returned as it is."""
    if isinstance(text, Accumulator):
        return text
    kind, colon, rest = text.strip().lower().partition(":")
    if kind == "exact":
        if colon and not rest.isdecimal():
            raise ValueError(f"accumulator {text!r}: max_k must be an integer, not {rest!r}")
        return ExactAccumulator(int(rest) if colon else None)
    raise unknown_name("accumulator", text, ["exact", "exact:MAX_K"])
