"""What tiles do to the drain and the writer of one core on one memory, from any state on: walked once for all GEMMs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from halfulp.hw.burst_writer import WRITES_OUTSTANDING
from halfulp.hw.config import BURST_BEATS, ArrayConfig
from halfulp.sim.core_clocks import core_clocks
from halfulp.sim.memory_timing import PAGE_BYTES, WHOLE_BEAT, Credit, MemoryTiming, later
from halfulp.sim.write_model import NEVER, Pushes, WriteModel, WriteState, pushes_of, row_pushes

__all__ = ["DrainTable", "Results", "drain_table"]

MOST_STATES, MOST_TILES = 10_000, 100_000
"""So many are remembered of a core and memory, of which the next GEMM can make use: states, and places of tiles."""

CUT_CLOCKS = 4
"""Clocks that a burst more costs at most, beside its beats."""


Results = tuple[int, int, int]
"""Of a tile: rows of results, bytes of each, and where the first one goes."""


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


class Drained(NamedTuple):
    """What a tile does to a drain: the state's number then, the clock of the last response, and bus words.

    started, last_step: the state's, of the last tile but one, and from when on a last step may be issued.
    """

    number: int
    answered: int
    beats: int
    started: int
    last_step: int


class DrainTable:
    """What tiles do to the drain of one core on one memory, from which states: found out once for all GEMMs.

    Clocks are counted from a tile's acceptance. States have numbers, for they are large, 0 is rest; and so have rows of
    results, by the bus words of each group, and tiles, by those of their rows.
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
        self._drained: dict[tuple[int, int, int, int], Drained] = {}
        self._waits: dict[tuple[int, int], int] = {}
        self._rows: list[Sequence[Pushes]] = []
        self._row_numbers: dict[tuple[int, int], int] = {}
        self._tiles: list[tuple[int, ...]] = []
        self._tile_numbers: dict[tuple[int, ...], int] = {}
        self._known_tiles: dict[tuple[int, int, int, int], int] = {}
        self._longest: dict[tuple[int, int, int, range], int] = {}
        writes = WriteState(saved=Credit(self._memory.rate).saved)
        self._number_of(_State((0, 0), (0, 0), 0, (), (), 0, (), writes))

    @property
    def is_full(self) -> bool:
        """Whether it is time to forget."""
        return len(self.states) > MOST_STATES or len(self._known_tiles) > MOST_TILES

    def after(self, number: int, clocks: int) -> int:
        """The state that this one is so many clocks later."""
        later_number = self._waits.get((number, clocks))
        if later_number is None:
            later_number = self._number_of(self.states[number].after(clocks, self._memory.rate))
            self._waits[number, clocks] = later_number
        return later_number

    def drain(self, number: int, waited: int, captured: int, tile: int) -> Drained:
        """Drain a tile of this number, from this state so many clocks later on.

        That is when it is accepted, and from when on clocks are counted, `captured` as well.
        """
        key = number, waited, captured, tile
        known = self._drained.get(key)
        if known is None:
            if waited:
                known = self.drain(self.after(number, waited), 0, captured, tile)
            else:
                known = self._run(self.states[number], captured, [self._rows[row] for row in self._tiles[tile]])
            self._drained[key] = known
        return known

    def rest(self, tile: int) -> int:
        """Clocks from a tile's capture to the last response, where the drain was at rest before."""
        return self.drain(0, 0, self.core.position, tile).answered - self.core.position

    def tile(self, results: Results, stride: int) -> int:
        """The number of a tile, with so many bytes from a row of results to the next."""
        rows, row_bytes, address = results
        key = rows, row_bytes, address % PAGE_BYTES, stride % PAGE_BYTES
        number = self._known_tiles.get(key)
        if number is None:
            tile = tuple([self._row(address + row * stride, row_bytes) for row in range(rows)])
            number = self._known_tiles[key] = self._tile_numbers.setdefault(tile, len(self._tiles))
            if number == len(self._tiles):
                self._tiles.append(tile)
        return number

    def _row(self, address: int, row_bytes: int) -> int:
        """The number of a row of results: all that no page's end cuts are alike that begin alike in a bus word."""
        place = address % PAGE_BYTES
        if place + row_bytes <= PAGE_BYTES:
            place %= self.core.bus_bytes
        number = self._row_numbers.get((place, row_bytes))
        if number is None:
            number = self._row_numbers[place, row_bytes] = len(self._rows)
            self._rows.append(row_pushes(place, row_bytes, self.core.lanes * self._code_bytes, self.core.bus_bytes))
        return number

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
        memory, position = self._memory, self.core.position
        row: list[Pushes] = []
        pending = 0
        for group in zip(*(self._rows[self._row(place, row_bytes)] for place in places), strict=True):
            words: list[tuple[int, int]] = []
            for _ in range(max(pushes.number for pushes in group)):
                pending += 1
                words.append((pending - 1, pending if pending == BURST_BEATS else 0))
                pending %= BURST_BEATS
            row.append(pushes_of(words))
        beats = sum(pushes.number for pushes in row)
        bursts, beats = -(-beats // BURST_BEATS), min(beats, BURST_BEATS)
        *before, (pending, _) = row[-1].words
        row[-1] = pushes_of((*before, (pending, pending + 1)))
        uncut = self._run(self.states[0], position, [row] * rows).answered - position
        # A page's end cuts one row at most, where they do not overlap; each cut makes a burst more.
        cuts = min(rows, rows * stride // PAGE_BYTES + 1) if stride >= row_bytes else rows
        cost = -(-beats * WHOLE_BEAT // memory.rate) + CUT_CLOCKS
        # Where the bursts that may be awaited take less time than the memory, each burst more may cost that.
        awaited = min(memory.outstanding, WRITES_OUTSTANDING) - 2
        if rows * bursts + cuts >= awaited and (awaited - cuts) * (beats - 1) < memory.write_latency + CUT_CLOCKS:
            cost += memory.write_latency
        return uncut + cuts * cost

    def _number_of(self, state: _State) -> int:
        number = self._numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
        return number

    def _run(self, state: _State, captured: int, pushes_of_rows: Sequence[Sequence[Pushes]]) -> Drained:
        core = self.core
        writer = WriteModel(self._memory, state.writes)
        released = list(state.released)
        # Where there are none, they hold up nothing.
        read = [NEVER] * core.positions + list(state.read)
        taken = [NEVER] * core.groups + list(state.taken)
        move, rows = captured, len(pushes_of_rows)
        if len(released) > core.rows - rows:
            move = max(move, released[rows - core.rows - 1] + 2)
        start = walked = max(1, state.walked, state.closed[0] + 1)
        position, positions, groups, rounding = core.position, core.positions, core.groups, core.rounding + core.queue
        now = 0
        for available, row in enumerate(pushes_of_rows, move + 2):
            for pushes in row:
                # Positions and results each have a place behind their pipeline before they enter it.
                walked += 1
                if walked <= read[-positions]:
                    walked = read[-positions] + 1
                now = walked + position
                if now < available:
                    now = available
                if now <= read[-1]:
                    now = read[-1] + 1
                if now <= taken[-groups]:
                    now = taken[-groups] + 1
                read.append(now)
                now += rounding
                if now <= taken[-1]:
                    now = taken[-1] + 1
                if now < writer.ready:
                    now = writer.ready
                taken.append(now)
                writer.take(now, pushes)
            released.append(read[-1])
        left = read[-1] + core.rounding
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
        number = self._number_of(after)
        return Drained(number, after.writes.answers[-1], writer.beats, after.started[0], after.last_step)


@lru_cache(maxsize=16)
def drain_table(config: ArrayConfig, memory: MemoryTiming, code_bytes: int) -> DrainTable:
    """The table of this core and memory, with results of so many bytes."""
    return DrainTable(config, memory, code_bytes)
