"""A GEMM followed from its start on a core at rest to its last result: what is given to `gemm_walk`, and what comes."""

from __future__ import annotations

import threading
from array import array
from functools import lru_cache
from typing import NamedTuple

from halfulp.hw.config import ArrayConfig
from halfulp.hw.schedule import GemmPlan, OperandPlan
from halfulp.hw.tile_walk import TileWalk
from halfulp.sim.core_clocks import core_clocks
from halfulp.sim.gemm_walk import FIRST_SEGMENT
from halfulp.sim.load_model import FIRST_BLOCK
from halfulp.sim.memory_timing import PAGE_BYTES, WHOLE_BEAT, MemoryTiming, lies_alike
from halfulp.sim.read_bound import cuts_cost_nothing, read_bound
from halfulp.sim.traffic import words_written
from halfulp.sim.walk_bounds import WalkBounds
from halfulp.sim.walk_cells import MOST_STATES, NEVER, OPERAND, Given, Known, Lead, Now, Seen
from halfulp.sim.walk_code import walk_code

__all__ = ["GemmClocks", "Walked", "forget_starts"]

FREE = -2
"""Since when slots are free at a GEMM's start: the loader sees it two clocks later."""


class Walked(NamedTuple):
    """A GEMM that was followed to its end: the clock of the last response, and bus words that were not passed over."""

    answered: int
    read: int
    written: int


class _Start(NamedTuple):
    """Cells of `Given` that core and memory decide, and those of `Now` at rest at clock 0, without slots."""

    given: array[int]
    rest: array[int]


@lru_cache(maxsize=64)
def _start(config: ArrayConfig, memory: MemoryTiming, code_bytes: int) -> _Start:
    core = core_clocks(config)
    most_apart = -(-WHOLE_BEAT // memory.rate)
    given = array("q", [0]) * Given.CELLS
    for cell, value in (
        (Given.RATE, memory.rate),
        (Given.READ_LATENCY, memory.read_latency),
        (Given.WRITE_LATENCY, memory.write_latency),
        (Given.OUTSTANDING, memory.outstanding),
        (Given.MOST_SAVED, memory.most_saved),
        (Given.MOST_APART, most_apart),
        (Given.SAVED_APART, memory.rate * most_apart - WHOLE_BEAT),
        (Given.SAVING, 0 if memory.rate == WHOLE_BEAT else 2 * WHOLE_BEAT // memory.rate + 2),
        (Given.BUS_BYTES, core.bus_bytes),
        (Given.BUS_SHIFT, core.bus_bytes.bit_length() - 1),
        (Given.READS, core.reads),
        (Given.BLOCK_STEPS, core.block_steps),
        (Given.INTERVAL, core.interval),
        (Given.FEED, core.feed),
        (Given.CAPTURE, core.capture),
        (Given.FIRST_CAPTURE, core.first_capture),
        (Given.WORDS, core.words),
        (Given.POSITION, core.position),
        (Given.POSITIONS, core.positions),
        (Given.ROUNDING, core.rounding),
        (Given.QUEUE, core.queue),
        (Given.GROUPS, core.groups),
        (Given.ROWS, core.rows),
        (Given.TILE_QUEUE, core.tile_queue),
        (Given.WORD_QUEUE, core.word_queue),
        (Given.LINE_QUEUE, core.line_queue),
        (Given.GROUP_BYTES, core.lanes * code_bytes),
        (Given.C_BYTES, code_bytes),
        (Given.READ_AT, Now.RINGS_END),
        (Given.TAKEN_AT, Now.RINGS_END + core.positions),
        (Given.RELEASED_AT, Now.RINGS_END + core.positions + core.groups),
        (Given.A_SLOTS_AT, Now.RINGS_END + core.positions + core.groups + core.rows),
    ):
        given[cell] = value
    rest = array("q", [0]) * Now.SENT_RING + array("q", [NEVER]) * (given[Given.A_SLOTS_AT] - Now.SENT_RING)
    for cell in (Now.LAST_END, Now.READ, Now.TAKEN, Now.SENT, Now.WRITTEN):
        rest[cell] = NEVER
    rest[Now.READ_SAVED] = rest[Now.WRITE_SAVED] = memory.most_saved
    return _Start(given, rest)


def forget_starts() -> None:
    """Forget what is remembered of cores and memories."""
    _start.cache_clear()


_LOCAL = threading.local()


def _buffer(cells: int) -> array[int]:
    """An array of so many cells or more, with anything in it: one a thread, for it takes long to make.

    A power of two, so that GEMMs that need some more cells have them already.
    """
    known: array[int] | None = getattr(_LOCAL, "buffer", None)
    if known is None or len(known) < cells:
        known = _LOCAL.buffer = array("q", [0]) * (1 << (cells - 1).bit_length())
    return known


class GemmClocks:
    """One GEMM on a core and a memory.

    Parameters
    ----------
    plan, memory, out_bytes, c_address, c_stride
        As in `cycle_model.predict`.

    Attributes
    ----------
    bounds
        What its loads and results take at most.
    """

    def __init__(self, plan: GemmPlan, memory: MemoryTiming, out_bytes: int, c_address: int, c_stride: int) -> None:
        config = plan.config
        start = _start(config, memory, out_bytes)
        self._plan, self._memory = plan, memory
        self._given = given = start.given[:]
        given[Given.K], given[Given.SEGMENT_STEPS], given[Given.CHUNKED] = plan.k, plan.segment_steps, plan.chunked
        given[Given.RESIDENT], given[Given.GROUP] = plan.resident, plan.group
        streamed = plan.operands[1 - plan.resident]
        given[Given.COLUMNS] = columns = -(-streamed.size // streamed.lanes)
        self._groups = array("q", [number for group in plan.groups() for number in group])
        given[Given.NUMBER_OF_GROUPS] = groups = len(self._groups) // 2
        # Only where in a page things lie counts.
        given[Given.C_ADDRESS], given[Given.C_STRIDE] = c_address % PAGE_BYTES, c_stride % PAGE_BYTES
        row_bytes = config.columns * out_bytes
        is_alike = lies_alike(c_address, c_stride, row_bytes, config.bus_bytes, row_bytes)
        given[Given.C_MODULUS] = 1 if is_alike else PAGE_BYTES
        # Where pages' ends cost nothing, panels are alike that begin alike in a bus word.
        self._modulus = config.bus_bytes if cuts_cost_nothing(plan, memory) else PAGE_BYTES
        self._rest = start.rest[:]
        for number, operand in enumerate(plan.operands):
            slots = config.buffer_depth // plan.slot_words[number]
            if not plan.chunked:  # no more than panels are loaded
                panels = -(-operand.size // operand.lanes)
                slots = min(slots, panels if number == plan.resident else columns * groups)
            self._take_operand(number, operand, slots)
        self.bounds = WalkBounds(plan, memory, given, self._rest)
        self._c_address, self._c_stride = c_address, c_stride

    def _take_operand(self, number: int, operand: OperandPlan, slots: int) -> None:
        given, cell, across = self._given, OPERAND * number, operand.across_k
        given[Given.A_ADDRESS + cell] = operand.address % PAGE_BYTES
        given[Given.A_STRIDE + cell] = operand.stride % PAGE_BYTES
        given[Given.A_ACROSS_K + cell] = across
        given[Given.A_SIZE + cell], given[Given.A_LANES + cell] = operand.size, operand.lanes
        given[Given.A_BYTES + cell], given[Given.A_SLACK + cell] = operand.element_bytes, operand.slack
        # Panels are alike if their lines are, or if each lies as a whole where it cannot be cut otherwise.
        steps, size, stride = self._plan.k, operand.element_bytes, operand.stride
        lines, length, pitch = steps, operand.lanes * size, operand.lanes * size
        if not across:
            lines, length, pitch = operand.lanes, steps * size, operand.lanes * stride
        line = length if across else min(length, given[Given.BLOCK_STEPS] * size)
        is_alike = lies_alike(operand.address, stride, line, operand.bus_bytes, pitch) or lies_alike(
            operand.address, 0, (lines - 1) * stride + length, operand.bus_bytes, pitch
        )
        given[Given.A_MODULUS + cell] = 1 if is_alike else self._modulus
        given[Given.A_SLOTS + cell] = ring = 1 << (slots - 1).bit_length()
        given[Given.A_SLOTS_AT + cell] = len(self._rest)
        self._rest.extend(array("q", [FREE]) * ring)
        self._rest[Now.FREED_SLOTS + number] = slots

    def walk(self, *, shortcuts: bool = True) -> Walked:
        """Follow the GEMM; without shortcuts tile by tile and burst by burst, for comparison."""
        given, plan = self._given, self._plan
        core = core_clocks(plan.config)
        given[Given.SHORTCUTS] = shortcuts
        for cell in (Given.IS_CALM, Given.MAY_LOOK_AHEAD, Given.MAY_REPEAT, Given.BUS_COST, Given.READ_LEAD):
            given[cell] = False
        if shortcuts:
            self._take_bounds()
        now = self._rest[:]
        now[Now.READY] = now[Now.LAST] = core.start + FIRST_SEGMENT
        now[Now.LAST_OF_TILE] = -core.feed
        now[Now.LOADER] = core.start + FIRST_BLOCK
        nothing = array("q", [0])
        slots = given[Given.A_SLOTS] + given[Given.A_SLOTS + OPERAND]
        ahead = nothing * (Lead.RINGS + 2 * slots)
        groups, columns = (nothing * (Seen.STATE + len(now)) for _ in range(2))
        # Of what is known only the beginning has to be 0, which is seen to.
        known = _buffer(Known.STATES_AT + (MOST_STATES + 1) * len(now))
        walk_code().walk_groups(given, now, self._groups, known, ahead, groups, columns)
        return Walked(now[Now.ANSWERED], now[Now.READ_BEATS], now[Now.WORDS_SENT])

    def _take_bounds(self) -> None:
        """Find out whether tiles may be passed over."""
        plan, given, bounds = self._plan, self._given, self.bounds
        config = plan.config
        core = core_clocks(config)
        steps = core.interval * plan.k
        most = min(config.rows, plan.m), min(config.columns, plan.n) * given[Given.C_BYTES]
        # How long before capture all before has to be in memory: then the bus has saved up its credit, and positions of
        # the tile, which wait for those of the tile before, are there in time; without a queue of tiles they have to be
        # entered by its last step, which waits for its acceptance.
        entered = core.position if core.tile_queue else max(core.position, core.capture)
        margin = max(WHOLE_BEAT // given[Given.RATE] + 2, entered - core.rounding - core.queue)
        given[Given.IS_CALM] = is_calm = (
            steps >= core.capture and bounds.longest_results(*most, self._c_address, self._c_stride) + margin < steps
        )
        if plan.chunked:
            if is_calm:
                slots = self._rest[Now.FREED_SLOTS], self._rest[Now.FREED_SLOTS + 1]
                bound = read_bound(plan, self._memory, slots)
                given[Given.READ_LEAD], given[Given.READ_LATE], given[Given.READ_WORDS] = bound
            return
        given[Given.TILE_CLOCKS], given[Given.MARGIN] = steps, 0
        if not is_calm:
            given[Given.TILE_CLOCKS], given[Given.MARGIN] = bounds.tile_clocks(steps)
            given[Given.BUS_COST] = cost = bounds.bus_cost(self._c_address, self._c_stride)
            if cost:
                place = {"c_address": self._c_address, "c_stride": self._c_stride}
                given[Given.C_WORDS] = words_written(plan, out_bytes=given[Given.C_BYTES], **place)
        given[Given.MAY_LOOK_AHEAD] = True
        # Whether tiles that wait for nothing follow each other in the clocks of their steps: for segments, for random
        # words, and for sums that are to leave the array before the next ones are captured.
        taken = max(TileWalk.period, core.interval + core.feed + 1 + core.words)
        least = max(taken, core.capture + core.moved(min(config.rows, plan.m)))
        given[Given.MAY_REPEAT] = is_calm and steps >= least
        given[Given.A_LONGEST] = bounds.longest_load((0,))
        given[Given.A_LONGEST + OPERAND] = bounds.longest_load((1,))
        given[Given.LONGEST_BOTH] = bounds.longest_load((0, 1))
