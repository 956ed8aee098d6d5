"""When each block of operands has arrived: the clocks of `Loader` and `BurstReader` on a memory."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from halfulp.hw.config import BURST_BEATS
from halfulp.hw.schedule import GemmPlan, block_steps
from halfulp.sim.memory_timing import PAGE_BYTES, Credit, MemoryTiming, later, line_pattern

__all__ = ["FIRST_BLOCK", "NEXT_GROUP", "NEXT_PANEL", "LoadModel"]

FIRST_BLOCK = 10
"""Clocks from the start of a GEMM on a core at rest to the loader's first block: queue 3, planner 3, loader 4."""

NEXT_PANEL, NEXT_GROUP = 2, 4
"""Clocks that the loader takes more for a block with which a panel (or pair), or a group, begins."""


class _Piece(NamedTuple):
    """Blocks of one panel, reduced to what decides their clocks: where lines begin, and how many they are."""

    operand: int
    lanes: int
    address: int
    stride: int
    allowed: int  # clocks until its slot may be allocated, 0 where it need not wait or has one


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


class LoadModel:
    """Loads panels in the order in which they are asked for, as the core does.

    Parameters
    ----------
    plan
        The GEMM.
    memory
        Where its operands lie.

    Attributes
    ----------
    beats
        Bus words read so far.
    """

    def __init__(self, plan: GemmPlan, memory: MemoryTiming) -> None:
        config = plan.config
        self.beats = 0
        self._plan = plan
        self._operands = plan.operands
        self._block_steps = block_steps(config)
        self._memory = memory
        self._bus_bytes = config.bus_bytes
        self._most_ends = max(config.reads_outstanding, memory.outstanding)
        self._clock = FIRST_BLOCK
        saved = Credit(memory.rate).saved
        self._state = _State(0, 0, 0, (), saved, 0)
        # Since when a slot is free, for each that is.
        self._free: list[deque[int]] = [deque([-2] * (config.buffer_depth // words)) for words in plan.slot_words]
        self._known: dict[object, tuple[int, _State, list[list[int]], int]] = {}

    def free(self, operand: int, clock: int) -> None:
        """A slot is reported free in this clock."""
        self._free[operand].append(clock)

    def load(self, panels: tuple[tuple[int, int], ...], k: int, steps: int, *, pause: int) -> list[list[int]]:
        """Load the steps k … k + steps − 1 of panels, which begin and end with slots.

        Parameters
        ----------
        panels
            Operand and number of each: one, or A and B, block by block in turn.
        pause
            Clocks that the loader takes more for the first block: `NEXT_PANEL`, `NEXT_GROUP` or 0.

        Returns
        -------
        list of list of int
            A panel each, the clock of each block's last beat.
        """
        self._pass(pause)
        pieces = []
        for number, panel in panels:
            operand, bus = self._operands[number], self._bus_bytes
            start = panel * operand.lanes
            lanes = min(operand.lanes, operand.size - start)
            size = operand.element_bytes
            if operand.across_k:
                address, length = operand.address + k * operand.stride + start * size, lanes * size
            else:
                address = operand.address + start * operand.stride + k * size
                length = min(steps, self._block_steps) * size
            # The loader sees a free slot two clocks after it is told of it.
            allowed = max(0, self._free[number].popleft() + 2 - self._clock)
            pieces.append(_Piece(number, lanes, *line_pattern(address, operand.stride, length, bus), allowed))
        key = steps, *pieces, self._state
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._run(steps, pieces, self._state)
        duration, self._state, arrivals, beats = known
        clock = self._clock
        self._clock += duration
        self.beats += beats
        return [[clock + end for end in ends] for ends in arrivals]

    def state(self, clock: int) -> tuple[object, ...]:
        """All that decides what comes, clocks counted from this one."""
        now = self._clock
        free = tuple(tuple(max(0, at + 2 - now) for at in slots) for slots in self._free)
        return now - clock, self._state, free

    def skip(self, clocks: int, beats: int) -> None:
        """Go on as if so many clocks had passed with so many beats, and left all in the same state."""
        self._clock += clocks
        self.beats += beats
        for slots in self._free:
            for number, at in enumerate(slots):
                slots[number] = at + clocks

    def _pass(self, clocks: int) -> None:
        if clocks:
            self._clock += clocks
            self._state = _after(self._state, clocks, self._memory.rate)

    def _run(self, steps: int, pieces: list[_Piece], state: _State) -> tuple[int, _State, list[list[int]], int]:
        """Load pieces from a state; return clocks until the next block, the state then, arrivals, and beats."""
        memory, depth = self._memory, self._plan.config.reads_outstanding
        credit = Credit(memory.rate, state.counted, state.saved)
        accepted, begun, requested, ends = state.accepted, state.begun, state.requested, list(state.ends)
        clock = total = 0
        arrivals: list[list[int]] = [[] for _ in pieces]
        for k in range(0, steps, self._block_steps):
            for piece, arrived in zip(pieces, arrivals, strict=True):
                if k == 0:
                    clock = max(clock, piece.allowed)
                offered, end = clock, 0
                for word, beats in self._lines(piece, k, steps):
                    # A line is registered when the one before has been taken, and taken when that one is all begun.
                    offered = max(offered + 1, accepted)
                    accepted = max(offered + 1, begun)
                    begun = accepted - 1
                    total += beats
                    while beats:
                        burst = min(beats, BURST_BEATS, word)
                        beats -= burst
                        word = BURST_BEATS
                        begun = max(begun + 2, requested)
                        if len(ends) >= depth:
                            begun = max(begun, ends[-depth] + 1)
                        requested = begun + 1
                        if len(ends) >= memory.outstanding:
                            requested = max(requested, ends[-memory.outstanding] + 1)
                        first = requested + memory.read_latency
                        if ends:
                            first = max(first, ends[-1] + 1)
                        end = credit.send(first, burst)
                        ends.append(end)
                clock = offered + 1
                arrived.append(end)
        last = _State(accepted, begun, requested, tuple(ends[-self._most_ends :]), credit.saved, credit.clock)
        return clock, _after(last, clock, memory.rate), arrivals, total

    def _lines(self, piece: _Piece, k: int, steps: int) -> list[tuple[int, int]]:
        """Of each line of a block: bus words from its first one to the page's end, and its beats."""
        operand = self._operands[piece.operand]
        bus, size = operand.bus_bytes, operand.element_bytes
        here = min(self._block_steps, steps - k)
        whole = 0
        if operand.across_k:
            address, count, length = piece.address + k * piece.stride, here, piece.lanes * size
        else:
            address, count, length = piece.address + k * size, piece.lanes, here * size
            # But for the last block of a slot, which takes the word that a row runs into.
            whole = length // bus if k + here < steps else 0
        return [
            ((PAGE_BYTES - at % PAGE_BYTES + bus - 1) // bus, whole or (at % bus + length + bus - 1) // bus)
            for at in (address + number * piece.stride for number in range(count))
        ]


def _after(state: _State, clocks: int, rate: int) -> _State:
    """A state, clocks counted from so many later; what was before that counts no more."""
    counted = state.counted - clocks
    saved = state.saved
    if counted < 0:
        credit = Credit(rate, counted, saved)
        credit.advance(0)
        counted, saved = 0, credit.saved
    return _State(
        max(0, state.accepted - clocks),
        max(0, state.begun - clocks),
        max(0, state.requested - clocks),
        later(state.ends, clocks),
        saved,
        counted,
    )
