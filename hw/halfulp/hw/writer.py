"""The writer: output groups to memory, through queues of bus words and of bursts."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, ResetInserter, Shape, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from halfulp.hw.burst_packer import BurstPacker
from halfulp.hw.burst_writer import BurstWriter
from halfulp.hw.config import BURST_BEATS, ArrayConfig
from halfulp.hw.interfaces import AxiWriteSignature, output_group_layout
from halfulp.hw.pair_queue import PairQueue

__all__ = ["Writer"]

WORD_DEPTH = 4 * BURST_BEATS
"""Bus words that wait for the bus: a burst is announced when all of its words are here, and the next ones fill up."""


class Writer(wiring.Component):
    """Writes output groups to memory.

    Parameters
    ----------
    config
        Lanes and bus width.

    Members
    -------
    groups : In(stream.Signature(output_group_layout(config)))
        Rounded results; one that fits a bus word is taken every clock as long as the bus keeps up.
    axi : Out(AxiWriteSignature(config.bus_width))
        INCR bursts of full bus words, at most 16, never across 4 KiB; once a burst has begun its data come without
        gaps.
    done : Out(1)
        One clock: the group with `last_of_gemm` is in memory, and so is everything before it.
    error : Out(1), error_address : Out(64)
        One clock for a SLVERR or DECERR, with the address of its burst.
    flush : In(1)
        Forget the groups, complete what is promised on the bus (with strobes 0), report nothing. Until `idle`.
    idle : Out(1)
        Nothing is held or promised.
    """

    groups: stream.Interface
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
                "groups": In(stream.Signature(output_group_layout(config))),
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
        config = self._config
        m.submodules.packer = packer = BurstPacker(config=config)
        m.submodules.bus = bus = BurstWriter(config=config)
        words = self._connect(m, "words", packer.words, bus.words, WORD_DEPTH)
        bursts = self._connect(m, "bursts", packer.bursts, bus.bursts, WORD_DEPTH // 2)
        wiring.connect(m, wiring.flipped(self.groups), packer.groups)
        wiring.connect(m, bus.axi, wiring.flipped(self.axi))
        m.d.comb += [
            packer.flush.eq(self.flush),
            bus.flush.eq(self.flush),
            self.done.eq(bus.done),
            self.error.eq(bus.error),
            self.error_address.eq(bus.error_address),
            self.idle.eq(packer.idle & bus.idle & (words == 0) & (bursts == 0)),
        ]
        return m

    def _connect(self, m: Module, name: str, source: stream.Interface, target: stream.Interface, depth: int) -> Signal:
        """Put a queue between two streams, and return how many wait in it.

        Its `ready` is a register, for the whole drain behind it halts by it.
        """
        # One place more than is used, so that the queue itself never halts.
        queue = SyncFIFOBuffered(width=Shape.cast(source.p.shape()).width, depth=depth + 1)
        m.submodules[name] = ResetInserter(self.flush)(queue)
        waiting = Signal(range(depth + 1), name=f"{name}_waiting")
        full = Signal(name=f"{name}_full")
        push, popped = source.valid & source.ready, Signal(name=f"{name}_popped")
        before = target
        if not self._config.compact:
            # Registers between the queue's memory, which is slow to show a word, and the bus, which moves late.
            shown = PairQueue(shape=source.p.shape())
            m.submodules[f"{name}_shown"] = ResetInserter(self.flush)(shown)
            wiring.connect(m, shown.behind, target)
            before = shown.before
        m.d.comb += [
            queue.w_data.eq(source.payload.as_value()),
            queue.w_en.eq(push),
            source.ready.eq(~full),
            before.valid.eq(queue.r_rdy),
            Value.cast(before.p).eq(queue.r_data),
            queue.r_en.eq(before.ready),
        ]
        m.d.sync += [
            # A clock later, for whether one leaves is found at the bus' end of a long path.
            popped.eq(target.valid & target.ready),
            waiting.eq(waiting + push - popped),
            full.eq(~popped & ((waiting == depth) | ((waiting == depth - 1) & push))),
        ]
        with m.If(self.flush):
            m.d.sync += [popped.eq(0), waiting.eq(0), full.eq(0)]
        return waiting
