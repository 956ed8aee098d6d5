"""A memory on the chip, for boards without another: the core's AXI4 port and a port of single bytes share it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from halfulp.hw.interfaces import AxiReadSignature, AxiWriteSignature

__all__ = ["BytePortSignature", "SharedMemory"]

OKAY, DECODE_ERROR = 0, 3


class BytePortSignature(wiring.Signature):
    """One byte a clock, as the initiator sees it.

    A byte is written in a clock in which `write` is 1. One is read in a clock in which `read` and `ready` are 1, and
    is on `read_data` in the next clock.
    """

    def __init__(self, address_width: int) -> None:
        super().__init__(
            {
                "address": Out(address_width),
                "write": Out(1),
                "write_data": Out(8),
                "read": Out(1),
                "ready": In(1),
                "read_data": In(8),
            }
        )


class SharedMemory(wiring.Component):
    """Block RAM of the bus's width with byte enables, one port to read and one to write, from address 0 on.

    The byte port goes first; the bus waits for the clocks that it takes. One burst in each direction is served at a
    time, a beat a clock, the first one 2 clocks after the address. A beat beyond the memory is answered with DECERR.

    Parameters
    ----------
    memory_bytes
        Size, a multiple of 64.
    bus_width
        Bits of the AXI4 data channels.

    Members
    -------
    axi_read : In(AxiReadSignature(bus_width)), axi_write : In(AxiWriteSignature(bus_width))
    bytes : In(BytePortSignature(address_width))
        Addresses beyond the memory must not be used.
    """

    axi_read: Any
    axi_write: Any
    bytes: Any

    def __init__(self, *, memory_bytes: int, bus_width: int) -> None:
        if isinstance(memory_bytes, bool) or not isinstance(memory_bytes, int):
            raise TypeError(f"memory_bytes must be an integer, not {memory_bytes!r}")
        if memory_bytes % 64 or not 64 <= memory_bytes <= 1 << 31:
            raise ValueError(f"memory_bytes must be a multiple of 64 up to 2**31, not {memory_bytes!r}")
        self._memory_bytes = memory_bytes
        self._bus_bytes = bus_width // 8
        super().__init__(
            {
                "axi_read": In(AxiReadSignature(bus_width)),
                "axi_write": In(AxiWriteSignature(bus_width)),
                "bytes": In(BytePortSignature(ceil_log2(memory_bytes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        words, byte_bits = self._memory_bytes // self._bus_bytes, exact_log2(self._bus_bytes)
        read, write = _Port(words, self._bus_bytes, enables=1), _Port(words, self._bus_bytes, enables=self._bus_bytes)
        # A memory for each byte of a word: block RAM with enables for bytes is not as deep on some parts.
        for number in range(self._bus_bytes):
            m.submodules[f"byte_{number}"] = one = memory.Memory(shape=unsigned(8), depth=words, init=[])
            read_one, write_one = one.read_port(), one.write_port()
            m.d.comb += [
                read_one.en.eq(read.en),
                read_one.addr.eq(read.addr),
                read.data.word_select(number, 8).eq(read_one.data),
                write_one.en.eq(write.en[number]),
                write_one.addr.eq(write.addr),
                write_one.data.eq(write.data.word_select(number, 8)),
            ]
        port = self.bytes
        byte, lane = Signal(byte_bits), Signal(byte_bits)
        m.d.comb += lane.eq(port.address[:byte_bits])
        m.d.sync += byte.eq(lane)
        m.d.comb += port.read_data.eq(read.data.word_select(byte, 8))
        self._serve_reads(m, read, words, byte_bits)
        self._serve_writes(m, write, words, byte_bits, lane)
        return m

    def _serve_reads(self, m: Module, port: _Port, words: int, byte_bits: int) -> None:
        axi = self.axi_read
        active, outside = Signal(), Signal()
        word, left = Signal(range(words)), Signal(8)
        stalled, issue = Signal(), Signal()
        m.d.comb += [
            # What lies on the bus must not be overwritten by another read.
            stalled.eq(axi.rvalid & ~axi.rready),
            self.bytes.ready.eq(~stalled),
            issue.eq(active & ~stalled & ~self.bytes.read),
            port.addr.eq(Mux(self.bytes.read, self.bytes.address[byte_bits:], word)),
            port.en.eq(~stalled),
            axi.arready.eq(~active),
            axi.rid.eq(0),
            axi.rdata.eq(port.data),
        ]
        with m.If(~stalled):
            m.d.sync += [axi.rvalid.eq(issue), axi.rlast.eq(left == 0), axi.rresp.eq(Mux(outside, DECODE_ERROR, OKAY))]
        with m.If(axi.arvalid & axi.arready):
            first = axi.araddr[byte_bits:]
            m.d.sync += [active.eq(1), word.eq(first), outside.eq(first >= words), left.eq(axi.arlen)]
        with m.If(issue):
            m.d.sync += [word.eq(word + 1), left.eq(left - 1), active.eq(left != 0)]
            with m.If(word == words - 1):
                m.d.sync += outside.eq(1)

    def _serve_writes(self, m: Module, port: _Port, words: int, byte_bits: int, lane: Signal) -> None:
        axi = self.axi_write
        active, outside = Signal(), Signal()
        word = Signal(range(words))
        taken = Signal()
        m.d.comb += [
            axi.awready.eq(~active & ~axi.bvalid),
            axi.wready.eq(active & ~self.bytes.write),
            axi.bid.eq(0),
            taken.eq(axi.wvalid & axi.wready),
        ]
        with m.If(self.bytes.write):
            m.d.comb += [
                port.addr.eq(self.bytes.address[byte_bits:]),
                port.data.eq(Cat(self.bytes.write_data.replicate(self._bus_bytes))),
                port.en.eq(1 << lane),
            ]
        with m.Else():
            m.d.comb += [
                port.addr.eq(word),
                port.data.eq(axi.wdata),
                port.en.eq(Mux(taken & ~outside, axi.wstrb, 0)),
            ]
        with m.If(axi.awvalid & axi.awready):
            first = axi.awaddr[byte_bits:]
            m.d.sync += [active.eq(1), word.eq(first), outside.eq(first >= words), axi.bresp.eq(OKAY)]
        with m.If(taken):
            m.d.sync += [word.eq(word + 1), active.eq(~axi.wlast), axi.bvalid.eq(axi.wlast)]
            with m.If(word == words - 1):
                m.d.sync += outside.eq(1)
            with m.If(outside):
                m.d.sync += axi.bresp.eq(DECODE_ERROR)
        with m.If(axi.bvalid & axi.bready):
            m.d.sync += axi.bvalid.eq(0)


class _Port:
    """Signals of a port of all bytes of a word."""

    def __init__(self, words: int, bus_bytes: int, *, enables: int) -> None:
        self.en = Signal(enables)
        self.addr = Signal(range(words))
        self.data = Signal(8 * bus_bytes)
