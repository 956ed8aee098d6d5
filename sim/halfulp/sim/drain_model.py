"""When a tile's results have left the array and are in memory: the clocks of `Drain` and `Writer`."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from halfulp.hw.array import first_capture
from halfulp.hw.config import ArrayConfig
from halfulp.hw.drain import position_latency, result_latency
from halfulp.hw.row_buffer import buffered_rows
from halfulp.sim.memory_timing import Credit, MemoryTiming, later, line_pattern
from halfulp.sim.write_model import WriteModel, WriteState

__all__ = ["DrainModel"]


class _Halts(NamedTuple):
    """A rigid pipeline between two tiles: the last entry, and the times (from, to) in which it halts after that."""

    entered: int = 0
    halts: tuple[tuple[int, int], ...] = ()

    def after(self, clocks: int) -> _Halts:
        """The same, counted from so many clocks later."""
        halts = tuple((max(0, start - clocks), end - clocks) for start, end in self.halts if end > clocks)
        return _Halts(max(0, self.entered - clocks), halts)


class _RigidPipeline:
    """A pipeline that moves as a whole, and halts while what is at its end is not taken."""

    def __init__(self, length: int, state: _Halts) -> None:
        self._length = length
        self._entered = state.entered
        self._halts = deque(state.halts)
        # Clocks of all halts; of those that are over for the next entry.
        self._halted = sum(end - start for start, end in state.halts)
        self._passed = 0
        self._slots: deque[int] = deque()

    def enter(self, clock: int) -> int:
        """Put an item in, at this clock or as soon after it as possible; return when."""
        clock = max(clock, self._entered + 1)
        while self._halts and self._halts[0][0] <= clock:
            start, end = self._halts.popleft()
            self._passed += end - start
            clock = max(clock, end)
        self._entered = clock
        self._slots.append(clock - self._passed)
        return clock

    @property
    def arrival(self) -> int:
        """The clock from which on the oldest item is at the end."""
        return self._slots[0] + self._length + self._halted

    def leave(self, clock: int) -> None:
        """The oldest item is taken in this clock."""
        arrival = self.arrival
        self._slots.popleft()
        if clock > arrival:
            self._halts.append((arrival, clock))
            self._halted += clock - arrival

    @property
    def state(self) -> _Halts:
        """The state now, where nothing is inside that has not been told to leave."""
        return _Halts(self._entered, tuple(self._halts))


class _State(NamedTuple):
    """Clocks of the drain between two tiles, counted from some clock; what can decide nothing more is 0.

    started, closed: of the last tile but one and the last one, its start and the leaving of its last result; entered:
    the last position; last_step: from when on a last step may be issued; released: when rows left the row buffer.
    """

    started: tuple[int, int]
    closed: tuple[int, int]
    entered: int
    last_step: int
    released: tuple[int, ...]
    positions: _Halts
    results: _Halts
    writes: WriteState

    def after(self, clocks: int, rate: int) -> _State:
        """The same, counted from so many clocks later."""
        return _State(
            (max(0, self.started[0] - clocks), max(0, self.started[1] - clocks)),
            (max(0, self.closed[0] - clocks), max(0, self.closed[1] - clocks)),
            max(0, self.entered - clocks),
            max(0, self.last_step - clocks),
            later(self.released, clocks),
            self.positions.after(clocks),
            self.results.after(clocks),
            self.writes.after(clocks, rate),
        )


class DrainModel:
    """Takes tiles in the order of their computation.

    Parameters
    ----------
    config
        The core.
    memory
        Where results go.
    code_bytes
        Bytes a result.

    Attributes
    ----------
    beats
        Bus words written so far.
    answered
        The clock of the last response.
    """

    def __init__(self, config: ArrayConfig, memory: MemoryTiming, code_bytes: int) -> None:
        self.beats = 0
        self.answered = 0
        self._config = config
        self._memory = memory
        self._code_bytes = code_bytes
        self._first_capture = first_capture(config)
        self._clock = 0  # from which the state's clocks are counted: the last tile's acceptance
        # States by number, for a state is large: what was seen to follow from one is found by its number.
        self._states: list[_State] = []
        self._numbers: dict[_State, int] = {}
        self._tiles: dict[object, tuple[int, int, int]] = {}
        self._waits: dict[tuple[int, int], int] = {}
        writes = WriteState(saved=Credit(memory.rate).saved)
        self._number = self._number_of(_State((0, 0), (0, 0), 0, 0, (), _Halts(), _Halts(), writes))

    def accept(self, offered: int) -> int:
        """The clock in which a tile is accepted that is offered from this clock on."""
        return max(offered, self._clock + self._states[self._number].started[0] + 1)

    @property
    def last_step(self) -> int:
        """From which clock on a last step may be issued."""
        return self._clock + self._states[self._number].last_step

    def drain(self, *, accepted: int, captured: int, rows: int, row_bytes: int, address: int, stride: int) -> None:
        """Drain a tile of so many rows of results, which is accepted, and captured, in these clocks.

        row_bytes, address, stride: bytes of a row of results, where the first one goes, and to the next one.
        """
        self._count_from(accepted)
        pattern = line_pattern(address, stride, row_bytes, self._config.bus_bytes)
        key = self._number, captured - accepted, rows, row_bytes, pattern
        known = self._tiles.get(key)
        if known is None:
            state, answered, beats = self._run(captured - accepted, rows, row_bytes, *pattern)
            known = self._tiles[key] = self._number_of(state), answered, beats
        self._number, answered, beats = known
        self.answered = accepted + answered
        self.beats += beats

    def state(self, clock: int) -> int:
        """A number for all that decides what comes, clocks counted from this one, not before the last acceptance."""
        self._count_from(clock)
        return self._number

    def skip(self, clocks: int, beats: int) -> None:
        """Go on as if so many clocks had passed with so many beats, and left all in the same state."""
        self._clock += clocks
        self.answered += clocks
        self.beats += beats

    def _count_from(self, clock: int) -> None:
        waits = clock - self._clock
        number = self._waits.get((self._number, waits))
        if number is None:
            number = self._number_of(self._states[self._number].after(waits, self._memory.rate))
            self._waits[self._number, waits] = number
        self._number, self._clock = number, clock

    def _number_of(self, state: _State) -> int:
        number = self._numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            self._states.append(state)
        return number

    def _run(self, captured: int, rows: int, row_bytes: int, address: int, stride: int) -> tuple[_State, int, int]:
        """Drain a tile from the present state; return the state, the clock of the last response, and beats."""
        config, state = self._config, self._states[self._number]
        writer = WriteModel(config, self._memory, state.writes)
        positions = _RigidPipeline(position_latency(config), state.positions)
        results = _RigidPipeline(result_latency(config), state.results)
        depth = buffered_rows(config)
        group_bytes = config.lanes * self._code_bytes
        released = list(state.released)
        move = captured
        if len(released) > depth - rows:
            move = max(move, released[rows - depth - 1] + 1)
        start = entered = max(1, state.entered, state.closed[0] + 1)
        left = read = 0
        for row in range(rows):
            for begin in range(0, row_bytes, group_bytes):
                size = min(group_bytes, row_bytes - begin)
                entered = positions.enter(entered + 1)
                read = results.enter(max(move + 2 + row, positions.arrival))
                positions.leave(read)
                left = max(results.arrival, writer.ready)
                results.leave(left)
                writer.take(left, address + row * stride + begin, size, begin + size == row_bytes)
            released.append(read)
        last_step = move + 1 + max(0, rows - self._first_capture - 1)
        after = _State(
            (state.started[1], start),
            (state.closed[1], left),
            entered,
            last_step,
            tuple(released[-depth:]),
            positions.state,
            results.state,
            writer.state,
        )
        return after, after.writes.answers[-1], writer.beats
