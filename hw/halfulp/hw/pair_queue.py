"""A skid buffer with registers on both sides: no path leads through it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PairQueue"]


class PairQueue(wiring.Component):
    """A queue of two items whose output is a register.

    Parameters
    ----------
    shape
        Of an item.

    Members
    -------
    before : In(stream.Signature(shape))
        Its `ready` is a register: fewer than two wait.
    behind : Out(stream.Signature(shape))
        Items, a clock behind their coming at the earliest. `valid` and payload are registers.
    """

    before: stream.Interface
    behind: stream.Interface

    latency = 1
    """Clocks from the one in which an item comes to the one in which it is at the output of an empty queue."""

    def __init__(self, *, shape: Any) -> None:
        super().__init__({"before": In(stream.Signature(shape)), "behind": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        offered = Value.cast(self.before.p)
        first = Signal(len(offered), reset_less=True)
        second = Signal(len(offered), reset_less=True)
        shows = Signal()
        waits = Signal()  # the second, which it can only behind the first
        moves = Signal()
        m.d.comb += [
            self.before.ready.eq(~waits),
            self.behind.valid.eq(shows),
            Value.cast(self.behind.p).eq(first),
            moves.eq(~shows | self.behind.ready),
        ]
        with m.If(moves):
            m.d.sync += [first.eq(Mux(waits, second, offered)), shows.eq(waits | self.before.valid), waits.eq(0)]
        with m.Elif(self.before.valid):
            m.d.sync += waits.eq(1)
        with m.If(~waits):
            m.d.sync += second.eq(offered)
        return m
