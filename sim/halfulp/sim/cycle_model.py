"""How many clocks a core takes for a GEMM, without simulating it: equal to the core's own counter.

The model follows what the blocks say of their clocks, event by event instead of clock by clock: blocks of operands
from the loader over the bus into the buffers (`load_model`), tiles through the array (here), rows of results through
the drain into memory (`drain_model`, `write_model`). Whatever begins in a state in which it began before is not
walked again: neither a block, a tile, a column of tiles nor a group of columns. Clocks are counted from the one in
which the GEMM is started on a core at rest. The memory is that of `halfulp.sim.rtl.RtlCore`, without its random
pauses. Standard library only, but for what the hardware's own sources need.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from halfulp.hw.array import first_capture
from halfulp.hw.operand_buffer import OperandBuffer
from halfulp.hw.schedule import GemmPlan, block_steps
from halfulp.hw.tile_walk import TileWalk
from halfulp.sim.drain_model import DrainModel
from halfulp.sim.load_model import NEXT_GROUP, NEXT_PANEL, LoadModel
from halfulp.sim.memory_timing import MemoryTiming, line_pattern

__all__ = ["GemmCycles", "predict", "roofline"]

FIRST_SEGMENT = 12
"""Clocks from the start of a GEMM on a core at rest to its first segment: queue 3, planner 3, loader 2, walk 4."""

ARRIVAL_LATENCY = 2
"""Clocks from a block's last beat on the bus to the first of its steps."""


@dataclass(frozen=True, kw_only=True)
class GemmCycles:
    """What a GEMM costs on a core.

    cycles: what the core's counter shows; read_bytes, written_bytes: bus words that moved, in bytes; macs: M·N·K;
    elements: multiply-accumulates that the array can do a clock.
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
    return min(config.rows * config.columns, plan.m * plan.n * plan.k * bandwidth / words)


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
    if plan.config.interleave != 1 or plan.config.step_random_bits:
        raise ValueError(
            "the cycle model knows a step a clock and accumulators without random bits, "
            f"not accumulator {plan.config.accumulator} with interleave {plan.config.interleave}"
        )
    if plan.config.block:
        raise ValueError(f"the cycle model knows plain operands, not blocks of {plan.config.block}")
    for name in ("m", "n", "k"):
        if getattr(plan, name) < 1:
            raise ValueError(f"{name} must be 1 or more, not {getattr(plan, name)!r}")
    stride = plan.n * out_bytes if c_stride is None else c_stride
    walk = _Walk(plan, memory, out_bytes, c_address, stride)
    walk.run()
    config = plan.config
    return GemmCycles(
        cycles=walk.drain.answered,
        read_bytes=walk.load.beats * config.bus_bytes,
        written_bytes=walk.drain.beats * config.bus_bytes,
        macs=plan.m * plan.n * plan.k,
        elements=config.rows * config.columns,
    )


class _Walk:
    """The tiles of a GEMM in order, and the clocks of their steps."""

    def __init__(self, plan: GemmPlan, memory: MemoryTiming, out_bytes: int, c_address: int, c_stride: int) -> None:
        config = plan.config
        self.load = LoadModel(plan, memory)
        self.drain = DrainModel(config, memory, out_bytes)
        self._plan = plan
        self._chunked, self._segment_steps = plan.chunked, plan.segment_steps
        self._slacks = tuple(operand.slack for operand in plan.operands)
        self._out_bytes = out_bytes
        self._c_address, self._c_stride = c_address, c_stride
        self._operands = plan.operands
        self._resident = plan.resident
        self._block_steps = block_steps(config)
        self._capture_latency = OperandBuffer.latency + first_capture(config) + config.rows + config.columns - 2
        # When the next segment is ready, and when the last step of the one before was issued.
        self._ready = FIRST_SEGMENT
        self._last = FIRST_SEGMENT
        self._last_of_tile = -OperandBuffer.latency

    def run(self) -> None:
        """Walk all groups."""
        plan = self._plan
        streamed = self._operands[1 - self._resident]
        columns = math.ceil(streamed.size / streamed.lanes)
        groups = list(plan.groups())
        # A group repeats the one before if it is as large and not the last, in which panels may be short of rows.
        alike = next((n for n, (_, size) in enumerate(groups[:-1]) if size != plan.group), len(groups) - 1)
        repeats = _Repeats()
        number = 0
        while number < len(groups):
            start, size = groups[number]
            self._group(start, size, columns, first=number == 0)
            number += 1
            if number < alike:
                number += self._skip(repeats, number, alike, start + size, 0)

    def _group(self, start: int, size: int, columns: int, *, first: bool) -> None:
        """The tiles of one group: those of `GemmPlan.tiles`."""
        chunked = self._chunked
        loaded = [0, 0]
        repeats = _Repeats()
        y = 0
        for x, y in _growth(size, columns):
            new = (x >= loaded[0], y >= loaded[1])
            loaded = [max(loaded[0], x + 1), max(loaded[1], y + 1)]
            pause = NEXT_PANEL if x or y else 0 if first else NEXT_GROUP
            self._tile(start + x, y, new, pause, y == columns - 1, x == size - 1)
        y = size
        while y < columns:
            for x in range(size):
                self._tile(start + x, y, (chunked, x == 0), NEXT_PANEL, y == columns - 1, x == size - 1)
            y += 1
            # The last column frees the residents, and may be short of lanes.
            if y < columns - 1:
                y += self._skip(repeats, y, columns - 1, start, y)

    def _tile(
        self, x: int, y: int, new: tuple[bool, bool], pause: int, free_resident: bool, free_streamed: bool
    ) -> None:
        """A tile: resident and streamed panel, which of them are loaded for it, and which are needed no more."""
        plan, drain, load = self._plan, self.drain, self.load
        a, b = self._operands
        panels = (y, x) if self._resident else (x, y)
        news = new[::-1] if self._resident else new
        frees = (free_streamed, free_resident) if self._resident else (free_resident, free_streamed)
        loads = tuple((operand, panels[operand]) for operand in (0, 1) if news[operand])
        accepted = 0
        for k in range(0, plan.k, self._segment_steps):
            steps = min(self._segment_steps, plan.k - k)
            taken = max(self._ready, self._last)
            self._ready = taken + TileWalk.period
            end = taken + steps
            if k == 0:
                accepted = drain.accept(taken + 1)
            if loads:
                arrivals = load.load(loads, k, steps, pause=pause if k == 0 else 0)
                for (operand, _), blocks in zip(loads, arrivals, strict=True):
                    end = max(end, self._end(blocks, steps, self._slacks[operand]))
            if k + steps == plan.k:
                again = self._last_of_tile + OperandBuffer.latency + 1
                end = self._last_of_tile = max(end, accepted, drain.last_step, again)
            self._last = end
            for operand, lanes in ((0, a.lanes), (1, b.lanes)):
                if frees[operand] or self._chunked:
                    load.free(operand, end + lanes)
        row, column = panels[0] * a.lanes, panels[1] * b.lanes
        drain.drain(
            accepted=accepted,
            captured=self._last + self._capture_latency,
            rows=min(a.lanes, plan.m - row),
            row_bytes=min(b.lanes, plan.n - column) * self._out_bytes,
            address=self._c_address + row * self._c_stride + column * self._out_bytes,
            stride=self._c_stride,
        )

    def _end(self, blocks: list[int], steps: int, slack: int) -> int:
        """The first clock in which a segment's last step can be issued, by when its blocks arrive."""
        last = steps - 1
        waits = (
            arrival - max(0, number * self._block_steps - slack)
            for number, arrival in enumerate(blocks)
            if number * self._block_steps - slack <= last
        )
        return max(waits) + ARRIVAL_LATENCY + last

    def _skip(self, repeats: _Repeats, number: int, end: int, x: int, y: int) -> int:
        """Pass over columns or groups that repeat what went before: up to `end`; return how many.

        x, y: the panels that come next.
        """
        clock = self._last
        panels = (y, x) if self._resident else (x, y)
        where = [self._lines(operand, panel) for operand, panel in enumerate(panels)]
        key = (*where, self._place(*panels), self._ready - clock, self.load.state(clock), self.drain.state(clock))
        counts = repeats.find(key, number, (clock, self.load.beats, self.drain.beats))
        if counts is None:
            return 0
        period, (clocks, read, written) = counts
        times = (end - number) // period
        self._ready += times * clocks
        self._last += times * clocks
        self._last_of_tile += times * clocks
        self.load.skip(times * clocks, times * read)
        self.drain.skip(times * clocks, times * written)
        return times * period

    def _lines(self, number: int, panel: int) -> tuple[int, int]:
        """How a panel's lines are cut into bursts."""
        operand = self._operands[number]
        pitch, length = operand.stride, min(self._plan.k, self._block_steps) * operand.element_bytes
        if operand.across_k:
            pitch, length = operand.element_bytes, operand.lanes * operand.element_bytes
        pitch *= operand.lanes
        return line_pattern(operand.address + panel * pitch, operand.stride, length, operand.bus_bytes, pitch)

    def _place(self, row: int, column: int) -> tuple[int, int]:
        """How a tile's rows of results are cut into bursts."""
        a, b = self._operands
        length = b.lanes * self._out_bytes
        address = self._c_address + row * a.lanes * self._c_stride + column * length
        return line_pattern(address, self._c_stride, length, self._plan.config.bus_bytes, length)


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


def _growth(size: int, columns: int) -> Iterator[tuple[int, int]]:
    """The tiles with which a group begins, until all of its panels are there or the streamed ones have passed."""
    for y in range(min(size, columns)):
        for x in range(min(y, size - 1) + 1):
            yield x, y
        if y < size - 1:
            for column in range(y + 1):
                yield y + 1, column
    for x in range(columns + 1, size):
        for y in range(columns):
            yield x, y
