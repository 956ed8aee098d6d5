"""What loads of panels take on one core and memory, from any state on: walked once, or known from the sum of beats."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from halfulp.hw.config import BURST_BEATS, ArrayConfig
from halfulp.sim.core_clocks import core_clocks
from halfulp.sim.load_lines import Lines, Panel, PanelLines
from halfulp.sim.load_requests import Requests, RequestState
from halfulp.sim.memory_timing import WHOLE_BEAT, Credit, MemoryTiming

__all__ = ["LoadTable", "Loaded", "load_table"]


MOST_STATES = 10_000
"""So many are remembered of a core and memory, of which the next GEMM can make use; and so many panels."""


class _Block(NamedTuple):
    """A block of lines that are alike: bus words from the first one's start to its page's end, beats, and how many."""

    words: int
    beats: int
    lines: int


class Loaded(NamedTuple):
    """What a load does, in clocks from its beginning.

    clocks: until the loader's next block; state: number of the state then; starts, waits: of each panel, when its first
    block has arrived, and by how much steps without a gap have to be late to find all blocks; beats: bus words.
    """

    clocks: int
    state: int
    starts: tuple[int, ...]
    waits: tuple[int, ...]
    beats: int


class LoadTable:
    """What loads take on one core and memory, from which states: found out once for all GEMMs.

    States and panels have numbers, for they are large; state 0 is rest.
    """

    def __init__(self, config: ArrayConfig, memory: MemoryTiming, streams: bool) -> None:
        self.core = core_clocks(config)
        self._memory = memory
        self._most_ends = max(self.core.reads, memory.outstanding)
        # A request that has room in the reader has room in the memory.
        self._may_leap = streams and memory.outstanding >= self.core.reads
        self._may_stream = self._may_leap and memory.rate == WHOLE_BEAT
        self.clear()

    def clear(self) -> None:
        """Forget all but rest."""
        self.states: list[RequestState] = []
        self._panels: list[Panel] = []
        self._numbers: dict[RequestState, int] = {}
        self._panel_numbers: dict[Panel, int] = {}
        self._panel_lines: dict[Sequence[Panel], PanelLines] = {}
        self._waits: dict[tuple[int, int], int] = {}
        self._loads: dict[tuple[int, tuple[int, ...], tuple[int, ...]], Loaded] = {}
        self._state_number(RequestState(0, 0, 0, (), Credit(self._memory.rate).saved, 0))

    @property
    def is_full(self) -> bool:
        """Whether it is time to forget."""
        return max(len(self.states), len(self._panels), len(self._panel_lines)) > MOST_STATES

    def panel_number(self, panel: Panel) -> int:
        """The number of a panel."""
        number = self._panel_numbers.setdefault(panel, len(self._panels))
        if number == len(self._panels):
            self._panels.append(panel)
        return number

    def after(self, state: int, clocks: int) -> int:
        """The state that this one is so many clocks later."""
        number = self._waits.get((state, clocks))
        if number is None:
            number = self._state_number(self.states[state].after(clocks, self._memory.rate))
            self._waits[state, clocks] = number
        return number

    def over(self, state: int) -> int:
        """Clocks until all that was begun before a state is over."""
        accepted, begun, requested, ends, _, counted = self.states[state]
        return max(accepted, begun, requested, counted, *ends[-1:])

    def load(self, state: int, panels: tuple[int, ...], allowed: tuple[int, ...]) -> Loaded:
        """Load panels block by block in turn, from a state; allowed: clocks until their slots may be allocated."""
        known = self._loads.get((state, panels, allowed))
        if known is None:
            which = tuple([self._panels[number] for number in panels])
            if self._may_leap:
                known = self._stream(which, allowed, self.states[state]) if self._may_stream else None
                known = known or self._leap(which, allowed, self.states[state])
            known = known or self._run(which, allowed, self.states[state])
            self._loads[state, panels, allowed] = known
        return known

    def _loaded(
        self, panels: Sequence[Panel], clock: int, state: RequestState, arrivals: Sequence[Sequence[int]], beats: int
    ) -> Loaded:
        """What came of a load, the loader's next block in this clock."""
        return Loaded(
            clock,
            self._state_number(state.after(clock, self._memory.rate)),
            tuple(blocks[0] for blocks in arrivals),
            tuple(self._wait(panel, blocks) for panel, blocks in zip(panels, arrivals, strict=True)),
            beats,
        )

    def _wait(self, panel: Panel, arrivals: Iterable[int]) -> int:
        """By how much steps have to be late: each needs the block in which its bus word may end."""
        interval = self.core.interval
        firsts = (max(0, block - panel.slack) for block in range(0, panel.steps, self.core.block_steps))
        return max(at - interval * first for at, first in zip(arrivals, firsts, strict=True) if first < panel.steps)

    def _state_number(self, state: RequestState) -> int:
        number = self._numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
        return number

    def _run(self, panels: Sequence[Panel], allowed: Sequence[int], state: RequestState) -> Loaded:
        """Load line by line, burst by burst."""
        requests = Requests(self.core.reads, self._memory, state)
        clock = 0
        arrivals: list[list[int]] = [[] for _ in panels]
        for k in range(0, panels[0].steps, self.core.block_steps):
            for panel, since, arrived in zip(panels, allowed, arrivals, strict=True):
                requests.offered = max(clock, since) if k == 0 else clock
                lines = self._lines(panel, k)
                requests.take(lines.part(0, lines.number))
                clock = requests.offered + 1
                arrived.append(requests.ends[-1])
        return self._loaded(panels, clock, requests.state(self._most_ends), arrivals, requests.beats)

    def _leap(self, panels: Sequence[Panel], allowed: Sequence[int], state: RequestState) -> Loaded | None:
        """The same from the first lines and the last ones, where data come without a gap between; None where not.

        Once each request waits for an end, and as many bursts as are in flight take longer than the memory's latency,
        it stays so: only the sum of the beats counts. For requests take no more clocks than data: a line one, and two
        where it is cut at a page's end, and one where a block begins. What some are late for short bursts, those behind
        them make up for: no two lines of one beat follow each other.
        """
        depth, latency = self.core.reads, self._memory.read_latency
        lines = self._panel_lines.get(panels)
        if lines is None:
            lines = self._panel_lines[panels] = PanelLines(panels, self.core.block_steps, self.core.bus_bytes)
        bounds, beats = lines.bounds, lines.beats
        head, before, tail = 2 * depth + 16, self._most_ends + 4, 12
        resume = bounds[-1] - tail
        if resume - before < head or (len(panels) > 1 and allowed[1] > allowed[0] + bounds[0]):
            return None
        least = lines.least * WHOLE_BEAT // self._memory.rate
        if lines.is_seldom_cut:
            is_enough = lines.is_seldom_short and (depth - 4) * least > latency
        else:
            is_enough = lines.least >= 4 and (depth - 2) // 2 * least > latency
        if not is_enough or lines.most > BURST_BEATS:
            return None
        requests = Requests(depth, self._memory, state)
        requests.offered = allowed[0]
        first = lines.part(0, head)
        ends = requests.take_blocks(first, bounds, 0)
        if not requests.waits_for_ends:
            return None
        done = sum(beats for _, beats in first)
        ends |= {bound: requests.clock_of(beats[n] - done) for n, bound in enumerate(bounds) if head < bound <= resume}
        last = lines.part(resume - before, bounds[-1])
        come = beats[-1] - done - sum(beats for _, beats in last)
        flying: list[int] = []
        for words, count in last[:before]:
            if words < count:
                flying.append(requests.clock_of(come + words))
            come += count
            flying.append(requests.clock_of(come))
        requests.resume(flying, come)
        ends |= requests.take_blocks(last[before:], bounds, resume)
        arrivals = [[ends[bound] for bound in bounds[number :: len(panels)]] for number in range(len(panels))]
        return self._loaded(panels, requests.offered + 1, requests.state(self._most_ends), arrivals, beats[-1])

    def _stream(self, panels: Sequence[Panel], allowed: Sequence[int], state: RequestState) -> Loaded | None:
        """The same where lines are alike, a burst each, and data follow each other without a gap; None where not.

        Requests then run ahead of the data, a line a clock and two where a block begins, until as many bursts are in
        flight as the reader allows; from there on each waits for an end. No line has less than two beats, so that what
        once waits does so until the last.
        """
        parts = self._parts(panels)
        if parts is None:
            return None
        depth, latency, before = self.core.reads, self._memory.read_latency, state.ends
        least = min(block.beats for block in parts)
        # The first line.
        offered = max(allowed[0] + 1, state.accepted)
        begun = max(max(offered + 1, state.begun) + 1, state.requested)
        if len(before) >= depth:
            begun = max(begun, before[-depth] + 1)
        first = begun + 1 + latency
        if before:
            first = max(first, before[-1] + 1)
        end = first + parts[0].beats - 1
        # Each request has to be there when the data before have come.
        waited_for = before[max(0, len(before) + 1 - depth) :]
        nth = depth - len(waited_for) - 1
        if (depth - 1) * least <= latency or any(
            at + latency >= end + (nth + number) * least for number, at in enumerate(waited_for)
        ):
            return None
        if any(b - a < 2 for a, b in itertools.pairwise(waited_for)):
            return None

        ends: list[int] = []
        latest = end - parts[0].beats
        for block in parts:
            latest += block.beats * block.lines
            ends.append(latest)

        def begun_at(part: int, line: int) -> int:
            """When a line of a part was begun, its last being 0."""
            number = sum(block.lines for block in parts[: part + 1]) - line
            ahead = begun + number - 1 + part
            waits = len(before) + number - depth
            if waits <= 0:
                return ahead
            if waits <= len(before):
                return max(ahead, before[waits - 1] + 1)
            behind = depth + line
            while behind >= parts[part].lines:
                behind -= parts[part].lines
                part -= 1
            return max(ahead, ends[part] - behind * parts[part].beats + 1)

        if len(panels) > 1 and allowed[1] > begun_at(0, 2) + 1:
            return None
        final = len(parts) - 1
        clock = begun_at(final, 2) + 1
        last = begun_at(final, 0)
        flying: list[int] = []
        for at, block in zip(reversed(ends), reversed(parts), strict=True):
            flying.extend(range(at, at - block.beats * min(block.lines, self._most_ends), -block.beats))
            if len(flying) >= self._most_ends:
                break
        flying = [*before, *reversed(flying)][-self._most_ends :]
        after = RequestState(begun_at(final, 1), last, last + 1, tuple(flying), state.saved, state.counted)
        arrivals = [ends[number :: len(panels)] for number in range(len(panels))]
        return self._loaded(panels, clock, after, arrivals, sum(block.beats * block.lines for block in parts))

    def _parts(self, panels: Sequence[Panel]) -> list[_Block] | None:
        """The lines of all blocks in order; None where those of a block are not alike, too few, short or long."""
        parts = []
        for k in range(0, panels[0].steps, self.core.block_steps):
            for panel in panels:
                if panel.stride:
                    return None
                lines = self._lines(panel, k)
                [(words, beats)], count = lines.part(0, 1), lines.number
                if count < 3 or not 2 <= beats <= min(BURST_BEATS, words):
                    return None
                parts.append(_Block(words, beats, count))
        return parts

    def _lines(self, panel: Panel, k: int) -> Lines:
        """The lines of a block."""
        return panel.lines(k, self.core.block_steps, self.core.bus_bytes)


@lru_cache(maxsize=16)
def load_table(config: ArrayConfig, memory: MemoryTiming, streams: bool) -> LoadTable:
    """The table of this core and memory."""
    return LoadTable(config, memory, streams)
