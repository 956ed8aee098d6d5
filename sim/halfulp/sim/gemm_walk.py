"""The tiles of a GEMM in order, and the clocks of their steps: the clocks of `Planner`, `Sequencer` and the array."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from halfulp.hw.schedule import GemmPlan
from halfulp.hw.tile_walk import TileWalk
from halfulp.sim.core_clocks import core_clocks
from halfulp.sim.drain_model import DrainModel
from halfulp.sim.load_lead import LoadLead, TileRun
from halfulp.sim.load_model import NEXT_GROUP, NEXT_PANEL, LoadModel
from halfulp.sim.memory_timing import MemoryTiming, line_pattern

__all__ = ["GemmWalk"]

FIRST_SEGMENT = 12
"""Clocks from the start of a GEMM on a core at rest to its first segment: queue 3, planner 3, loader 2, walk 4."""

ARRIVAL_LATENCY = 3
"""Clocks from a block's last beat on the bus to the first of its steps."""


class GemmWalk:
    """Follows the tiles of a GEMM.

    Parameters
    ----------
    plan, memory, out_bytes, c_address, c_stride
        As in `cycle_model.predict`.
    shortcuts
        False: tile by tile and line by line, for comparison.

    Attributes
    ----------
    load, drain
        What has been loaded, and written.
    """

    def __init__(
        self,
        plan: GemmPlan,
        memory: MemoryTiming,
        out_bytes: int,
        c_address: int,
        c_stride: int,
        *,
        shortcuts: bool = True,
    ) -> None:
        self.load = LoadModel(plan, memory, streams=shortcuts)
        self._shortcuts = shortcuts
        self._plan = plan
        self._core = core = core_clocks(plan.config)
        self._operands = plan.operands
        self._resident = plan.resident
        self._chunked, self._segment_steps = plan.chunked, plan.segment_steps
        self._out_bytes, self._c_address, self._c_stride = out_bytes, c_address, c_stride
        streamed = self._operands[1 - self._resident]
        self._groups, self._columns = list(plan.groups()), math.ceil(streamed.size / streamed.lanes)
        # The clocks of a tile's steps.
        self._steps = steps = core.interval * plan.k
        # Whether tiles that wait for nothing follow each other in these clocks.
        least = max(TileWalk.period, core.interval + core.feed + 1 + core.words)
        self.drain = DrainModel(plan, memory, out_bytes, c_address, c_stride, clocks=steps, calm=shortcuts)
        self._may_look_ahead = shortcuts and not self._chunked
        self._may_repeat = self._may_look_ahead and steps >= least and self.drain.stays_calm
        # Whether no tile that is left waits for a load.
        self._is_ahead = False
        # When the next segment is ready, and when the last step of the one before was issued.
        self._ready = FIRST_SEGMENT
        self._last = FIRST_SEGMENT
        self._last_of_tile = -core.feed
        # The GEMM's first step, from which on there is one every so many clocks.
        self._first: int | None = None
        # From when on the next tile's first random words may be made.
        self._may_make = 0

    def run(self) -> None:
        """Walk all groups."""
        plan = self._plan
        groups = self._groups
        # A group repeats the one before if it is as large and not the last, in which panels may be short of rows.
        alike = next((n for n, (_, size) in enumerate(groups[:-1]) if size != plan.group), len(groups) - 1)
        repeats = _Repeats()
        number = 0
        while number < len(groups):
            passed = self._group(number)
            start, size = groups[number + passed - 1]
            number += passed
            if number < alike:
                number += self._skip(repeats, number, alike, start + size, 0)

    def _group(self, number: int) -> int:
        """The tiles of one group, those of `GemmPlan.tiles`, or of more; return of how many."""
        start, size = self._groups[number]
        columns = self._columns
        runs = list(_growth(size, columns))
        pause = NEXT_GROUP if number else 0
        for n, run in enumerate(runs):
            # To look ahead is worth it now and then.
            if n & (n - 1) == 0 < n and (passed := self._pass_groups(number, runs[n:], size)):
                return passed
            self._tiles(start, size, run, pause)
            pause = NEXT_PANEL
        repeats = _Repeats()
        y = size
        while y < columns:
            n = y - size
            if n & (n - 1) == 0 and (passed := self._pass_groups(number, [], y)):
                return passed
            self._tiles(start, size, TileRun(0, y, size, True, (self._chunked, True)), NEXT_PANEL)
            y += 1
            # The last column frees the residents, and may be short of lanes.
            if y < columns - 1:
                y += self._skip(repeats, y, columns - 1, start, y)
        return 1

    def _pass_groups(self, number: int, runs: Sequence[TileRun], y: int) -> int:
        """Pass over the rest of a group, and of others behind it, if their tiles wait for nothing; return of how many.

        Where they wait for no load until the end, but for results, that is noted.
        number: of the group, of which these runs and the columns from y on are left.
        """
        if self._is_ahead or not self._may_look_ahead:
            return 0
        lanes = self._operands[0].lanes, self._operands[1].lanes
        lead = LoadLead(self.load, resident=self._resident, start=self._last + 1, steps=self._steps, lanes=lanes)
        columns, groups = self._columns, self._groups
        # The last group after which the loader is known to be at rest, and the tiles until then.
        passed, tiles, found = 0, 0, None
        for end, (_, size) in enumerate(groups[number:], 1):
            if end > 1:
                runs, y = list(_growth(size, columns)), size
            if not self._lead_group(lead, runs, size, y):
                break
            rest, self._is_ahead = lead.rest(), number + end == len(groups)
            if rest or self._is_ahead:
                passed, tiles, found = end, lead.tiles, rest
        if not (self._may_repeat and self._is_next_in_time):
            return 0
        if passed:
            start, size = groups[number + passed - 1]
            self._pass_tiles(tiles, start + size - 1, columns - 1)
            if found:
                self.load.go_on(found)
        return passed

    def _lead_group(self, lead: LoadLead, runs: Sequence[TileRun], size: int, y: int) -> bool:
        """Follow these runs of a group of so many residents, and columns from y on; return whether all is in time."""
        columns = self._columns
        return (
            all(lead.run(run, size=size, columns=columns) for run in runs)
            and (y >= columns - 1 or lead.columns(columns - 1 - y, size=size))
            and (
                y >= columns or lead.run(TileRun(0, columns - 1, size, True, (False, True)), size=size, columns=columns)
            )
        )

    @property
    def _is_next_in_time(self) -> bool:
        """Whether a tile without loads can begin in the clock after the last step."""
        return max(self._ready, self._may_make + self._core.words if self._core.words else 0) <= self._last

    def _tiles(self, start: int, size: int, run: TileRun, pause: int) -> None:
        """Tiles of the group of so many residents from panel `start` on."""
        x, y, count, along_resident, loads = run
        if self._is_ahead:
            self._more_tiles(start + x, y, count, along_resident)
            return
        resident = self._resident
        last_column, last_resident = self._columns - 1, size - 1
        self._tile(start + x, y, loads, pause, y == last_column, x == last_resident)
        if count == 1:
            return
        if self._may_repeat and self._is_next_in_time:
            ends: Sequence[int] = range(self._last + self._steps, self._last + count * self._steps, self._steps)
            last = count - 1
            self._pass_tiles(last, start + x + (last if along_resident else 0), y + (0 if along_resident else last))
        else:
            x_next, y_next = (x + 1, y) if along_resident else (x, y + 1)
            ends = self._more_tiles(start + x_next, y_next, count - 1, along_resident)
        # Each tile frees its own panel of those along which they go, and the last one that which all share.
        across, along = (1 - resident, resident) if along_resident else (resident, 1 - resident)
        if (y == last_column) if along_resident else (x == last_resident):
            self._free(along, ends)
        if (x + count > last_resident) if along_resident else (y + count > last_column):
            self._free(across, ends[-1:])

    def _free(self, operand: int, ends: Iterable[int]) -> None:
        """Slots are free after steps issued in these clocks."""
        lanes = self._operands[operand].lanes
        for end in ends:
            self.load.free(operand, end + lanes)

    def _more_tiles(self, x: int, y: int, count: int, along_resident: bool) -> list[int]:
        """So many tiles from that of these panels on, of one segment each, that wait for no load; return their ends."""
        core, drain, whole = self._core, self.drain, self._plan.k
        interval, words, capture, pause = core.interval, core.words, core.capture, core.feed + 1
        way, period, first_step = interval * (whole - 1), TileWalk.period, self._first
        assert first_step is not None
        ready, may_make, end = self._ready, self._may_make, self._last
        ends: list[int] = []
        for _ in range(count):
            taken = ready if ready > end else end
            if words:
                taken = max(taken, max(ready, may_make) + words)
            ready = taken + period
            accepted = max(taken + 1, drain.may_accept)
            end = max(taken + 1 + way, accepted, drain.last_step, end + pause)
            may_make = taken + 1
            if interval > 1:
                end += (first_step - end) % interval
                may_make += (first_step - may_make) % interval
            may_make = (end if whole == 1 else may_make) + pause
            ends.append(end)
            drain.drain(accepted, end + capture, self._results(*((y, x) if self._resident else (x, y))))
            x, y = (x + 1, y) if along_resident else (x, y + 1)
        self._ready, self._may_make, self._last, self._last_of_tile = ready, may_make, end, end
        return ends

    def _pass_tiles(self, count: int, x: int, y: int) -> None:
        """So many tiles that take as many clocks as their steps; resident and streamed panel of the last one."""
        core, steps = self._core, self._steps
        self._last += count * steps
        self._last_of_tile = self._last
        self._ready = self._last - steps + TileWalk.period
        self._may_make = self._last - steps + core.interval + core.feed + 1
        self.drain.go_on(self._last + core.capture, self._results(*((y, x) if self._resident else (x, y))))

    def _results(self, row: int, column: int) -> tuple[int, int, int]:
        """The results of the tile of these panels of A and B: rows, bytes of each, and where the first one goes."""
        a, b = self._operands
        row, column = row * a.lanes, column * b.lanes
        return (
            min(a.lanes, self._plan.m - row),
            min(b.lanes, self._plan.n - column) * self._out_bytes,
            self._c_address + row * self._c_stride + column * self._out_bytes,
        )

    def _tile(
        self, x: int, y: int, new: tuple[bool, bool], pause: int, free_resident: bool, free_streamed: bool
    ) -> None:
        """A tile: resident and streamed panel, which of them are loaded for it, and which are needed no more."""
        core, drain = self._core, self.drain
        a, b = self._operands
        whole = self._plan.k
        panels = (y, x) if self._resident else (x, y)
        news = new[::-1] if self._resident else new
        frees = (free_streamed, free_resident) if self._resident else (free_resident, free_streamed)
        loads = tuple([(operand, panels[operand]) for operand in (0, 1) if news[operand]])
        accepted = k = 0
        while k < whole:
            steps = min(self._segment_steps, whole - k)
            taken = max(self._ready, self._last)
            if k == 0 and core.words:
                taken = max(taken, max(self._ready, self._may_make) + core.words)
            self._ready = taken + TileWalk.period
            # The first step, and when the last one would be had it come at once.
            first = taken + 1
            way = core.interval * (steps - 1)
            end = first + way
            if k == 0:
                accepted = max(taken + 1, drain.may_accept)
            if loads:
                clock, loaded = self.load.load(loads, k, steps, pause=pause if k == 0 else 0)
                clock += ARRIVAL_LATENCY
                first = max(first, clock + max(loaded.starts))
                end = max(end, clock + way + max(loaded.waits))
            k += steps
            if k == whole:
                end = max(end, accepted, drain.last_step, self._last_of_tile + core.feed + 1)
            if self._first is None:
                self._first = end if whole == 1 else first
            end = self._step_at(end)
            if k == steps:
                self._may_make = (end if whole == 1 else self._step_at(first)) + core.feed + 1
            self._last = end
            if self._chunked or frees[0]:
                self.load.free(0, end + a.lanes)
            if self._chunked or frees[1]:
                self.load.free(1, end + b.lanes)
        self._last_of_tile = self._last
        drain.drain(accepted, self._last + core.capture, self._results(*panels))

    def _step_at(self, clock: int) -> int:
        """The first clock from this one on in which a step may be issued."""
        assert self._first is not None
        return clock + (self._first - clock) % self._core.interval

    def _skip(self, repeats: _Repeats, number: int, end: int, x: int, y: int) -> int:
        """Pass over columns or groups that repeat what went before: up to `end`; return how many.

        x, y: the panels that come next.
        """
        if not self._shortcuts:
            return 0
        clock = self._last
        panels = (y, x) if self._resident else (x, y)
        where: object = None
        if not self._is_ahead:
            where = self.load.state(clock), *(self._lines(operand, panel) for operand, panel in enumerate(panels))
        words = max(self._ready, self._may_make) - clock
        place = None if self.drain.stays_calm else self._place(*panels)
        key = where, place, self._ready - clock, words, self.drain.state(clock)
        return self._pass(repeats.find(key, number, clock), end - number)

    def _pass(self, found: tuple[int, int] | None, left: int) -> int:
        """Pass over as many whole periods as are left of what was found to repeat; return how many of it."""
        if found is None:
            return 0
        period, clocks = found
        times = left // period
        self._ready += times * clocks
        self._last += times * clocks
        self._last_of_tile += times * clocks
        self._may_make += times * clocks
        self.load.skip(times * clocks)
        self.drain.skip(times * clocks)
        return times * period

    def _lines(self, number: int, panel: int) -> tuple[int, int]:
        """How a panel's lines are cut into bursts."""
        operand = self._operands[number]
        pitch, length = operand.stride, min(self._plan.k, self._core.block_steps) * operand.element_bytes
        if operand.across_k:
            pitch, length = operand.element_bytes, operand.lanes * operand.element_bytes
        pitch *= operand.lanes
        return line_pattern(operand.address + panel * pitch, operand.stride, length, operand.bus_bytes, pitch)

    def _place(self, row: int, column: int) -> tuple[int, int]:
        """How a tile's rows of results are cut into bursts."""
        a, b = self._operands
        length = b.lanes * self._out_bytes
        address = self._c_address + row * a.lanes * self._c_stride + column * length
        return line_pattern(address, self._c_stride, length, self._core.bus_bytes, length)


def _growth(size: int, columns: int) -> Iterator[TileRun]:
    """The tiles with which a group begins, until all of its panels are there or the streamed ones have passed."""
    for y in range(min(size, columns)):
        yield TileRun(0, y, y + 1, True, (y == 0, True))
        if y < size - 1:
            yield TileRun(y + 1, 0, y + 1, False, (True, False))
    for x in range(columns + 1, size):
        yield TileRun(x, 0, columns, False, (True, False))


class _Repeats:
    """Remembers states, and finds one that was there before."""

    def __init__(self) -> None:
        self._seen: dict[object, tuple[int, int]] = {}

    def find(self, state: object, number: int, clock: int) -> tuple[int, int] | None:
        """How many numbers, and clocks, ago a state was there; None where it is new."""
        before = self._seen.get(state)
        self._seen[state] = number, clock
        return before and (number - before[0], clock - before[1])
