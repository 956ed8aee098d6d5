"""A queue behind a pipeline that never halts: a place in it is reserved before what goes there sets out."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, Value, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ReservedQueue"]


class ReservedQueue(wiring.Component):
    """Keeps items in order until they are taken.

    Parameters
    ----------
    shape
        Of an item.
    depth
        Places, a power of two. An item a clock goes on where it is taken fewer clocks behind its `reserve`.

    Members
    -------
    reserve : In(1)
        A place is reserved. Only where `room` is 1.
    room : Out(1)
        A register.
    valid, item : In
        An item for which a place is reserved, in the order of reservations.
    idle : Out(1)
        No place is reserved.
    behind : Out(stream.Signature(shape))
        Items, `latency` clocks behind their coming at the earliest.
    """

    reserve: Signal
    room: Signal
    valid: Signal
    item: Any
    idle: Signal
    behind: stream.Interface

    latency = 2
    """Clocks from the one in which an item comes to the one in which it is at the output of an empty queue."""

    def __init__(self, *, shape: Any, depth: int) -> None:
        self._depth = depth
        super().__init__(
            {
                "reserve": In(1),
                "room": Out(1),
                "valid": In(1),
                "item": In(shape),
                "idle": Out(1),
                "behind": Out(stream.Signature(shape)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        depth = self._depth
        item, shown = Value.cast(self.item), Value.cast(self.behind.p)
        m.submodules.items = items = memory.Memory(shape=unsigned(len(item)), depth=depth, init=[])
        write_port, read_port = items.write_port(), items.read_port()
        reserved = Signal(range(depth + 1))
        level = Signal(range(depth + 1))
        room = Signal(init=1)
        waits = Signal()  # level is not 0
        written = Signal(range(depth))
        read = Signal(range(depth))
        taken = Signal()
        moves = Signal()
        pops = Signal()
        m.d.comb += [
            write_port.en.eq(self.valid),
            write_port.addr.eq(written),
            write_port.data.eq(item),
            read_port.en.eq(moves),
            read_port.addr.eq(read),
            shown.eq(read_port.data),
            taken.eq(self.behind.valid & self.behind.ready),
            moves.eq(~self.behind.valid | self.behind.ready),
            pops.eq(moves & waits),
            self.room.eq(room),
            self.idle.eq(reserved == 0),
        ]
        m.d.sync += [
            reserved.eq(reserved + self.reserve - taken),
            room.eq(taken | ((reserved != depth) & ~((reserved == depth - 1) & self.reserve))),
            level.eq(level + self.valid - pops),
            waits.eq(self.valid | ((level != 0) & ~((level == 1) & pops))),
            written.eq(written + self.valid),
            read.eq(read + pops),
        ]
        with m.If(moves):
            m.d.sync += self.behind.valid.eq(waits)
        return m
