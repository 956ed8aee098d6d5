"""When a tile's results have left the array and are in memory: the clocks of `Drain` and `Writer`."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from halfulp.hw.config import ArrayConfig
from halfulp.sim.core_clocks import core_clocks
from halfulp.sim.memory_timing import PAGE_BYTES, WHOLE_BEAT, Credit, MemoryTiming, later, line_pattern
from halfulp.sim.write_model import Pushes, WriteModel, WriteState, row_pushes

__all__ = ["DrainModel", "TileRows"]

MOST_STATES = 10_000
"""So many are remembered of a core and memory, of which the next GEMM can make use."""


class TileRows(NamedTuple):
    """What decides how a tile is written: rows of results, bytes of each, address and stride reduced to patterns."""

    rows: int
    row_bytes: int
    address: int
    stride: int


class _State(NamedTuple):
    """Clocks of the drain between two tiles, counted from some clock; what can decide nothing more is 0.

    started, closed: of the last tile but one and the last one, its start and when its last result was rounded; walked:
    when the last position entered its pipeline; read: when groups were; taken: when the writer took groups; last_step:
    from when on a last step may be issued; released: when rows left the row buffer.
    """

    started: tuple[int, int]
    closed: tuple[int, int]
    walked: int
    read: tuple[int, ...]
    taken: tuple[int, ...]
    last_step: int
    released: tuple[int, ...]
    writes: WriteState

    def after(self, clocks: int, rate: int) -> _State:
        """The same, counted from so many clocks later."""
        return _State(
            (max(0, self.started[0] - clocks), max(0, self.started[1] - clocks)),
            (max(0, self.closed[0] - clocks), max(0, self.closed[1] - clocks)),
            max(0, self.walked - clocks),
            later(self.read, clocks),
            later(self.taken, clocks),
            max(0, self.last_step - clocks),
            later(self.released, clocks),
            self.writes.after(clocks, rate),
        )


class _Drained(NamedTuple):
    """What a tile does to a drain: the state's number then, the clock of the last response, and bus words."""

    number: int
    answered: int
    beats: int


class _Table:
    """What tiles do to the drain of one core on one memory, from which states: found out once for all GEMMs.

    Clocks are counted from a tile's acceptance. States have numbers, for they are large; 0 is rest.
    """

    def __init__(self, config: ArrayConfig, memory: MemoryTiming, code_bytes: int) -> None:
        self.core = core_clocks(config)
        self._memory = memory
        self._code_bytes = code_bytes
        self.clear()

    def clear(self) -> None:
        """Forget all but rest."""
        self.states: list[_State] = []
        self._numbers: dict[_State, int] = {}
        self._tiles: dict[tuple[int, int, TileRows], _Drained] = {}
        self._waits: dict[tuple[int, int], int] = {}
        self._pushes: dict[tuple[int, int], tuple[Pushes, ...]] = {}
        writes = WriteState(saved=Credit(self._memory.rate).saved)
        self._number_of(_State((0, 0), (0, 0), 0, (), (), 0, (), writes))

    def after(self, number: int, clocks: int) -> int:
        """The state that this one is so many clocks later."""
        later_number = self._waits.get((number, clocks))
        if later_number is None:
            later_number = self._number_of(self.states[number].after(clocks, self._memory.rate))
            self._waits[number, clocks] = later_number
        return later_number

    def drain(self, number: int, captured: int, tile: TileRows) -> _Drained:
        """Drain a tile that is captured in this clock."""
        key = number, captured, tile
        known = self._tiles.get(key)
        if known is None:
            known = self._tiles[key] = self._run(self.states[number], captured, *tile)
        return known

    def _number_of(self, state: _State) -> int:
        number = self._numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
        return number

    def _run(self, state: _State, captured: int, rows: int, row_bytes: int, address: int, stride: int) -> _Drained:
        core = self.core
        writer = WriteModel(self._memory, state.writes)
        released, read, taken = list(state.released), list(state.read), list(state.taken)
        move = captured
        if len(released) > core.rows - rows:
            move = max(move, released[rows - core.rows - 1] + 1)
        start = walked = max(1, state.walked, state.closed[0] + 1)
        left = 0
        for row in range(rows):
            available = move + 2 + row
            for pushes in self._pushes_of(address + row * stride, row_bytes):
                # Positions and results each have a place behind their pipeline before they enter it.
                walked += 1
                if len(read) >= core.positions:
                    walked = max(walked, read[-core.positions] + 1)
                now = max(available, walked + core.position)
                if read:
                    now = max(now, read[-1] + 1)
                if len(taken) >= core.groups:
                    now = max(now, taken[-core.groups] + 1)
                read.append(now)
                left = now + core.rounding
                now = left + core.queue
                if taken:
                    now = max(now, taken[-1] + 1)
                now = max(now, writer.ready)
                taken.append(now)
                writer.take(now, pushes)
            released.append(read[-1])
        after = _State(
            (state.started[1], start),
            (state.closed[1], left),
            walked,
            tuple(read[-core.positions :]),
            tuple(taken[-core.groups :]),
            move + self.core.moved(rows),
            tuple(released[-core.rows :]),
            writer.state,
        )
        return _Drained(self._number_of(after), after.writes.answers[-1], writer.beats)

    def _pushes_of(self, address: int, row_bytes: int) -> tuple[Pushes, ...]:
        key = address % PAGE_BYTES, row_bytes
        row = self._pushes.get(key)
        if row is None:
            row = self._pushes[key] = row_pushes(*key, self.core.lanes * self._code_bytes, self.core.bus_bytes)
        return row


@lru_cache(maxsize=16)
def _table(config: ArrayConfig, memory: MemoryTiming, code_bytes: int) -> _Table:
    return _Table(config, memory, code_bytes)


class _Calm(NamedTuple):
    """A tile that found the drain done with all before: when it was accepted and captured."""

    accepted: int
    captured: int
    tile: TileRows


class DrainModel:
    """Takes tiles in the order of their computation.

    While each tile is captured long after the results of the one before are in memory, as in a GEMM with a large K, its
    results take as long as from rest, and of the state only its last two tiles count. `calm` is true until one is not.

    Parameters
    ----------
    config
        The core.
    memory
        Where results go.
    code_bytes
        Bytes a result.
    calm
        False: keep the whole state from the start, for comparison.

    Attributes
    ----------
    beats
        Bus words written so far.
    answered
        The clock of the last response.
    """

    def __init__(self, config: ArrayConfig, memory: MemoryTiming, code_bytes: int, *, calm: bool = True) -> None:
        self.beats = 0
        self.answered = 0
        self.calm = calm
        self._table = table = _table(config, memory, code_bytes)
        if len(table.states) > MOST_STATES:
            table.clear()
        self._core = table.core
        self._clock = 0  # from which the state's clocks are counted: the last tile's acceptance
        self._number = 0
        self._tiles: list[_Calm] = []
        self._address = self._stride = 0  # of the last tile's results
        # The last tile's bus words, and how long before capture all before has to be in memory: then it is written, the
        # bus has saved up its credit, and the next tile but one is not yet accepted.
        self._beats = 0
        self._margin = self._core.capture + WHOLE_BEAT // memory.rate + 2

    def accept(self, offered: int) -> int:
        """The clock in which a tile is accepted that is offered from this clock on."""
        if self.calm:
            return offered
        return max(offered, self._clock + self._table.states[self._number].started[0] + 1)

    @property
    def last_step(self) -> int:
        """From which clock on a last step may be issued."""
        if not self.calm:
            return self._clock + self._table.states[self._number].last_step
        if not self._tiles:
            return 0
        return self._tiles[-1].captured + self._core.moved(self._tiles[-1].tile.rows)

    def drain(self, *, accepted: int, captured: int, rows: int, row_bytes: int, address: int, stride: int) -> None:
        """Drain a tile of so many rows of results, which is accepted, and captured, in these clocks.

        row_bytes, address, stride: bytes of a row of results, where the first one goes, and to the next one.
        """
        tile = TileRows(rows, row_bytes, *line_pattern(address, stride, row_bytes, self._core.bus_bytes))
        if self.calm and not self._stays_calm(accepted, captured):
            self._lose_calm()
        if self.calm:
            self._drain_calmly(captured, tile)
            self._tiles = [*self._tiles[-1:], _Calm(accepted, captured, tile)]
            self._address, self._stride = address, stride
            return
        self._count_from(accepted)
        self._number, answered, beats = self._table.drain(self._number, captured - accepted, tile)
        self.answered = accepted + answered
        self.beats += beats

    def _stays_calm(self, accepted: int, captured: int) -> bool:
        """Whether results can be read as soon as they are captured, and all before is in memory."""
        is_early = accepted + self._core.position <= captured
        return is_early and (not self._tiles or self.answered + self._margin < captured)

    def _lose_calm(self) -> None:
        """The state after the last tile, from the one in which the last but one began: rest, as far as it counts."""
        self.calm = False
        for accepted, captured, tile in self._tiles:
            self._count_from(accepted)
            self._number = self._table.drain(self._number, captured - accepted, tile).number
        self._tiles = []

    def repeat(self, times: int, clocks: int, pitch: int) -> int:
        """Drain up to so many tiles like the last one, so many clocks and bytes apart; return after how many it halts.

        That is where the next one would not find all before in memory. Each is accepted in the clock after the last
        step of the one before.
        """
        if self._core.position >= clocks + self._core.capture:
            return 0
        captured, tile = self._tiles[-1].captured, self._tiles[-1].tile
        size = max(self._core.bus_bytes, 1 << (tile.row_bytes - 1).bit_length())
        passed, tiles = 0, [tile, tile]
        if tile.stride == 0 == pitch % size:
            if self.answered + self._margin < captured + clocks:
                passed = times
                self.answered += times * clocks
                self.beats += times * self._beats
        else:
            while passed < times and self.answered + self._margin < captured + (passed + 1) * clocks:
                passed += 1
                self._address += pitch
                place = line_pattern(self._address, self._stride, tile.row_bytes, self._core.bus_bytes)
                tiles = [tiles[-1], TileRows(tile.rows, tile.row_bytes, *place)]
                self._drain_calmly(captured + passed * clocks, tiles[-1])
        for number in range(max(1, passed - 1), passed + 1):
            now = captured + number * clocks
            after = _Calm(now - self._core.capture - clocks + 1, now, tiles[number - passed - 1])
            self._tiles = [self._tiles[-1], after]
        return passed

    def _drain_calmly(self, captured: int, tile: TileRows) -> None:
        """Drain a tile as from rest."""
        waits = self._core.position
        drained = self._table.drain(0, waits, tile)
        self.answered = captured - waits + drained.answered
        self._beats = drained.beats
        self.beats += drained.beats

    def state(self, clock: int) -> object:
        """All that decides what comes, clocks counted from this one, not before the last acceptance."""
        if self.calm:
            return tuple((accepted - clock, captured - clock, tile) for accepted, captured, tile in self._tiles)
        self._count_from(clock)
        return self._number

    def skip(self, clocks: int, beats: int) -> None:
        """Go on as if so many clocks had passed with so many beats, and left all in the same state."""
        self._clock += clocks
        self.answered += clocks
        self.beats += beats
        self._tiles = [_Calm(accepted + clocks, captured + clocks, tile) for accepted, captured, tile in self._tiles]

    def _count_from(self, clock: int) -> None:
        self._number = self._table.after(self._number, clock - self._clock)
        self._clock = clock
