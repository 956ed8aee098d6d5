"""Output groups to bus words and bursts: packing, merging at the seams, cutting at 16 beats and 4 KiB."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from halfulp.hw.config import BURST_BEATS, ArrayConfig
from halfulp.hw.interfaces import output_group_layout

__all__ = ["BurstPacker", "burst_layout", "word_layout"]

PAGE_BYTES = 4096
"""No burst crosses a multiple of this address (AXI4 specification, A3.4.1)."""


def word_layout(config: ArrayConfig) -> data.StructLayout:
    """One bus word to be written: its bytes, and a strobe bit for each that is."""
    return data.StructLayout({"data": config.bus_width, "strobe": config.bus_bytes})


def burst_layout(config: ArrayConfig) -> data.StructLayout:
    """One burst: address of its first bus word, in bus words; beats - 1; whether it is the last of its GEMM."""
    return data.StructLayout(
        {
            "word_address": config.address_bits - exact_log2(config.bus_bytes),
            "beats_less_1": exact_log2(BURST_BEATS),
            "last_of_gemm": 1,
        }
    )


class BurstPacker(wiring.Component):
    """Packs groups of output codes into bus words and gathers these into bursts.

    Groups of one tile row follow each other without gaps, so the word that a group ends in is kept and merged with
    the next group's first one, up to the end of the row. A burst ends with a row, after 16 words, and before 4 KiB.

    Parameters
    ----------
    config
        Lanes and bus width.

    Members
    -------
    groups : In(stream.Signature(output_group_layout(config)))
        A group that fits one bus word is taken every clock; a wider one takes a clock each word.
    words : Out(stream.Signature(word_layout(config)))
    bursts : Out(stream.Signature(burst_layout(config)))
        Valid only together with the burst's last word, which moves in the same clock.
    flush : In(1)
        Forget everything.
    idle : Out(1)
        Nothing is held here.
    """

    groups: stream.Interface
    words: stream.Interface
    bursts: stream.Interface
    flush: Signal
    idle: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "groups": In(stream.Signature(output_group_layout(config))),
                "words": Out(stream.Signature(word_layout(config))),
                "bursts": Out(stream.Signature(burst_layout(config))),
                "flush": In(1),
                "idle": Out(1),
            }
        )

    @property
    def latency(self) -> int:
        """Clocks from the one that takes a group to the first with its first complete word."""
        return 2

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        config = self._config
        bus_bytes, bus_width = config.bus_bytes, config.bus_width
        offset_bits = exact_log2(bus_bytes)
        group = self.groups.payload

        # Stage 1: codes to contiguous bytes.
        packed_valid = Signal()
        bytes_most = config.out_bytes * config.lanes
        packed = Signal(8 * bytes_most, reset_less=True)
        byte_count = Signal(ceil_log2(bytes_most + 1), reset_less=True)
        # Counted from where the first one's bus word begins.
        last_byte = Signal(range(bytes_most + bus_bytes), reset_less=True)
        packed_address = Signal(config.address_bits, reset_less=True)
        packed_last_of_row = Signal(reset_less=True)
        packed_last_of_gemm = Signal(reset_less=True)

        # Stage 2: bytes at their places in consecutive bus words, of which the first leaves first.
        words_most = (bytes_most + bus_bytes - 2) // bus_bytes + 1
        aligned_valid = Signal()
        aligned = Signal(bus_width * words_most, reset_less=True)
        strobes = Signal(bus_bytes * words_most, reset_less=True)
        words_behind = Signal(range(words_most), reset_less=True)
        # Whether a word leaves, or all is kept for the next group; whether that ends a burst; whether it is the last
        # word that does, or there is none. Registers, for all that is behind halts by them, in as few tables as can be.
        pushes = Signal()
        closes = Signal()
        finishes = Signal(init=1)
        word_address = Signal(config.address_bits - offset_bits, reset_less=True)
        page_bits = exact_log2(PAGE_BYTES // bus_bytes)
        ends_row = Signal(reset_less=True)
        next_pushes = Signal()
        next_ends_row = Signal()
        next_ends_page = Signal()
        next_is_full = Signal()
        keep_last = Signal(reset_less=True)
        last_of_row = Signal(reset_less=True)
        last_of_gemm = Signal(reset_less=True)

        # What the next group's first word is merged with.
        kept = Signal(word_layout(config))

        halts = Signal()
        packed_free = Signal()
        m.d.comb += [
            halts.eq((pushes & ~self.words.ready) | (closes & ~self.bursts.ready)),
            packed_free.eq(~packed_valid | (finishes & ~halts)),
            self.groups.ready.eq(packed_free),
            self.idle.eq(~packed_valid & ~aligned_valid & ~kept.strobe.any()),
        ]
        taken_bytes = (group.count << group.bytes_log2)[: len(byte_count)]
        with m.If(packed_free):
            m.d.sync += [
                packed_valid.eq(self.groups.valid),
                packed.eq(_contiguous(group, config.lanes)),
                byte_count.eq(taken_bytes),
                last_byte.eq(group.address[:offset_bits] + taken_bytes - 1),
                packed_address.eq(group.address),
                packed_last_of_row.eq(group.last_of_row),
                packed_last_of_gemm.eq(group.last_of_gemm),
            ]

        offset = packed_address[:offset_bits]
        # Either the next group comes, or the next word of this one: which of them is known before whether one does.
        with m.If(~halts):
            # A burst ends with a row, before a multiple of 4 KiB, and after 16 words.
            m.d.sync += [
                pushes.eq(next_pushes),
                ends_row.eq(next_ends_row),
                closes.eq(next_pushes & (next_ends_row | next_is_full | next_ends_page)),
            ]
            with m.If(finishes):
                ones = Const((1 << bytes_most) - 1, bytes_most)
                count_mask = ~(ones << byte_count)[:bytes_most]
                behind = last_byte[offset_bits:]
                keeps = ~last_byte[:offset_bits].all() & ~packed_last_of_row
                m.d.comb += [
                    next_pushes.eq(packed_valid & ((behind != 0) | ~keeps)),
                    next_ends_row.eq(packed_last_of_row & (behind == 0)),
                    next_ends_page.eq(packed_address[offset_bits:][:page_bits].all()),
                ]
                m.d.sync += [
                    aligned_valid.eq(packed_valid),
                    aligned.eq(packed << Cat(Const(0, 3), offset)),
                    strobes.eq(count_mask << offset),
                    words_behind.eq(behind),
                    finishes.eq(~packed_valid | (behind == 0) | ((behind == 1) & keeps)),
                    word_address.eq(packed_address[offset_bits:]),
                    keep_last.eq(keeps),
                    last_of_row.eq(packed_last_of_row),
                    last_of_gemm.eq(packed_last_of_gemm),
                ]
            with m.Else():
                m.d.comb += [
                    next_pushes.eq((words_behind != 1) | ~keep_last),
                    next_ends_row.eq(last_of_row & (words_behind == 1)),
                    next_ends_page.eq(word_address[:page_bits] == (1 << page_bits) - 2),
                ]
                m.d.sync += [
                    aligned.eq(aligned[bus_width:]),
                    strobes.eq(strobes[bus_bytes:]),
                    words_behind.eq(words_behind - 1),
                    finishes.eq((words_behind == 1) | ((words_behind == 2) & keep_last)),
                    word_address.eq(word_address + 1),
                ]

        # One word leaves a clock; the last one of a group, where it is kept, costs no clock of its own.
        head = Signal(word_layout(config))
        m.d.comb += [
            head.data.eq(_merged(kept, aligned[:bus_width])),
            head.strobe.eq(strobes[:bus_bytes] | kept.strobe),
        ]
        with m.If(aligned_valid & ~halts):
            with m.If(~pushes):
                m.d.sync += kept.eq(head)
            with m.Elif((words_behind == 1) & keep_last):
                m.d.sync += [
                    kept.data.eq(aligned[bus_width : 2 * bus_width]),
                    kept.strobe.eq(strobes[bus_bytes : 2 * bus_bytes]),
                ]
            with m.Else():
                m.d.sync += kept.eq(0)

        # Bursts.
        beats_less_1 = Signal(exact_log2(BURST_BEATS))
        is_full = Signal()
        first_address = Signal.like(word_address, reset_less=True)
        m.d.comb += [
            next_is_full.eq(is_full),
            self.words.payload.eq(head),
            self.words.valid.eq(pushes & (self.bursts.ready | ~closes)),
            self.bursts.payload.word_address.eq(Mux(beats_less_1 == 0, word_address, first_address)),
            self.bursts.payload.beats_less_1.eq(beats_less_1),
            self.bursts.payload.last_of_gemm.eq(last_of_gemm & ends_row),
            self.bursts.valid.eq(closes & self.words.ready),
        ]
        with m.If(pushes):
            m.d.comb += next_is_full.eq((beats_less_1 == BURST_BEATS - 2) & ~closes)
        with m.If(pushes & ~halts):
            m.d.sync += [beats_less_1.eq(Mux(closes, 0, beats_less_1 + 1)), is_full.eq(next_is_full)]
            with m.If(beats_less_1 == 0):
                m.d.sync += first_address.eq(word_address)

        with m.If(self.flush):
            m.d.sync += [packed_valid.eq(0), aligned_valid.eq(0), pushes.eq(0), closes.eq(0), finishes.eq(1)]
            m.d.sync += [kept.eq(0), beats_less_1.eq(0), is_full.eq(0)]
        return m


def _merged(kept: data.View, behind: Value) -> Value:
    """The bytes that are kept, and the others of what comes behind them."""
    return Cat(
        Mux(strobe, kept.data.word_select(byte, 8), behind.word_select(byte, 8))
        for byte, strobe in enumerate(kept.strobe)
    )


def _contiguous(group: data.View, lanes: int) -> Value:
    """The codes of a group side by side, whatever their size; behind them whatever costs least."""
    codes = [group.codes[lane] for lane in range(lanes)]
    by_size = [Cat(*(code[: 8 << log2] for code in codes)) for log2 in range(exact_log2(len(codes[0]) // 8) + 1)]
    return Array(Cat(each, by_size[-1][len(each) :]) for each in by_size)[group.bytes_log2]
