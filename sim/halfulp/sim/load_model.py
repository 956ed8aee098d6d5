"""When each block of operands has arrived: the clocks of `Loader` and `BurstReader` on a memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from halfulp.hw.config import BURST_BEATS
from halfulp.hw.schedule import GemmPlan, OperandPlan
from halfulp.sim.load_lines import Panel
from halfulp.sim.load_table import Loaded, load_table
from halfulp.sim.memory_timing import PAGE_BYTES, WHOLE_BEAT, MemoryTiming, line_pattern
from halfulp.sim.traffic import line_words

__all__ = ["FIRST_BLOCK", "NEXT_GROUP", "NEXT_PANEL", "LoadModel", "LoadRest"]

FIRST_BLOCK = 10
"""Clocks from the start of a GEMM on a core at rest to the loader's first block: queue 3, planner 3, loader 4."""

NEXT_PANEL, NEXT_GROUP = 2, 4
"""Clocks that the loader takes more for a block with which a panel (or pair), or a group, begins."""

FIRST_LINE, IN_FLIGHT = 12, 4
"""At least as many clocks as a load takes beside its bursts, and a burst beside the memory's latency and its beats."""


class LoadRest(NamedTuple):
    """A loader that has been at rest for a while: when the slot that it waits for is there, and all that are free."""

    clock: int
    free: Sequence[Iterable[int]]


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
    saving
        Clocks in which a bus saves up all of its credit.
    """

    def __init__(self, plan: GemmPlan, memory: MemoryTiming, *, streams: bool = True) -> None:
        config = plan.config
        self.beats = 0
        self._operands = plan.operands
        self._table = load_table(config, memory, streams)
        if self._table.is_full:
            self._table.clear()
        self._block_steps = self._table.core.block_steps
        self._memory = memory
        self._steps = plan.segment_steps
        self.saving = 0 if memory.rate == WHOLE_BEAT else 2 * WHOLE_BEAT // memory.rate + 2
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

    def longest(self, operands: tuple[int, ...]) -> int:
        """At least as many clocks as a load of these operands' panels takes with slots free, and all before over.

        Of what lies alike: as many as from rest, and what the bus may have used up of its credit.
        """
        if all((operand, 0) in self._alike for operand in operands):
            numbers = tuple([self._alike[operand, 0] for operand in operands])
            loaded = self._table.load(0, numbers, (0,) * len(operands))
            return NEXT_GROUP + self.saving + loaded.clocks + self._table.over(loaded.state)
        lines = sum(self._line_clocks(self._operands[operand]) for operand in operands)
        return NEXT_GROUP + self.saving + FIRST_LINE + self._memory.read_latency + lines

    def _line_clocks(self, operand: OperandPlan) -> int:
        """At least as many clocks as the lines of a panel take from the first one's request on, wherever they lie.

        A burst costs the clocks of its beats, but no fewer than those in which as many are requested as may be in
        flight; where a line is cut no fewer than two for a burst more, and a block begins with one.
        """
        bus, memory, size = operand.bus_bytes, self._memory, operand.element_bytes
        blocks = -(-self._steps // self._block_steps)
        lines, length, pitch = self._steps, operand.lanes * size, operand.lanes * size
        if not operand.across_k:
            lines, length, pitch = operand.lanes, self._steps * size, operand.lanes * operand.stride
        apart = math.gcd(operand.stride, pitch, bus)
        places = range(operand.address % apart, bus, apart)
        most = (places[-1] + length + bus - 1) // bus
        words = max(line_words(place, operand.stride, lines, length, length, bus) for place in places)
        # A page's end cuts one line at most, where they do not overlap.
        cuts = lines * (length // PAGE_BYTES + 1)
        if operand.stride >= length:
            cuts = min(cuts, lines * operand.stride // PAGE_BYTES + 1)
        flying = min(self._table.core.reads, memory.outstanding)

        def clocks(beats: int) -> int:
            return -(-beats * WHOLE_BEAT // memory.rate)

        least = -(-(memory.read_latency + IN_FLIGHT + clocks(min(most, BURST_BEATS))) // flying)
        # What bursts need that have fewer beats than that: a line that is one, or the last two of a longer one.
        if most <= BURST_BEATS:
            short = max(0, least - clocks((places[0] + length + bus - 1) // bus))
        else:
            short = most // BURST_BEATS * max(0, least - clocks(BURST_BEATS)) + 2 * least
        return clocks(words) + lines * short + cuts * max(2, least) + blocks

    def go_on(self, rest: LoadRest) -> None:
        """Pass over loads, until the first ones of a group."""
        self._clock, self._state = rest.clock - NEXT_GROUP, 0
        self._free = [deque(slots) for slots in rest.free]

    def free(self, operand: int, clock: int) -> None:
        """A slot is reported free in this clock."""
        self._free[operand].append(clock)

    def load(self, panels: Sequence[tuple[int, int]], k: int, steps: int, *, pause: int) -> tuple[int, Loaded]:
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
        number = self._table.panel_number(Panel(plan.across_k, size, plan.slack, lanes, *place, steps))
        if is_whole and place == following:
            self._alike[operand, k] = number
        return number

    def state(self, clock: int) -> tuple[object, ...]:
        """All that decides what comes, clocks counted from this one."""
        now = self._clock
        free = tuple([tuple([at + 2 - now if at + 2 > now else 0 for at in slots]) for slots in self._free])
        return now - clock, self._state, free

    def skip(self, clocks: int) -> None:
        """Go on as if so many clocks had passed, and left all in the same state."""
        self._clock += clocks
        for slots in self._free:
            for number, at in enumerate(slots):
                slots[number] = at + clocks
