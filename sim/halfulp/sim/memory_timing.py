"""When a memory answers: the timing of `RtlCore`'s memory (axi_memory.h), without its random pauses."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

__all__ = ["PAGE_BYTES", "WHOLE_BEAT", "Credit", "MemoryTiming", "later", "line_pattern"]

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


class Credit:
    """What one direction of the bus may send: a beat a clock at most, `rate` of one on average.

    What is not used is saved up for less than two beats. `clock` and `saved`: when it was last counted, and how much
    there was then.
    """

    def __init__(self, rate: int, clock: int = 0, saved: int | None = None) -> None:
        self.rate = rate
        self.clock = clock
        self._most = WHOLE_BEAT + rate - 1
        self.saved = self._most if saved is None else saved

    def send(self, clock: int, beats: int) -> int:
        """Send beats of which the first is there from `clock` on; return the clock of the last one."""
        if self.rate == WHOLE_BEAT:
            return clock + beats - 1
        self.advance(clock)
        # While beats wait, nothing is saved up, so only the sum matters.
        wait = max(0, -((self.saved - beats * WHOLE_BEAT) // self.rate))
        self.saved += self.rate * wait - beats * WHOLE_BEAT
        self.clock += wait
        return self.clock

    def advance(self, clock: int) -> None:
        """Save up to a clock, which is not before the last one."""
        self.saved = min(self.saved + self.rate * (clock - self.clock), self._most)
        self.clock = clock


def line_pattern(address: int, stride: int, length: int, bus_bytes: int, pitch: int = 0) -> tuple[int, int]:
    """Address and stride of lines of `length` bytes, reduced to what decides how they are cut into bursts.

    Lines that lie in aligned powers of two are all cut alike; others by where they lie in a page. Where two patterns
    are equal, so are those of the lines `pitch` bytes further.
    """
    size = max(bus_bytes, 1 << (length - 1).bit_length())
    if size <= PAGE_BYTES and address % size + length <= size and stride % size == pitch % size == 0:
        return address % size, 0
    return address % PAGE_BYTES, stride % PAGE_BYTES


def later(clocks: tuple[int, ...], base: int) -> tuple[int, ...]:
    """Those of ascending clocks that are after `base`, counted from it."""
    return tuple([clock - base for clock in clocks[bisect_right(clocks, base) :]])
