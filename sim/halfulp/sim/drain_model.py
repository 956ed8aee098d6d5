"""When a tile's results have left the array and are in memory: the clocks of `Drain` and `Writer`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from halfulp.hw.burst_writer import WRITES_OUTSTANDING
from halfulp.hw.config import BURST_BEATS, ArrayConfig
from halfulp.hw.schedule import GemmPlan
from halfulp.sim.core_clocks import core_clocks
from halfulp.sim.memory_timing import PAGE_BYTES, WHOLE_BEAT, Credit, MemoryTiming, later, line_pattern
from halfulp.sim.write_model import Pushes, WriteModel, WriteState, row_pushes

__all__ = ["DrainModel", "Results", "TileRows"]

MOST_STATES = 10_000
"""So many are remembered of a core and memory, of which the next GEMM can make use."""

CUT_CLOCKS = 4
"""Clocks that a burst more costs at most, beside its beats."""


Results = tuple[int, int, int]
"""Of a tile: rows of results, bytes of each, and where the first one goes."""


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
        self._longest: dict[tuple[int, int, int, range], int] = {}
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
            rows, row_bytes, address, stride = tile
            pushes = [self._pushes_of(address + row * stride, row_bytes) for row in range(rows)]
            known = self._tiles[key] = self._run(self.states[number], captured, pushes)
        return known

    def longest(self, rows: int, row_bytes: int, stride: int, places: range) -> int:
        """At least as many clocks as tiles up to this size take from capture to the last response, from rest.

        stride: bytes from a row of results to the next; places: where in a bus word rows begin.
        """
        key = rows, row_bytes, stride if stride < PAGE_BYTES else 0, places
        known = self._longest.get(key)
        if known is None:
            known = self._longest[key] = self._bound(rows, row_bytes, stride, places)
        return known

    def _bound(self, rows: int, row_bytes: int, stride: int, places: range) -> int:
        """`longest` by a tile that has as many bus words in each row as one can have, and what cuts at pages cost."""
        memory, waits = self._memory, self.core.position
        row: list[Pushes] = []
        pending = 0
        for group in zip(*(self._pushes_of(place, row_bytes) for place in places), strict=True):
            pushes: list[tuple[int, int]] = []
            for _ in range(max(map(len, group))):
                pending += 1
                pushes.append((pending - 1, pending if pending == BURST_BEATS else 0))
                pending %= BURST_BEATS
            row.append(tuple(pushes))
        (*before, (words, _)), bursts = row[-1], sum(beats > 0 for group in row for _, beats in group)
        row[-1] = (*before, (words, words + 1))
        uncut = self._run(self.states[0], waits, [tuple(row)] * rows).answered - waits
        # A page's end cuts one row at most, where they do not overlap; each cut makes a burst more.
        cuts = min(rows, rows * stride // PAGE_BYTES + 1) if stride >= row_bytes else rows
        beats = min(BURST_BEATS, sum(map(len, row)))
        cost = -(-beats * WHOLE_BEAT // memory.rate) + CUT_CLOCKS
        # Where the bursts that may be awaited take less time than the memory, each burst more may cost that.
        awaited = min(memory.outstanding, WRITES_OUTSTANDING) - 2
        if rows * (bursts + 1) + cuts >= awaited and (awaited - cuts) * (beats - 1) < memory.write_latency + CUT_CLOCKS:
            cost += memory.write_latency
        return uncut + cuts * cost

    def _number_of(self, state: _State) -> int:
        number = self._numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
        return number

    def _run(self, state: _State, captured: int, pushes_of_rows: Sequence[Sequence[Pushes]]) -> _Drained:
        core = self.core
        writer = WriteModel(self._memory, state.writes)
        released, read, taken = list(state.released), list(state.read), list(state.taken)
        move, rows = captured, len(pushes_of_rows)
        if len(released) > core.rows - rows:
            move = max(move, released[rows - core.rows - 1] + 1)
        start = walked = max(1, state.walked, state.closed[0] + 1)
        left = 0
        for available, row in enumerate(pushes_of_rows, move + 2):
            for pushes in row:
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
    """A tile that found the drain done with all before: when it was accepted and captured, and its results."""

    accepted: int
    captured: int
    results: Results


class DrainModel:
    """Takes tiles in the order of their computation.

    While each tile is captured long after the results of the one before are in memory, as in a GEMM with a large K, its
    results take as long as from rest, and of the state only its last two tiles count. `calm` is true until one is not.

    Parameters
    ----------
    plan
        The GEMM.
    memory
        Where results go.
    code_bytes
        Bytes a result.
    address, stride
        Where the first result goes, and bytes from a row of results to the next.
    clocks
        So many at least, from a tile's capture to that of the next.
    calm
        False: keep the whole state from the start, for comparison.

    Attributes
    ----------
    beats
        Bus words written so far, without those of calm tiles.
    stays_calm
        Whether all tiles are sure to be calm, wherever they lie.
    """

    def __init__(
        self,
        plan: GemmPlan,
        memory: MemoryTiming,
        code_bytes: int,
        address: int,
        stride: int,
        *,
        clocks: int,
        calm: bool = True,
    ) -> None:
        self.beats = 0
        self.calm = calm
        config = plan.config
        self._table = table = _table(config, memory, code_bytes)
        if len(table.states) > MOST_STATES:
            table.clear()
        self._core = table.core
        self._code_bytes, self._address, self._stride = code_bytes, address, stride
        self._clock = 0  # from which the state's clocks are counted: the last tile's acceptance
        self._number = 0
        self._tiles: list[_Calm] = []
        self._answered: int | None = 0
        # How long before capture all before has to be in memory: then the bus has saved up its credit, and positions of
        # the tile, which wait for those of the tile before, are there in time.
        self._margin = max(WHOLE_BEAT // memory.rate + 2, self._core.position - self._core.rounding - self._core.queue)
        self.stays_calm = calm and clocks >= self._core.capture and self._longest(plan) + self._margin < clocks

    @property
    def answered(self) -> int:
        """The clock of the last response."""
        if self._answered is None:
            waits, last = self._core.position, self._tiles[-1]
            self._answered = last.captured - waits + self._table.drain(0, waits, self._rows(last.results)).answered
        return self._answered

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
        return self._tiles[-1].captured + self._core.moved(self._tiles[-1].results[0])

    def drain(self, accepted: int, captured: int, results: Results) -> None:
        """Drain a tile that is accepted, and captured, in these clocks."""
        if self.calm:
            if self._is_calm(accepted, captured):
                self._tiles = [*self._tiles[-1:], _Calm(accepted, captured, results)]
                self._answered = None
                return
            self._lose_calm()
        self._count_from(accepted)
        self._number, answered, beats = self._table.drain(self._number, captured - accepted, self._rows(results))
        self._answered = accepted + answered
        self.beats += beats

    def go_on(self, captured: int, results: Results) -> None:
        """Pass over tiles that stay calm, of which this is the last one."""
        self._tiles = [_Calm(captured, captured, results)]
        self._answered = None

    def _longest(self, plan: GemmPlan) -> int:
        """At least as many clocks as a tile takes from capture to the last response, from rest."""
        config, core = plan.config, self._core
        row_bytes = config.columns * self._code_bytes
        most = min(config.rows, plan.m), min(config.columns, plan.n) * self._code_bytes
        places = [
            line_pattern(self._address, self._stride, row_bytes, core.bus_bytes, pitch)
            for pitch in (config.rows * self._stride, row_bytes)
        ]
        if any(place[1] for place in places):
            apart = math.gcd(self._stride, row_bytes, core.bus_bytes)
            return self._table.longest(*most, self._stride, range(self._address % apart, core.bus_bytes, apart))
        return self._table.drain(0, core.position, TileRows(*most, *places[0])).answered - core.position

    def _is_calm(self, accepted: int, captured: int) -> bool:
        """Whether results can be read as soon as they are captured, and all before is in memory."""
        if self.stays_calm:
            return True
        if accepted + self._core.position > captured:
            return False
        if not self._tiles:
            return True
        # So long after the tile before that the next one is accepted when positions of that one are under way.
        return self._tiles[-1].captured + self._core.capture <= captured and self.answered + self._margin < captured

    def _lose_calm(self) -> None:
        """The state after the last tile, from the one in which the last but one began: rest, as far as it counts."""
        self.calm = False
        for accepted, captured, results in self._tiles:
            self._count_from(accepted)
            self._number = self._table.drain(self._number, captured - accepted, self._rows(results)).number
        self._tiles = []

    def _rows(self, results: Results) -> TileRows:
        """What decides how a tile is written."""
        rows, row_bytes, address = results
        return TileRows(rows, row_bytes, *line_pattern(address, self._stride, row_bytes, self._core.bus_bytes))

    def state(self, clock: int) -> object:
        """All that decides what comes, clocks counted from this one, not before the last acceptance."""
        if self.stays_calm:
            return self.last_step - clock
        if self.calm:
            return tuple(
                [
                    (accepted - clock, captured - clock, self._rows(results))
                    for accepted, captured, results in self._tiles
                ]
            )
        self._count_from(clock)
        return self._number

    def skip(self, clocks: int) -> None:
        """Go on as if so many clocks had passed, and left all in the same state."""
        self._clock += clocks
        if self._answered is not None:
            self._answered += clocks
        self._tiles = [
            _Calm(accepted + clocks, captured + clocks, results) for accepted, captured, results in self._tiles
        ]

    def _count_from(self, clock: int) -> None:
        self._number = self._table.after(self._number, clock - self._clock)
        self._clock = clock
