"""Gathered bursts to the AXI4 write channels: addresses, data, and the responses that are awaited."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from halfulp.hw.burst_packer import burst_layout, word_layout
from halfulp.hw.config import BURST_BEATS, ArrayConfig
from halfulp.hw.interfaces import AxiWriteSignature, payload_register

__all__ = ["BurstWriter"]

WRITES_OUTSTANDING = 16
"""Bursts whose responses may be awaited at a time."""


class BurstWriter(wiring.Component):
    """Puts gathered bursts on the AXI4 write channels and collects their responses.

    Write data never waits for a write address to be accepted, as the standard demands, and runs one burst ahead of
    it at the most. Up to 16 bursts await their responses.

    Parameters
    ----------
    config
        Bus width.

    Members
    -------
    words : In(stream.Signature(word_layout(config)))
    bursts : In(stream.Signature(burst_layout(config)))
        A burst must come only when all its words are waiting in `words`.
    axi : Out(AxiWriteSignature(config.bus_width))
    done : Out(1)
        One clock: the last burst of a GEMM has been answered, as had all before it; none had failed.
    error : Out(1), error_address : Out(64)
        One clock for a SLVERR or DECERR, with the address of its burst.
    flush : In(1)
        Start no burst; finish the one begun, with all strobes 0 from the next beat on; report nothing.
    idle : Out(1)
        Nothing is promised on the bus.
    """

    words: stream.Interface
    bursts: stream.Interface
    axi: Any
    done: Signal
    error: Signal
    error_address: Signal
    flush: Signal
    idle: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "words": In(stream.Signature(word_layout(config))),
                "bursts": In(stream.Signature(burst_layout(config))),
                "axi": Out(AxiWriteSignature(config.bus_width)),
                "done": Out(1),
                "error": Out(1),
                "error_address": Out(config.address_bits),
                "flush": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        config, axi, burst = self._config, self.axi, self.bursts.payload
        offset_bits = exact_log2(config.bus_bytes)
        data_out, strobe_out, last_out = (payload_register(m, port) for port in (axi.wdata, axi.wstrb, axi.wlast))
        address_out, length_out = payload_register(m, axi.awaddr), payload_register(m, axi.awlen)

        # Bursts that await their responses, in order: all have one id.
        entry_layout = data.StructLayout({"word_address": config.address_bits - offset_bits, "last_of_gemm": 1})
        m.submodules.awaited = awaited = SyncFIFOBuffered(width=entry_layout.size, depth=WRITES_OUTSTANDING)
        entry = data.View(entry_layout, awaited.r_data)

        # A beat register in front of the bus, so that what is offered stays as it is whatever happens behind it.
        beats_left = Signal(range(BURST_BEATS + 1))
        beat_free = Signal()
        more = Signal()  # beats_left is not 0; a register, for the queue's memory moves by it
        begin = Signal()
        m.d.comb += [
            beat_free.eq(~axi.wvalid | axi.wready),
            begin.eq(
                self.bursts.valid
                & ~self.flush
                & (~axi.awvalid | axi.awready)
                & (~more | ((beats_left == 1) & beat_free))
                & awaited.w_rdy
            ),
            self.bursts.ready.eq(begin),
            self.words.ready.eq(more & beat_free),
            awaited.w_en.eq(begin),
            awaited.w_data.eq(Cat(burst.word_address, burst.last_of_gemm)),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        with m.If(beat_free):
            m.d.sync += axi.wvalid.eq(more)
            with m.If(more):
                # A flush has emptied the queue of words: the beats still promised carry none.
                m.d.sync += [
                    data_out.eq(self.words.payload.data),
                    strobe_out.eq(Mux(self.words.valid & ~self.flush, self.words.payload.strobe, 0)),
                    last_out.eq(beats_left == 1),
                    beats_left.eq(beats_left - 1),
                    more.eq(beats_left != 1),
                ]
        with m.If(begin):
            m.d.sync += [
                more.eq(1),
                axi.awvalid.eq(1),
                address_out.eq(Cat(Const(0, offset_bits), burst.word_address)),
                length_out.eq(burst.beats_less_1),
                beats_left.eq(burst.beats_less_1 + 1),
            ]
        m.d.comb += [
            axi.awid.eq(0),
            axi.awsize.eq(offset_bits),
            axi.awburst.eq(1),  # INCR
            axi.awlock.eq(0),
            axi.awcache.eq(0b0011),  # normal, non-cacheable, bufferable
            axi.awprot.eq(0),
            axi.awqos.eq(0),
        ]

        failed = axi.bresp[1]  # SLVERR and DECERR
        answered = Signal()
        m.d.comb += [
            axi.bready.eq(awaited.r_rdy),
            answered.eq(axi.bvalid & axi.bready),
            awaited.r_en.eq(answered),
            self.done.eq(answered & entry.last_of_gemm & ~failed & ~self.flush),
            self.error.eq(answered & failed & ~self.flush),
            self.error_address.eq(Cat(Const(0, offset_bits), entry.word_address)),
            self.idle.eq(~axi.awvalid & ~axi.wvalid & ~more & (awaited.w_level == 0)),
        ]
        return m
