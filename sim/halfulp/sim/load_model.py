"""When each block of operands has arrived: the clocks of `Loader` and `BurstReader` on a memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from halfulp.hw.config import BURST_BEATS, ArrayConfig
from halfulp.hw.schedule import GemmPlan
from halfulp.sim.core_clocks import core_clocks
from halfulp.sim.memory_timing import PAGE_BYTES, WHOLE_BEAT, Credit, MemoryTiming, later, line_pattern

__all__ = ["FIRST_BLOCK", "NEXT_GROUP", "NEXT_PANEL", "LoadModel"]

FIRST_BLOCK = 10
"""Clocks from the start of a GEMM on a core at rest to the loader's first block: queue 3, planner 3, loader 4."""

NEXT_PANEL, NEXT_GROUP = 2, 4
"""Clocks that the loader takes more for a block with which a panel (or pair), or a group, begins."""

MOST_STATES = 10_000
"""So many are remembered of a core and memory, of which the next GEMM can make use."""


class _Panel(NamedTuple):
    """What decides the clocks of the part of a panel that one slot holds.

    across_k, element_bytes, slack, lanes: as in `OperandPlan`; address, stride: reduced to a pattern; steps: of K.
    """

    across_k: bool
    element_bytes: int
    slack: int
    lanes: int
    address: int
    stride: int
    steps: int


class _Block(NamedTuple):
    """A block of lines that are alike: bus words from the first one's start to its page's end, beats, and how many."""

    words: int
    beats: int
    lines: int


class _State(NamedTuple):
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

    def after(self, clocks: int, rate: int) -> _State:
        """The same, counted from so many clocks later; what was before that counts no more."""
        counted, saved = self.counted - clocks, self.saved
        if counted < 0:
            credit = Credit(rate, counted, saved)
            credit.advance(0)
            counted, saved = 0, credit.saved
        return _State(
            max(0, self.accepted - clocks),
            max(0, self.begun - clocks),
            max(0, self.requested - clocks),
            later(self.ends, clocks),
            saved,
            counted,
        )


class _Requests:
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

    def __init__(self, depth: int, memory: MemoryTiming, state: _State) -> None:
        self.offered = self.beats = 0
        self.ends = list(state.ends)
        self._accepted, self._begun, self._requested = state.accepted, state.begun, state.requested
        self._depth, self._memory = depth, memory
        self._credit = Credit(memory.rate, state.counted, state.saved)

    def state(self, most_ends: int) -> _State:
        """The state now, with so many ends."""
        ends = tuple(self.ends[-most_ends:])
        credit = self._credit
        return _State(self._accepted, self._begun, self._requested, ends, credit.saved, credit.clock)

    @property
    def waits_for_ends(self) -> bool:
        """Whether the last burst was begun as soon as another had ended, and its data follow those before."""
        ends = self.ends
        if len(ends) <= self._depth or self._begun != ends[-1 - self._depth] + 1:
            return False
        return self._requested + self._memory.read_latency <= ends[-2] + 1

    def resume(self, ends: list[int]) -> None:
        """Go on behind bursts of which each waited for an end: what was requested last follows from that."""
        self.ends = ends
        self._begun = ends[-1 - self._depth] + 1
        self._requested, self._accepted, self.offered = self._begun + 1, self._begun - 1, self._begun - 2

    def take_blocks(
        self, lines: Sequence[tuple[int, int]], bounds: Sequence[int], begin: int, end: int
    ) -> dict[int, int]:
        """Take these of the lines; return when each block that ends among them has come, by the bound it ends at."""
        come = {}
        for bound in bounds:
            if bound > begin:
                self.take(lines[begin : min(bound, end)])
                begin = min(bound, end)
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


class _Loaded(NamedTuple):
    """What a load does, in clocks from its beginning.

    clocks: until the loader's next block; state: number of the state then; starts, waits: of each panel, when its first
    block has arrived, and by how much steps without a gap have to be late to find all blocks; beats: bus words.
    """

    clocks: int
    state: int
    starts: tuple[int, ...]
    waits: tuple[int, ...]
    beats: int


class _Table:
    """What loads take on one core and memory, from which states: found out once for all GEMMs.

    States and panels have numbers, for they are large; state 0 is rest.
    """

    def __init__(self, config: ArrayConfig, memory: MemoryTiming, streams: bool) -> None:
        self.core = core_clocks(config)
        self._memory = memory
        self._most_ends = max(self.core.reads, memory.outstanding)
        # A request that has room in the reader has room in the memory.
        self._may_stream = streams and memory.rate == WHOLE_BEAT and memory.outstanding >= self.core.reads
        self.clear()

    def clear(self) -> None:
        """Forget all but rest."""
        self.states: list[_State] = []
        self._panels: list[_Panel] = []
        self._numbers: dict[_State, int] = {}
        self._panel_numbers: dict[_Panel, int] = {}
        self._waits: dict[tuple[int, int], int] = {}
        self._loads: dict[tuple[int, tuple[int, ...], tuple[int, ...]], _Loaded] = {}
        self._state_number(_State(0, 0, 0, (), Credit(self._memory.rate).saved, 0))

    def panel_number(self, panel: _Panel) -> int:
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

    def load(self, state: int, panels: tuple[int, ...], allowed: tuple[int, ...]) -> _Loaded:
        """Load panels block by block in turn, from a state; allowed: clocks until their slots may be allocated."""
        known = self._loads.get((state, panels, allowed))
        if known is None:
            which = [self._panels[number] for number in panels]
            if self._may_stream:
                known = self._stream(which, allowed, self.states[state])
                known = known or self._leap(which, allowed, self.states[state])
            known = known or self._run(which, allowed, self.states[state])
            self._loads[state, panels, allowed] = known
        return known

    def _loaded(
        self, panels: Sequence[_Panel], clock: int, state: _State, arrivals: Sequence[Sequence[int]], beats: int
    ) -> _Loaded:
        """What came of a load, the loader's next block in this clock."""
        return _Loaded(
            clock,
            self._state_number(state.after(clock, self._memory.rate)),
            tuple(blocks[0] for blocks in arrivals),
            tuple(self._wait(panel, blocks) for panel, blocks in zip(panels, arrivals, strict=True)),
            beats,
        )

    def _wait(self, panel: _Panel, arrivals: Iterable[int]) -> int:
        """By how much steps have to be late: each needs the block in which its bus word may end."""
        interval = self.core.interval
        firsts = (max(0, block - panel.slack) for block in range(0, panel.steps, self.core.block_steps))
        return max(at - interval * first for at, first in zip(arrivals, firsts, strict=True) if first < panel.steps)

    def _state_number(self, state: _State) -> int:
        number = self._numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
        return number

    def _run(self, panels: Sequence[_Panel], allowed: Sequence[int], state: _State) -> _Loaded:
        """Load line by line, burst by burst."""
        requests = _Requests(self.core.reads, self._memory, state)
        clock = 0
        arrivals: list[list[int]] = [[] for _ in panels]
        for k in range(0, panels[0].steps, self.core.block_steps):
            for panel, since, arrived in zip(panels, allowed, arrivals, strict=True):
                requests.offered = max(clock, since) if k == 0 else clock
                requests.take(self._lines(panel, k))
                clock = requests.offered + 1
                arrived.append(requests.ends[-1])
        return self._loaded(panels, clock, requests.state(self._most_ends), arrivals, requests.beats)

    def _leap(self, panels: Sequence[_Panel], allowed: Sequence[int], state: _State) -> _Loaded | None:
        """The same from the first lines and the last ones, where data come without a gap between; None where not.

        Once each request waits for an end, and as many bursts as are in flight take longer than the memory's latency,
        it stays so: only the sum of the beats counts. For requests take no more clocks than data: a line one, and two
        where it is cut at a page's end, and one where a block begins. What some are late for short bursts, those behind
        them make up for.
        """
        depth, latency = self.core.reads, self._memory.read_latency
        lines: list[tuple[int, int]] = []
        bounds: list[int] = []
        for k in range(0, panels[0].steps, self.core.block_steps):
            for panel in panels:
                lines += self._lines(panel, k)
                bounds.append(len(lines))
        head, before, tail = 2 * depth + 16, self._most_ends + 4, 12
        resume = len(lines) - tail
        if resume - before < head or (len(panels) > 1 and allowed[1] > allowed[0] + bounds[0]):
            return None
        beats = [line[1] for line in lines]
        cuts = [number for number, (words, count) in enumerate(lines) if words < count]
        least = min(beats)
        if all(after - cut >= 8 for cut, after in itertools.pairwise(cuts)):
            is_enough = least >= 2 and (depth - 4) * least > latency
        else:
            is_enough = least >= 4 and (depth - 2) // 2 * least > latency
        if not is_enough or max(beats) > BURST_BEATS:
            return None
        requests = _Requests(depth, self._memory, state)
        requests.offered = allowed[0]
        ends = requests.take_blocks(lines, bounds, 0, head)
        if not requests.waits_for_ends:
            return None
        sums = list(itertools.accumulate(beats, initial=requests.ends[-1] - sum(beats[:head])))
        flying: list[int] = []
        for number in range(resume - before, resume):
            words = lines[number][0]
            if words < beats[number]:
                flying.append(sums[number] + words)
            flying.append(sums[number + 1])
        requests.resume(flying)
        ends |= {bound: sums[bound] for bound in bounds if head < bound <= resume}
        ends |= requests.take_blocks(lines, bounds, resume, len(lines))
        arrivals = [[ends[bound] for bound in bounds[number :: len(panels)]] for number in range(len(panels))]
        last = requests.state(self._most_ends)
        return self._loaded(panels, requests.offered + 1, last, arrivals, sum(beats))

    def _stream(self, panels: Sequence[_Panel], allowed: Sequence[int], state: _State) -> _Loaded | None:
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
        after = _State(begun_at(final, 1), last, last + 1, tuple(flying), state.saved, state.counted)
        arrivals = [ends[number :: len(panels)] for number in range(len(panels))]
        return self._loaded(panels, clock, after, arrivals, sum(block.beats * block.lines for block in parts))

    def _parts(self, panels: Sequence[_Panel]) -> list[_Block] | None:
        """The lines of all blocks in order; None where those of a block are not alike, too few, short or long."""
        parts = []
        for k in range(0, panels[0].steps, self.core.block_steps):
            for panel in panels:
                if panel.stride:
                    return None
                lines = self._lines(panel, k)
                (words, beats), count = lines[0], len(lines)
                if count < 3 or not 2 <= beats <= min(BURST_BEATS, words):
                    return None
                parts.append(_Block(words, beats, count))
        return parts

    def _lines(self, panel: _Panel, k: int) -> list[tuple[int, int]]:
        """Of each line of a block: bus words from its first one to the page's end, and its beats."""
        bus, here = self.core.bus_bytes, min(self.core.block_steps, panel.steps - k)
        at, count, whole = panel.address + k * panel.element_bytes, panel.lanes, 0
        length = here * panel.element_bytes
        if panel.across_k:
            at, count, length = panel.address + k * panel.stride, here, panel.lanes * panel.element_bytes
        elif k + here < panel.steps:
            # But for the last block of a slot, which takes the word that a row runs into.
            whole = length // bus
        places = range(at, at + count * panel.stride, panel.stride) if panel.stride else (at,)
        lines = [
            ((PAGE_BYTES - at % PAGE_BYTES + bus - 1) // bus, whole or (at % bus + length + bus - 1) // bus)
            for at in places
        ]
        return lines if panel.stride else lines * count


@lru_cache(maxsize=16)
def _table(config: ArrayConfig, memory: MemoryTiming, streams: bool) -> _Table:
    return _Table(config, memory, streams)


class LoadModel:
    """Loads panels in the order in which they are asked for, as the core does.

    Parameters
    ----------
    plan
        The GEMM.
    memory
        Where its operands lie.
    streams
        False: load line by line even where data come without a gap, for comparison.

    Attributes
    ----------
    beats
        Bus words read so far.
    """

    def __init__(self, plan: GemmPlan, memory: MemoryTiming, *, streams: bool = True) -> None:
        config = plan.config
        self.beats = 0
        self._operands = plan.operands
        self._table = _table(config, memory, streams)
        if len(self._table.states) > MOST_STATES:
            self._table.clear()
        self._block_steps = self._table.core.block_steps
        self._saving = 0 if memory.rate == WHOLE_BEAT else 2 * WHOLE_BEAT // memory.rate + 2
        self._clock = FIRST_BLOCK
        self._state = 0
        # Since when a slot is free, for each that is.
        self._free: list[deque[int]] = [deque([-2] * (config.buffer_depth // words)) for words in plan.slot_words]
        # Numbers of panels that lie as all others of their operand do, by operand and first step.
        self._alike: dict[tuple[int, int], int] = {}

    @property
    def free_slots(self) -> Sequence[Iterable[int]]:
        """Since when slots of A, and of B, are free, for each that is."""
        return self._free

    @property
    def over(self) -> int:
        """From which clock on the loader and the bus are at rest, if nothing else is loaded."""
        return self._clock + self._table.over(self._state)

    @property
    def lies_alike(self) -> bool:
        """Whether whole panels of both operands are known to lie alike, each of them loaded in one part."""
        return (0, 0) in self._alike and (1, 0) in self._alike

    def longest(self, operands: tuple[int, ...]) -> int:
        """Most clocks that a load of these operands' panels takes where they lie alike, slots free, and all else over.

        That is from rest, but for credit of the bus that has been used up.
        """
        numbers = tuple([self._alike[operand, 0] for operand in operands])
        loaded = self._table.load(0, numbers, (0,) * len(operands))
        return NEXT_GROUP + self._saving + loaded.clocks + self._table.over(loaded.state)

    def pass_over(self, panels: Sequence[int]) -> None:
        """Count the bus words of so many panels of A, and of B, that lie alike."""
        for operand, times in enumerate(panels):
            self.beats += times * self._table.load(0, (self._alike[operand, 0],), (0,)).beats

    def free(self, operand: int, clock: int) -> None:
        """A slot is reported free in this clock."""
        self._free[operand].append(clock)

    def load(self, panels: Sequence[tuple[int, int]], k: int, steps: int, *, pause: int) -> tuple[int, _Loaded]:
        """Load the steps k … k + steps − 1 of panels, which begin and end with slots.

        Parameters
        ----------
        panels
            Operand and number of each: one, or A and B, block by block in turn.
        pause
            Clocks that the loader takes more for the first block: `NEXT_PANEL`, `NEXT_GROUP` or 0.

        Returns
        -------
        A clock, and what comes of the load, counted from it.
        """
        if pause:
            self._clock += pause
            self._state = self._table.after(self._state, pause)
        clock = self._clock
        # The loader sees a free slot two clocks after it is told of it.
        allowed = tuple([max(0, self._free[operand].popleft() + 2 - clock) for operand, _ in panels])
        numbers = tuple([self._number(operand, panel, k, steps) for operand, panel in panels])
        loaded = self._table.load(self._state, numbers, allowed)
        self._clock += loaded.clocks
        self._state = loaded.state
        self.beats += loaded.beats
        return clock, loaded

    def _number(self, operand: int, panel: int, k: int, steps: int) -> int:
        """The number of a panel's part."""
        plan = self._operands[operand]
        start, size = panel * plan.lanes, plan.element_bytes
        is_whole = start + plan.lanes <= plan.size
        if is_whole and (operand, k) in self._alike:
            return self._alike[operand, k]
        lanes = min(plan.lanes, plan.size - start)
        if plan.across_k:
            address, length, pitch = plan.address + k * plan.stride + start * size, lanes * size, plan.lanes * size
        else:
            address, length = plan.address + start * plan.stride + k * size, min(steps, self._block_steps) * size
            pitch = plan.lanes * plan.stride
        place, following = (line_pattern(at, plan.stride, length, plan.bus_bytes) for at in (address, address + pitch))
        number = self._table.panel_number(_Panel(plan.across_k, size, plan.slack, lanes, *place, steps))
        if is_whole and place == following:
            self._alike[operand, k] = number
        return number

    def state(self, clock: int) -> tuple[object, ...]:
        """All that decides what comes, clocks counted from this one."""
        now = self._clock
        free = tuple([tuple([at + 2 - now if at + 2 > now else 0 for at in slots]) for slots in self._free])
        return now - clock, self._state, free

    def skip(self, clocks: int, beats: int) -> None:
        """Go on as if so many clocks had passed with so many beats, and left all in the same state."""
        self._clock += clocks
        self.beats += beats
        for slots in self._free:
            for number, at in enumerate(slots):
                slots[number] = at + clocks
