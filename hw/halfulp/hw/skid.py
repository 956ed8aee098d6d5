"""A place of waiting between two blocks, so that the one before halts by a register."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["SkidBuffer"]


class SkidBuffer(wiring.Component):
    """Passes a stream on in the same clock; what is not taken waits here, and only then is nothing more let in.

    Parameters
    ----------
    shape
        Of the payload.

    Members
    -------
    before : In(stream.Signature(shape))
        Its `ready` is a register: nothing waits.
    behind : Out(stream.Signature(shape))
    """

    before: stream.Interface
    behind: stream.Interface

    def __init__(self, *, shape: Any) -> None:
        super().__init__({"before": In(stream.Signature(shape)), "behind": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        offered = Value.cast(self.before.p)
        waits = Signal()
        kept = Signal(len(offered), reset_less=True)
        m.d.comb += [
            self.before.ready.eq(~waits),
            self.behind.valid.eq(waits | self.before.valid),
            self.behind.p.eq(Mux(waits, kept, offered)),
        ]
        m.d.sync += waits.eq(self.behind.valid & ~self.behind.ready)
        # Whatever is offered, taken or not: what is kept counts only where it waits.
        with m.If(~waits):
            m.d.sync += kept.eq(offered)
        return m
