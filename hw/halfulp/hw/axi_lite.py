"""AXI4-Lite target: handshakes on one side, plain register strobes on the other."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from halfulp.hw.interfaces import AxiLiteSignature, payload_register

__all__ = ["AxiLiteTarget"]


class AxiLiteTarget(wiring.Component):
    """Turns AXI4-Lite transfers into single-clock register accesses.

    Write address and write data may come in either order, any number of clocks apart; all responses are OKAY. One
    write and one read are in progress at a time, independently of each other, and every ready is a register: no path
    leads through this block from a channel's valid to its ready.

    Parameters
    ----------
    address_width
        Bits of the byte address.

    Members
    -------
    bus : In(AxiLiteSignature(address_width))
    write_enable : Out(1)
        One clock a write: `write_address` (of 32-bit words), `write_data` and `write_strobe` (a bit a byte) are valid.
    read_begins, read_continues, read_enable : Out(1)
        One clock a read each, one behind the other: `read_address` (of words) is valid in all three, and `read_data`
        for it is taken at the end of the last.
    """

    bus: Any
    write_enable: Signal
    write_address: Signal
    write_data: Signal
    write_strobe: Signal
    read_begins: Signal
    read_continues: Signal
    read_enable: Signal
    read_address: Signal
    read_data: Signal

    def __init__(self, *, address_width: int = 12) -> None:
        if not 3 <= address_width <= 64:
            raise ValueError(f"address_width must be 3 to 64 bits, not {address_width!r}")
        super().__init__(
            {
                "bus": In(AxiLiteSignature(address_width)),
                "write_enable": Out(1),
                "write_address": Out(address_width - 2),
                "write_data": Out(32),
                "write_strobe": Out(4),
                "read_begins": Out(1),
                "read_continues": Out(1),
                "read_enable": Out(1),
                "read_address": Out(address_width - 2),
                "read_data": In(32),
            }
        )

    @property
    def read_latency(self) -> int:
        """Clocks from the one in which a read address is accepted to the first with its data on the bus."""
        return 4

    @property
    def write_latency(self) -> int:
        """Clocks from the one in which the later of address and data is accepted to the first with its response."""
        return 2

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        bus = self.bus

        write_address, write_data = payload_register(m, self.write_address), payload_register(m, self.write_data)
        write_strobe = payload_register(m, self.write_strobe)
        have_address = Signal()
        have_data = Signal()
        m.d.comb += [
            bus.awready.eq(~have_address),
            bus.wready.eq(~have_data),
            bus.bresp.eq(0),
            self.write_enable.eq(have_address & have_data & ~bus.bvalid),
        ]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [have_address.eq(1), write_address.eq(bus.awaddr[2:])]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [have_data.eq(1), write_data.eq(bus.wdata), write_strobe.eq(bus.wstrb)]
        with m.If(self.write_enable):
            m.d.sync += [have_address.eq(0), have_data.eq(0), bus.bvalid.eq(1)]
        with m.If(bus.bvalid & bus.bready):
            m.d.sync += bus.bvalid.eq(0)

        read_address, read_data = payload_register(m, self.read_address), payload_register(m, bus.rdata)
        have_read = Signal()
        has_begun, is_ready = Signal(), Signal()
        m.d.comb += [
            bus.arready.eq(~have_read),
            bus.rresp.eq(0),
            self.read_begins.eq(have_read & ~has_begun),
            self.read_continues.eq(has_begun & ~is_ready),
            self.read_enable.eq(is_ready & ~bus.rvalid),
        ]
        m.d.sync += [
            has_begun.eq(have_read & ~self.read_enable),
            is_ready.eq(has_begun & ~self.read_enable),
        ]
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [have_read.eq(1), read_address.eq(bus.araddr[2:])]
        with m.If(self.read_enable):
            m.d.sync += [have_read.eq(0), bus.rvalid.eq(1), read_data.eq(self.read_data)]
        with m.If(bus.rvalid & bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        return m
