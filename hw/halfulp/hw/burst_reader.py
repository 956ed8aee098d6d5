"""AXI4 reads: lines of bus words in, bursts out, and every returning beat labelled with where it belongs."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from halfulp.hw.config import BURST_BEATS, ArrayConfig
from halfulp.hw.interfaces import AxiReadSignature, payload_register, payload_registers
from halfulp.hw.long_address import LongAddress
from halfulp.hw.operand_buffer import BeatSignature

__all__ = ["BurstReader", "LineSignature", "words_ahead"]

_PAGE_BITS = 12
_BURST_BITS = ceil_log2(BURST_BEATS)


def words_ahead(address: Value, bus_bytes: int) -> Value:
    """How many bus words from the one at this byte address on a burst may have: at most 16, and no more than the page.

    Only in the last 16 words of a page can its end cut a burst.
    """
    return _ahead(address[ceil_log2(bus_bytes) : _PAGE_BITS], 1)


def _ahead(word: Value, group: int) -> Value:
    """The same from a word's place in its page: this group of 16 words, counted from the end, is near the end."""
    inside, number = word[:_BURST_BITS], word[_BURST_BITS:]
    return Mux(number == (1 << len(number)) - group, BURST_BEATS - inside, BURST_BEATS)


class LineSignature(wiring.Signature):
    """A contiguous run of bus words, valid and ready as in a stream, and what becomes of its beats.

    address: of its first element; beats: words from the one that holds it, at least 1; ahead: most of them that the
    first burst may have (`words_ahead`). The others are those of
    `BeatSignature` for the line's first beat; last: the last line of its block.
    """

    def __init__(self, config: ArrayConfig) -> None:
        lanes = max(config.rows, config.columns)
        lane = ceil_log2(config.bus_bytes)
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "address": Out(config.address_bits),
                "beats": Out(bits_for(max(lanes, BURST_BEATS + 1))),
                "ahead": Out(range(BURST_BEATS + 1)),
                "operand": Out(1),
                "across": Out(1),
                "word": Out(ceil_log2(config.buffer_depth)),
                "bank": Out(ceil_log2(lanes) or 1),
                "lane": Out(lane),
                "offset": Out(lane),
                "last": Out(1),
            }
        )


class BurstReader(wiring.Component):
    """Cut lines into INCR bursts of at most 16 beats that stay within 4 KiB, and take the beats.

    A line accepted in clock t has its first burst on the bus in clock t + 2 where nothing is in the way, and its
    next ones at least 2 clocks apart; lines of one burst follow each other without a gap. At most
    `reads_outstanding` bursts are in flight; the data channel is always ready, and beats come back in order (one
    id). A beat of clock t leaves in clock t + 1.

    On `flush` no burst is begun any more, a burst already offered stays until it is accepted, and the beats still
    to come are dropped; `idle` tells when the last of them is in.

    Parameters
    ----------
    config
        The core.

    Members
    -------
    line, axi, beat
        See the signatures.
    arrived
        Pulse an operand: the beat was the last of a block.
    error, error_address
        Pulse: a beat came with SLVERR or DECERR; address of its burst.
    flush, idle
        See above.
    """

    line: Any
    axi: Any
    beat: Any
    arrived: Signal
    error: Signal
    error_address: Signal
    flush: Signal
    idle: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "line": In(LineSignature(config)),
                "axi": Out(AxiReadSignature(config.bus_width)),
                "beat": Out(BeatSignature(config)),
                "arrived": Out(2),
                "error": Out(1),
                "error_address": Out(config.address_bits),
                "flush": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build burst cutter, contexts of the bursts in flight, and the data side."""
        m = Module()
        config, axi, beat = self._config, self.axi, self.beat
        word_bits = ceil_log2(config.bus_bytes)
        depth = config.reads_outstanding
        in_flight = Signal(range(depth + 1))
        write_index, read_index = Signal(range(depth)), Signal(range(depth))

        full = Signal()
        context = self._cut_lines(m, can_begin=~full)
        begin, end = Signal(), Signal()
        m.d.comb += [
            begin.eq(context["begin"]),
            end.eq(axi.rvalid & axi.rlast),
            axi.rready.eq(1),
            self.idle.eq(~axi.arvalid & (in_flight == 0)),
        ]
        m.d.sync += [
            in_flight.eq(in_flight + begin - end),
            full.eq((in_flight == depth) & ~end | (in_flight == depth - 1) & begin & ~end),
        ]

        # One entry a burst in flight: where its beats go, and its address for the error report.
        fields = ("operand", "across", "word", "bank", "lane", "offset", "beat", "last")
        label = Cat(*(context[name] for name in fields))
        m.submodules.labels = labels = memory.Memory(shape=unsigned(len(label)), depth=depth, init=[])
        m.submodules.addresses = addresses = memory.Memory(shape=unsigned(config.address_bits), depth=depth, init=[])
        for store, value in ((labels, label), (addresses, context["address"])):
            port = store.write_port()
            m.d.comb += [port.addr.eq(write_index), port.data.eq(value), port.en.eq(begin)]
        with m.If(begin):
            m.d.sync += write_index.eq(write_index + 1)
        head, failed = labels.read_port(domain="comb"), addresses.read_port(domain="comb")
        m.d.comb += [head.addr.eq(read_index), failed.addr.eq(read_index)]

        of: dict[str, Any] = {}
        position = 0
        for name in fields:
            width = len(context[name])
            of[name] = head.data[position : position + width]
            position += width
        number = Signal(range(BURST_BEATS))
        block_ends = end & of["last"] & ~self.flush
        # A clock later, for whose block it is comes out of a memory.
        m.d.sync += self.arrived.eq(Cat(block_ends & ~of["operand"], block_ends & of["operand"]))
        held = payload_registers(m, beat)
        m.d.sync += beat.valid.eq(axi.rvalid & ~self.flush)
        with m.If(axi.rvalid):
            m.d.sync += [
                number.eq(Mux(axi.rlast, 0, number + 1)),
                read_index.eq(read_index + axi.rlast),
                held.word.eq(of["word"] + Mux(of["across"], 0, number)),
                held.beat.eq(of["beat"] + number),
                held.rotation.eq(Mux(of["across"], of["lane"] - of["offset"], 0)),
                held.data.eq(axi.rdata),
                *(getattr(held, name).eq(of[name]) for name in ("operand", "across", "bank", "lane", "offset")),
            ]
        error_address = payload_register(m, self.error_address)
        m.d.sync += self.error.eq(axi.rvalid & axi.rresp[1])
        with m.If(axi.rvalid & axi.rresp[1]):
            m.d.sync += error_address.eq(failed.data)

        m.d.comb += [
            axi.arid.eq(0),
            axi.arsize.eq(word_bits),
            axi.arburst.eq(0b01),  # INCR
            axi.arlock.eq(0),
            axi.arcache.eq(0b0011),  # normal, bufferable, not cached
            axi.arprot.eq(0),
            axi.arqos.eq(0),
        ]
        return m

    def _cut_lines(self, m: Module, *, can_begin: Any) -> dict[str, Any]:
        """Hold one line and offer its bursts; return what a burst that begins in this clock carries."""
        config, axi, line = self._config, self.axi, self.line
        word_bits = ceil_log2(config.bus_bytes)
        held = Signal()
        usable = Signal()
        words = LongAddress(config.address_bits - word_bits, "words")
        left = Signal.like(line.beats, reset_less=True)
        burst = Signal(range(BURST_BEATS + 1), reset_less=True)
        ahead = Signal.like(line.ahead, reset_less=True)
        ends = Signal(reset_less=True)
        names = ("operand", "across", "word", "bank", "lane", "offset", "last")
        kept = {name: Signal.like(getattr(line, name), name=f"line_{name}", reset_less=True) for name in names}
        done_beats = Signal(len(self.beat.beat), reset_less=True)

        address, length = payload_register(m, axi.araddr), payload_register(m, axi.arlen)

        begin, accept = Signal(), Signal()
        m.d.comb += [
            begin.eq(usable & can_begin & (~axi.arvalid | axi.arready) & ~self.flush),
            line.ready.eq(~held | (begin & ends)),
            accept.eq(line.valid & line.ready),
        ]
        m.d.sync += words.settle()
        with m.If(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        with m.If(begin):
            m.d.sync += [
                axi.arvalid.eq(1),
                address.eq(Cat(*([0] * word_bits), words.value)),
                length.eq(burst - 1),
                *words.add(burst),
                # Behind this burst, which ends a page or is a whole one.
                ahead.eq(_ahead(words.value[: _PAGE_BITS - word_bits], 2)),
                left.eq(left - burst),
                done_beats.eq(done_beats + burst),
                held.eq(~ends),
                usable.eq(0),
            ]
            with m.If(~kept["across"]):
                m.d.sync += kept["word"].eq(kept["word"] + burst)
        with m.If(held & ~usable):
            m.d.sync += [*_next_burst(left, ahead, burst, ends), usable.eq(1)]
        with m.If(accept):
            m.d.sync += [
                held.eq(1),
                usable.eq(1),
                *words.become(line.address[word_bits:]),
                left.eq(line.beats),
                *_next_burst(line.beats, line.ahead, burst, ends),
                done_beats.eq(0),
                *(kept[name].eq(getattr(line, name)) for name in names),
            ]
        with m.If(self.flush):
            m.d.sync += [held.eq(0), usable.eq(0)]
        context: dict[str, Any] = dict(kept)
        context["last"] = kept["last"] & ends
        context["beat"] = done_beats
        context["address"] = Cat(*([0] * word_bits), words.value)
        context["begin"] = begin
        return context


def _next_burst(left: Value, ahead: Value, burst: Signal, ends: Signal) -> list[Any]:
    """Set the beats of the next burst of `left` ones, and whether it is the last."""
    last = left <= ahead
    return [burst.eq(Mux(last, left, ahead)), ends.eq(last)]
