"""When a memory answers: the timing of `RtlCore`'s memory (axi_memory.h), without its random pauses."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PAGE_BYTES", "WHOLE_BEAT", "MemoryTiming", "lies_alike"]

WHOLE_BEAT = 1 << 16
"""Bandwidth is counted in 2^-16 of a beat a clock, as the simulated memory does."""

PAGE_BYTES = 4096
"""No burst crosses a multiple of this address (AXI4 specification, A3.4.1)."""


@dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """A memory as `RtlCore` has it.

    Parameters
    ----------
    read_latency, write_latency
        Clocks from a read's address to its first data, and from a write's last data to its response; at least 1.
    bandwidth
        Data beats a clock in each direction, above 0 and at most 1; a beat is a bus word.
    outstanding
        Bursts that the memory holds in each direction, 1 to 128.
    """

    read_latency: int = 1
    write_latency: int = 1
    bandwidth: float = 1.0
    outstanding: int = 32

    def __post_init__(self) -> None:
        for name in ("read_latency", "write_latency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 clock or more, not {getattr(self, name)!r}")
        if not 1 / WHOLE_BEAT <= self.bandwidth <= 1:
            raise ValueError(f"bandwidth must be above 0 and at most 1 beat a clock, not {self.bandwidth!r}")
        if not 1 <= self.outstanding <= 128:
            raise ValueError(f"outstanding must be 1 to 128 bursts, not {self.outstanding!r}")

    @property
    def rate(self) -> int:
        """Bandwidth in 2^-16 beats a clock."""
        return round(self.bandwidth * WHOLE_BEAT)

    @property
    def most_saved(self) -> int:
        """Of the beats that a bus may send in a direction, what is not used is saved up for less than two: so much."""
        return WHOLE_BEAT + self.rate - 1


def lies_alike(address: int, stride: int, length: int, bus_bytes: int, pitch: int) -> bool:
    """Whether lines of `length` bytes, `stride` bytes apart, and those `pitch` bytes further are all cut alike.

    That is so of lines that each lie in an aligned power of two.
    """
    size = max(bus_bytes, 1 << (length - 1).bit_length())
    return size <= PAGE_BYTES and address % size + length <= size and stride % size == pitch % size == 0
