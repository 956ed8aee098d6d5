"""When lines of operands are requested, and when they come: the clocks of the loader, `BurstReader` and the memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from halfulp.hw.config import BURST_BEATS
from halfulp.sim.memory_timing import WHOLE_BEAT, Credit, MemoryTiming, later

__all__ = ["RequestState", "Requests"]


class RequestState(NamedTuple):
    """Clocks of the loader and the reader, counted from the one in which the loader comes to its next block.

    accepted: the last line's, by the reader; begun: its last burst; requested: the last request on the bus; ends: the
    last beats of bursts that have not ended; saved, counted: credit of the bus, and when it was counted.
    """

    accepted: int
    begun: int
    requested: int
    ends: tuple[int, ...]
    saved: int
    counted: int

    def after(self, clocks: int, rate: int) -> RequestState:
        """The same, counted from so many clocks later; what was before that counts no more."""
        counted, saved = self.counted - clocks, self.saved
        if counted < 0:
            credit = Credit(rate, counted, saved)
            credit.advance(0)
            counted, saved = 0, credit.saved
        return RequestState(
            max(0, self.accepted - clocks),
            max(0, self.begun - clocks),
            max(0, self.requested - clocks),
            later(self.ends, clocks),
            saved,
            counted,
        )


class Requests:
    """Lines on their way through the loader, the reader and the bus, from a state on.

    Attributes
    ----------
    offered
        When the last line was offered to the reader; before a block, when the loader comes to it.
    ends
        The last beats of bursts.
    beats
        Bus words requested.
    """

    def __init__(self, depth: int, memory: MemoryTiming, state: RequestState) -> None:
        self.offered = self.beats = 0
        self.ends = list(state.ends)
        self._accepted, self._begun, self._requested = state.accepted, state.begun, state.requested
        self._depth, self._memory = depth, memory
        self._credit = Credit(memory.rate, state.counted, state.saved)

    def state(self, most_ends: int) -> RequestState:
        """The state now, with so many ends."""
        ends = tuple(self.ends[-most_ends:])
        credit = self._credit
        return RequestState(self._accepted, self._begun, self._requested, ends, credit.saved, credit.clock)

    @property
    def waits_for_ends(self) -> bool:
        """Whether the last burst was begun as soon as another had ended, and its data follow those before."""
        ends = self.ends
        if len(ends) <= self._depth or self._begun != ends[-1 - self._depth] + 1:
            return False
        return self._requested + self._memory.read_latency <= ends[-2] + 1

    def clock_of(self, beats: int) -> int:
        """When so many more beats have come, if they follow each other as fast as the bus may."""
        rate, last = self._credit.rate, self.ends[-1]
        return last + beats if rate == WHOLE_BEAT else last - (self._credit.saved - beats * WHOLE_BEAT) // rate

    def resume(self, ends: list[int], beats: int) -> None:
        """Go on behind so many beats, in bursts of which each waited for an end: what was requested last follows."""
        credit = self._credit
        if credit.rate != WHOLE_BEAT:
            credit.saved += credit.rate * (ends[-1] - credit.clock) - beats * WHOLE_BEAT
            credit.clock = ends[-1]
        self.ends = ends
        self._begun = ends[-1 - self._depth] + 1
        self._requested, self._accepted, self.offered = self._begun + 1, self._begun - 1, self._begun - 2

    def take_blocks(self, lines: Sequence[tuple[int, int]], bounds: Iterable[int], begin: int) -> dict[int, int]:
        """Take lines from number `begin` on; return when each block that ends among them has come, by where it ends.

        bounds: numbers of lines, where blocks end.
        """
        come = {}
        taken, end = 0, begin + len(lines)
        for bound in bounds:
            if bound <= begin:
                continue
            self.take(lines[taken : bound - begin])
            taken = bound - begin
            if bound > end:
                break
            come[bound] = self.ends[-1]
            if bound == end:
                break
            self.offered += 1
        return come

    def take(self, lines: Iterable[tuple[int, int]]) -> None:
        """Take lines of a block: bus words to the page's end, and beats, of each."""
        offered, accepted, begun, requested = self.offered, self._accepted, self._begun, self._requested
        depth, room, latency, ends = self._depth, self._memory.outstanding, self._memory.read_latency, self.ends
        credit, is_whole = self._credit, self._memory.rate == WHOLE_BEAT
        for word, beats in lines:
            # A line is registered when the one before has been taken, and taken when that one is all begun.
            offered = offered + 1 if offered >= accepted else accepted
            accepted = offered + 1 if offered >= begun else begun
            begun = accepted - 1
            self.beats += beats
            while beats:
                burst = beats if beats < BURST_BEATS else BURST_BEATS
                if burst > word:
                    burst = word
                beats -= burst
                word = BURST_BEATS
                begun = requested if requested > begun + 2 else begun + 2
                if len(ends) >= depth and ends[-depth] >= begun:
                    begun = ends[-depth] + 1
                requested = begun + 1
                if len(ends) >= room and ends[-room] >= requested:
                    requested = ends[-room] + 1
                first = requested + latency
                if ends and ends[-1] >= first:
                    first = ends[-1] + 1
                ends.append(first + burst - 1 if is_whole else credit.send(first, burst))
        self.offered, self._accepted, self._begun, self._requested = offered, accepted, begun, requested
