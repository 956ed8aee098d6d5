"""How many clocks a core takes for a GEMM, without simulating it: equal to the core's own counter.

The model follows what the blocks say of their clocks, event by event instead of clock by clock: blocks of operands
from the loader over the bus into the buffers (`load_model`), tiles through the array (here), rows of results through
the drain into memory (`drain_model`, `write_model`). What begins in a state in which it began before is not walked
again: a load and a tile of any GEMM on the same core and memory, a column of tiles or a group of columns of this one.
Where data follow each other on the bus without a gap, or each tile waits for nothing, only their number counts; where
all loads to come are sure to be in time (`load_lead`), the rest of a GEMM of whole tiles is not walked at all.

Clocks are counted from the one in which the GEMM is started on a core at rest. The memory is that of
`halfulp.sim.rtl.RtlCore`, without its random pauses. Standard library only, but for what the hardware's own sources
need.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from halfulp.hw.schedule import GemmPlan
from halfulp.hw.tile_walk import TileWalk
from halfulp.sim.core_clocks import core_clocks
from halfulp.sim.drain_model import DrainModel
from halfulp.sim.load_lead import LoadLead, TileRun
from halfulp.sim.load_model import NEXT_GROUP, NEXT_PANEL, LoadModel
from halfulp.sim.memory_timing import MemoryTiming, line_pattern

__all__ = ["GemmCycles", "predict", "roofline", "walk_gemm"]

FIRST_SEGMENT = 12
"""Clocks from the start of a GEMM on a core at rest to its first segment: queue 3, planner 3, loader 2, walk 4."""

ARRIVAL_LATENCY = 2
"""Clocks from a block's last beat on the bus to the first of its steps."""

TOLD_LATENCY = 1
"""Clocks from the last answer of the memory to the one in which the core counts the GEMM as ended."""

_LOCK = threading.Lock()
"""Of what is remembered of cores and memories, for programs with threads."""


@dataclass(frozen=True, kw_only=True)
class GemmCycles:
    """What a GEMM costs on a core.

    cycles: what the core's counter shows; read_bytes, written_bytes: bus words that moved, in bytes; macs: M·N·K,
    scales not counted; elements: multiply-accumulates that the array can do a clock.
    """

    cycles: int
    read_bytes: int
    written_bytes: int
    macs: int
    elements: int

    @property
    def macs_per_cycle(self) -> float:
        """Multiply-accumulates a clock."""
        return self.macs / self.cycles

    @property
    def utilisation(self) -> float:
        """The same, of what the array can do."""
        return self.macs_per_cycle / self.elements

    def seconds(self, clock_hz: float) -> float:
        """The time at a clock of so many Hz."""
        return self.cycles / clock_hz

    def macs_per_second(self, clock_hz: float) -> float:
        """Multiply-accumulates a second at a clock of so many Hz."""
        return self.macs / self.seconds(clock_hz)


def roofline(plan: GemmPlan, *, out_bytes: int = 4, bandwidth: float = 1.0) -> float:
    """Most multiply-accumulates a clock: the array's, or what the bus allows if each operand is read only once.

    Parameters
    ----------
    plan
        The GEMM.
    out_bytes
        Bytes a result.
    bandwidth
        Bus words a clock in each direction.
    """
    config = plan.config
    read = (plan.m * config.a_bytes + plan.n * config.b_bytes) * plan.k
    words = max(read, plan.m * plan.n * out_bytes) / config.bus_bytes
    steps = config.rows * config.columns / config.interleave
    # Scales of blocks are steps of their own, and containers in memory.
    return min(steps, plan.m * plan.n * plan.k * bandwidth / words) * _elements(plan) / plan.k


def _elements(plan: GemmPlan) -> int:
    """Elements of K: what is left without the scales of blocks."""
    block = plan.config.block
    return plan.k - -(-plan.k // (block + 1)) if block else plan.k


@lru_cache(maxsize=4096)
def predict(
    plan: GemmPlan,
    *,
    out_bytes: int = 4,
    c_address: int = 0,
    c_stride: int | None = None,
    memory: MemoryTiming = MemoryTiming(),  # noqa: B008  (immutable)
) -> GemmCycles:
    """The clocks of a GEMM on a core at rest, and what it moves.

    Parameters
    ----------
    plan
        The GEMM: core, sizes, addresses, strides and layouts.
    out_bytes
        Bytes a result: 1, 2 or 4.
    c_address, c_stride
        Where C lies, and bytes from a row of it to the next; None where there is nothing between rows.
    memory
        The memory.
    """
    if out_bytes not in (1, 2, 4):
        raise ValueError(f"out_bytes must be 1, 2 or 4, not {out_bytes!r}")
    for name in ("m", "n", "k"):
        if getattr(plan, name) < 1:
            raise ValueError(f"{name} must be 1 or more, not {getattr(plan, name)!r}")
    if plan.config.block and plan.k % (plan.config.block + 1) == 1:
        raise ValueError(f"k counts scales and elements: {plan.k} ends in a scale, of blocks of {plan.config.block}")
    stride = plan.n * out_bytes if c_stride is None else c_stride
    with _LOCK:
        return walk_gemm(plan, memory, out_bytes, c_address, stride)


def walk_gemm(
    plan: GemmPlan, memory: MemoryTiming, out_bytes: int, c_address: int, c_stride: int, *, shortcuts: bool = True
) -> GemmCycles:
    """What `predict` gives, not remembered; without `shortcuts` tile by tile and line by line, for comparison."""
    walk = _Walk(plan, memory, out_bytes, c_address, c_stride, shortcuts)
    walk.run()
    config = plan.config
    return GemmCycles(
        cycles=walk.drain.answered + TOLD_LATENCY,
        read_bytes=walk.load.beats * config.bus_bytes,
        written_bytes=walk.drain.beats * config.bus_bytes,
        macs=plan.m * plan.n * _elements(plan),
        elements=config.rows * config.columns // config.interleave,
    )


class _Walk:
    """The tiles of a GEMM in order, and the clocks of their steps."""

    def __init__(
        self, plan: GemmPlan, memory: MemoryTiming, out_bytes: int, c_address: int, c_stride: int, shortcuts: bool
    ) -> None:
        self.load = LoadModel(plan, memory, streams=shortcuts)
        self.drain = DrainModel(plan.config, memory, out_bytes, calm=shortcuts)
        self._shortcuts = shortcuts
        self._plan = plan
        self._core = core = core_clocks(plan.config)
        self._operands = a, b = plan.operands
        self._resident = plan.resident
        self._chunked, self._segment_steps = plan.chunked, plan.segment_steps
        self._out_bytes, self._c_address, self._c_stride = out_bytes, c_address, c_stride
        # Bytes from a tile's results to those of the next panel of A, and of B.
        self._pitches = a.lanes * c_stride, b.lanes * out_bytes
        streamed = self._operands[1 - self._resident]
        self._groups, self._columns = list(plan.groups()), math.ceil(streamed.size / streamed.lanes)
        # Whether all tiles are whole, and their results lie alike.
        a_place = line_pattern(c_address, c_stride, self._pitches[1], core.bus_bytes, self._pitches[0])
        b_place = line_pattern(c_address, c_stride, self._pitches[1], core.bus_bytes, self._pitches[1])
        self._is_even = not (self._chunked or plan.m % a.lanes or plan.n % b.lanes) and a_place[1] == b_place[1] == 0
        # Panels that are not short of rows, and the clocks of a tile's steps.
        self._whole = tuple(operand.size // operand.lanes for operand in plan.operands)
        self._steps = core.interval * plan.k
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
            if self._group(number):
                return
            start, size = groups[number]
            number += 1
            if number < alike:
                number += self._skip(repeats, number, alike, start + size, 0)

    def _group(self, number: int) -> bool:
        """The tiles of one group, those of `GemmPlan.tiles`; return whether that was the rest of the GEMM."""
        start, size = self._groups[number]
        columns = self._columns
        runs = list(_growth(size, columns))
        pause = NEXT_GROUP if number else 0
        for n, run in enumerate(runs):
            # To look ahead is worth it now and then.
            if n & (n - 1) == 0 < n and self._finish(number, runs[n:], size):
                return True
            self._tiles(start, size, run, pause)
            pause = NEXT_PANEL
        repeats = _Repeats()
        y = size
        while y < columns:
            if y == size and self._finish(number, [], y):
                return True
            self._tiles(start, size, TileRun(0, y, size, True, (self._chunked, True)), NEXT_PANEL)
            y += 1
            # The last column frees the residents, and may be short of lanes.
            if y < columns - 1:
                y += self._skip(repeats, y, columns - 1, start, y)
        return False

    def _finish(self, number: int, runs: Sequence[TileRun], y: int) -> bool:
        """Pass over the rest of the GEMM, if its tiles are all alike and wait for no load; return whether they are.

        number: of the present group, of which these runs and the columns from y on are left.
        """
        if not (self._is_even and self._shortcuts and self.load.lies_alike):
            return False
        lanes = self._operands[0].lanes, self._operands[1].lanes
        lead = LoadLead(self.load, resident=self._resident, start=self._last + 1, steps=self._steps, lanes=lanes)
        columns = self._columns
        for which, (_, size) in enumerate(self._groups[number:]):
            if which:
                runs, y = list(_growth(size, columns)), size
            if not all(lead.run(run, size=size, columns=columns) for run in runs):
                return False
            if y < columns - 1 and not lead.columns(columns - 1 - y, size=size):
                return False
            if y < columns and not lead.run(
                TileRun(0, columns - 1, size, True, (False, True)), size=size, columns=columns
            ):
                return False
        self.load.pass_over(lead.loaded)
        self._tiles_alike(lead.tiles)
        return True

    def _tiles_alike(self, count: int) -> None:
        """So many tiles that wait for no load, and whose results lie alike."""
        repeats = _Repeats()
        number = 0
        while number < count:
            if self.drain.calm and number and self._repeat(count - number, 0):
                return
            self._tile(0, 0, (False, False), NEXT_PANEL, False, False)
            number += 1
            clock = self._last
            key = self._ready - clock, max(self._ready, self._may_make) - clock, self.drain.state(clock)
            number += self._pass(repeats.find(key, number, (clock, 0, self.drain.beats)), count - number)

    def _tiles(self, start: int, size: int, run: TileRun, pause: int) -> None:
        """Tiles of the group of so many residents from panel `start` on."""
        columns, along_resident, new = self._columns, run.along_resident, run.loads
        x, y, number, count = run.x, run.y, 0, run.tiles
        may_repeat = self._shortcuts and not self._chunked
        while number < count:
            free_resident, free_streamed = y == columns - 1, x == size - 1
            if number and may_repeat and self.drain.calm:
                # All but a last one that may be short of rows.
                which = self._resident if along_resident else 1 - self._resident
                last = (start + x if along_resident else y) + count - number
                times = count - number - (last > self._whole[which])
                times = self._repeat(times, self._pitches[which]) if times else 0
                if times:
                    ends = range(self._last - (times - 1) * self._steps, self._last + 1, self._steps)
                    number += times
                    x, y = (x + times, y) if along_resident else (x, y + times)
                    self._free(self._resident, ends if free_resident else ends[-1:] if y == columns else ())
                    self._free(1 - self._resident, ends if free_streamed else ends[-1:] if x == size else ())
                    continue
            self._tile(start + x, y, new, pause, free_resident, free_streamed)
            number, new, pause = number + 1, (self._chunked, False), NEXT_PANEL
            x, y = (x + 1, y) if along_resident else (x, y + 1)

    def _free(self, operand: int, ends: Iterable[int]) -> None:
        """Slots are free after steps issued in these clocks."""
        lanes = self._operands[operand].lanes
        for end in ends:
            self.load.free(operand, end + lanes)

    def _repeat(self, times: int, pitch: int) -> int:
        """Pass over up to so many tiles like the last one that take as many clocks as their steps; return how many.

        pitch: bytes from the results of one to those of the next.
        """
        core, steps = self._core, self._steps
        if max(self._ready, self._may_make + core.words if core.words else 0) > self._last:
            return 0
        if steps < max(TileWalk.period, core.interval + core.feed + 1 + core.words):
            return 0
        times = self.drain.repeat(times, steps, pitch)
        if times:
            self._last += times * steps
            self._last_of_tile = self._last
            self._ready = self._last - steps + TileWalk.period
            self._may_make = self._last - steps + core.interval + core.feed + 1
        return times

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
                accepted = drain.accept(taken + 1)
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
        row, column = panels[0] * a.lanes, panels[1] * b.lanes
        drain.drain(
            accepted=accepted,
            captured=self._last + core.capture,
            rows=min(a.lanes, self._plan.m - row),
            row_bytes=min(b.lanes, self._plan.n - column) * self._out_bytes,
            address=self._c_address + row * self._c_stride + column * self._out_bytes,
            stride=self._c_stride,
        )

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
        where = [self._lines(operand, panel) for operand, panel in enumerate(panels)]
        words = max(self._ready, self._may_make) - clock
        place = self._place(*panels)
        key = (*where, place, self._ready - clock, words, self.load.state(clock), self.drain.state(clock))
        return self._pass(repeats.find(key, number, (clock, self.load.beats, self.drain.beats)), end - number)

    def _pass(self, found: tuple[int, tuple[int, ...]] | None, left: int) -> int:
        """Pass over as many whole periods as are left of what was found to repeat; return how many of it."""
        if found is None:
            return 0
        period, (clocks, read, written) = found
        times = left // period
        self._ready += times * clocks
        self._last += times * clocks
        self._last_of_tile += times * clocks
        self._may_make += times * clocks
        self.load.skip(times * clocks, times * read)
        self.drain.skip(times * clocks, times * written)
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
        self._seen: dict[object, tuple[int, tuple[int, ...]]] = {}

    def find(self, state: object, number: int, counts: tuple[int, ...]) -> tuple[int, tuple[int, ...]] | None:
        """How many numbers ago a state was there, and what the counts have grown by; None where it is new."""
        before = self._seen.get(state)
        self._seen[state] = number, counts
        if before is None:
            return None
        return number - before[0], tuple(now - then for now, then in zip(counts, before[1], strict=True))
