"""From the result registers to the rounding lanes: who may overwrite results when, and a buffer of rows between.

Result registers are read a whole row a clock, however few lanes there are, so the array waits for the lanes only
where tiles come faster than lanes can round.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from halfulp.hw.array import first_capture, last_capture
from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import result_layout
from halfulp.hw.pe import result_fields

__all__ = ["OPEN_TILES", "ResultMover", "RowBuffer", "buffered_rows"]

OPEN_TILES = 4
"""Most tiles that the drain has accepted and not yet moved out of the array."""


def buffered_rows(config: ArrayConfig) -> int:
    """Rows that fit into the buffer: two tiles."""
    return 1 << ceil_log2(2 * config.rows)


class ResultMover(wiring.Component):
    """Moves a tile's valid rows out of the result registers, one a clock, once all are captured and have room.

    Members
    -------
    accept, rows : In
        `accept`: a tile of `rows` valid rows was accepted. In the order of their computation, each no later than its
        last step, and at most `OPEN_TILES` of them at a time.
    feed_last : In(1)
        A tile's last step enters the array: `halfulp.hw.array.last_capture` clocks later its last sum is captured.
    free_soon : Out(1)
        A last step may enter in the next clock, where none does in this one: its sums will be captured behind the last
        row that still has to move.
    shift : Out(1)
        Row 0 of the results moves to the buffer, the others shift up. A register, behind nothing but another: it leads
        to all of the array.
    released : In(1)
        A row left the buffer.
    idle : Out(1)
        No tile is accepted and not yet moved.
    """

    accept: Signal
    rows: Signal
    feed_last: Signal
    free_soon: Signal
    shift: Signal
    released: Signal
    idle: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "accept": In(1),
                "rows": In(range(config.rows + 1)),
                "feed_last": In(1),
                "free_soon": Out(1),
                "shift": Out(1),
                "released": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        depth = buffered_rows(self._config)
        row_counts = Array(Signal.like(self.rows, name=f"rows_{n}", reset_less=True) for n in range(OPEN_TILES))
        accepted = Signal(range(OPEN_TILES))
        moved = Signal(range(OPEN_TILES))
        waiting = Signal(range(OPEN_TILES + 1))
        with m.If(self.accept):
            m.d.sync += [row_counts[accepted].eq(self.rows), accepted.eq(accepted + 1)]

        in_flight = Signal()
        complete = Signal()
        moving = Signal()  # remaining is not 0
        remaining = Signal(range(self._config.rows + 1))
        reserved = Signal(range(depth + 1))
        # Known long before the tile is captured, which takes `first_capture` clocks at least from its last step: of the
        # tile that moves next, its rows, the same less one, and whether there is room for them.
        rows, rows_less = Signal.like(self.rows, reset_less=True), Signal.like(self.rows, reset_less=True)
        fits = Signal()
        needed = Signal(range(depth + self._config.rows + 1))
        start = Signal()
        # Rows that may still move when a last step enters: a sum is captured `first_capture` clocks behind it, at the
        # clock's end, when they are gone, the last of them in the clock after `moving`, for a started move never halts.
        few = first_capture(self._config)
        # All is decided a clock before it happens.
        steps_in_array = Signal(last_capture(self._config) - 1)
        captured_next = steps_in_array[-1]
        m.d.comb += [
            needed.eq(reserved + rows),
            start.eq((captured_next | complete) & fits),
            self.free_soon.eq(Mux(start, rows <= few, ~in_flight & (remaining <= few + 1))),
            self.idle.eq((waiting == 0) & (remaining == 0) & ~self.shift),
        ]
        m.d.sync += [
            rows.eq(row_counts[moved]),
            rows_less.eq(row_counts[moved] - 1),
            fits.eq((needed <= depth) | ((needed == depth + 1) & self.released)),
            waiting.eq(waiting + self.accept - start),
            # All sums first: whether a tile starts to move, and whether a row leaves, come late.
            reserved.eq(
                Mux(
                    start,
                    Mux(self.released, reserved + rows_less, needed),
                    Mux(self.released, reserved - 1, reserved),
                )
            ),
            complete.eq((captured_next | complete) & ~start),
            steps_in_array.eq(Cat(self.feed_last, steps_in_array)),
            moving.eq(start | (remaining > 1)),
            self.shift.eq(moving),
        ]
        with m.If(start):
            m.d.sync += [moved.eq(moved + 1), remaining.eq(rows), in_flight.eq(0)]
        with m.Else():
            with m.If(moving):
                m.d.sync += remaining.eq(remaining - 1)
            with m.If(self.feed_last):
                m.d.sync += in_flight.eq(1)
        return m


class RowBuffer(wiring.Component):
    """A queue of rows of results, read in groups of L neighbouring ones.

    Members
    -------
    write, row : In
        Append a row; there must be room.
    available : Out(1)
        A register: a row can be read. It was written at least a clock ago.
    read, group, pop : In
        Read group `group` of the oldest row; `pop`: the row is done with.
    results : Out(ArrayLayout(result_layout(config), lanes))
        The group that was read `latency` clocks ago.
    """

    write: Signal
    row: Any
    available: Signal
    read: Signal
    group: Signal
    pop: Signal
    results: Any

    latency = 2
    """Clocks from a read to its results."""

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        self._groups = config.columns // config.lanes
        super().__init__(
            {
                "write": In(1),
                "row": In(data.ArrayLayout(result_layout(config), config.columns)),
                "available": Out(1),
                "read": In(1),
                "group": In(max(ceil_log2(self._groups), 1)),
                "pop": In(1),
                "results": Out(data.ArrayLayout(result_layout(config), config.lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        depth = buffered_rows(self._config)
        written = Signal(range(depth))
        done = Signal(range(depth))
        level = Signal(range(depth + 1))
        popped = Signal()
        available = Signal()  # level is not 0
        m.d.comb += [popped.eq(self.read & self.pop), self.available.eq(available)]
        m.d.sync += [
            available.eq(self.write | ((level != 0) & ~((level == 1) & popped))),
            written.eq(written + self.write),
            done.eq(done + popped),
            level.eq(level + self.write - popped),
        ]

        # Only what can differ from 0 is kept: flags of NaN and Inf that no operand format has are not.
        fields = result_fields(self._config)
        width = sum(len(self.results[0][name]) for name in fields)
        group = Signal.like(self.group, reset_less=True)
        m.d.sync += group.eq(self.group)
        # A part that has no registers to spare has memory blocks.
        attributes = {"ram_style": "block"} if self._config.compact else {}
        for lane in range(self._config.lanes):
            found: list[Value] = []
            for number in range(self._groups):
                column = number * self._config.lanes + lane
                bank = memory.Memory(shape=unsigned(width), depth=depth, init=[], attrs=attributes)
                m.submodules[f"column_{column}"] = bank
                write_port, read_port = bank.write_port(), bank.read_port()
                m.d.comb += [
                    write_port.en.eq(self.write),
                    write_port.addr.eq(written),
                    write_port.data.eq(Cat(self.row[column][name] for name in fields)),
                    read_port.en.eq(1),
                    read_port.addr.eq(done),
                ]
                found.append(read_port.data)
            chosen = Signal(width, name=f"chosen_{lane}", reset_less=True)
            with m.Switch(group):
                for number, word in enumerate(found):
                    with m.Case(number):
                        m.d.sync += chosen.eq(word)
            rest: Any = chosen
            for name in fields:
                target = self.results[lane][name]
                m.d.comb += target.eq(rest[: len(target)])
                rest = rest[len(target) :]
        return m
