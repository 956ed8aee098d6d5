"""What the cycle model has to know of a core: sizes, and the latencies of its blocks, read once a configuration."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from halfulp.hw.array import first_capture
from halfulp.hw.config import ArrayConfig
from halfulp.hw.descriptor import DescriptorQueue
from halfulp.hw.drain import position_latency, queued_groups, queued_positions, rounding_latency
from halfulp.hw.operand_buffer import OperandBuffer
from halfulp.hw.pair_queue import PairQueue
from halfulp.hw.reserved_queue import ReservedQueue
from halfulp.hw.row_buffer import buffered_rows
from halfulp.hw.schedule import block_steps
from halfulp.hw.stored_registers import StoredRegisters
from halfulp.hw.threefry import Threefry

__all__ = ["CoreClocks", "core_clocks"]

WORD_LATENCY = 2
"""Clocks through an empty queue of the writer's: into its memory, and to its output."""


class CoreClocks(NamedTuple):
    """Numbers of one core; clocks where nothing else is said.

    bus_bytes, lanes, block_steps: as in `ArrayConfig` and `schedule`; start: from a GEMM's start on a core at rest
    until its descriptor is there, checked; reads: read bursts in flight; interval: from a step of K to the next; feed:
    from a step to the array's edge; capture: from a tile's last step until all of its sums are captured; first_capture:
    of these, from the array's edge to the first sum; words: from when a tile's first random words may be made until it
    may start, 0 where there are none; tile_queue: clocks through the drain's queue of tiles, 0 where there is none, so
    that a tile is accepted when it starts; position, rounding: its `position_latency` and `rounding_latency`;
    positions: how many it holds; queue: clocks through its queue of results; groups: of results, that this and the
    lanes hold; rows: of results that the drain holds; word_queue: clocks through the writer's queues of words and
    bursts; line_queue: whether two lines can wait between loader and reader, or one.
    """

    bus_bytes: int
    lanes: int
    block_steps: int
    start: int
    reads: int
    interval: int
    feed: int
    capture: int
    first_capture: int
    words: int
    tile_queue: int
    position: int
    positions: int
    rounding: int
    queue: int
    groups: int
    rows: int
    word_queue: int
    line_queue: bool

    def moved(self, rows: int) -> int:
        """Clocks from when so many rows of results begin to move out of the array until a last step may be issued."""
        return max(0, rows - self.first_capture)


@lru_cache(maxsize=1024)
def core_clocks(config: ArrayConfig) -> CoreClocks:
    """The numbers of this core."""
    outputs = config.rows + config.columns
    pair_queue = 0 if config.compact else PairQueue.latency
    return CoreClocks(
        bus_bytes=config.bus_bytes,
        lanes=config.lanes,
        block_steps=block_steps(config),
        start=StoredRegisters.latency_of(config) if config.compact else DescriptorQueue.latency,
        reads=config.reads_outstanding,
        interval=config.interleave,
        feed=OperandBuffer.latency,
        capture=OperandBuffer.latency + first_capture(config) + outputs - 2,
        first_capture=first_capture(config),
        # One word a clock, and the clock in which they are seen to be there.
        words=outputs + Threefry.latency + 1 if config.step_random_bits else 0,
        tile_queue=pair_queue,
        position=position_latency(config),
        positions=queued_positions(config),
        rounding=rounding_latency(config),
        queue=ReservedQueue.latency,
        groups=queued_groups(config),
        rows=buffered_rows(config),
        word_queue=WORD_LATENCY + pair_queue,
        line_queue=not config.compact,
    )
