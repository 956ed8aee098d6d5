# amaranth: UnusedElaboratable=no
"""The writer's packing proved: every byte of every result goes out once, to its address, in rightly cut bursts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Cat, Mux, Signal, Value

from halfulp.hw import burst_packer, burst_writer, writer
from halfulp.hw.config import BURST_BEATS, ArrayConfig

from .proofs import Bench, CounterexampleError, changed, mutant

LONG = pytest.mark.proof
"""Of `make proofs`."""


def configuration(out: str, lanes: int, bus_width: int) -> ArrayConfig:
    return ArrayConfig(
        rows=4,
        columns=4,
        lanes=lanes,
        a_formats="int4",
        b_formats="int4",
        out_formats=("int8", out),
        accumulator="exact:4",
        roundings="nearest_even",
        bus_width=bus_width,
    )


WIDE = configuration("float32", 2, 32)
"""A group takes up to three bus words."""

NARROW = configuration("bfloat16", 2, 64)
"""A bus word takes two groups and more."""


@dataclass(frozen=True)
class Modules:
    """The modules that the writer is made of, or ones in whose sources something is changed."""

    burst_packer: Any = burst_packer
    burst_writer: Any = burst_writer
    writer: Any = writer

    def mutant(self, name: str, old: str, new: str) -> Modules:
        """The same with one place of the source of one of them changed."""
        return replace(self, **{name: mutant(getattr(self, name), old, new)})

    def short(self) -> Modules:
        """Bursts of 2 beats, pages and queues of 4 words: short runs then have all that long ones have."""
        return Modules(
            changed(self.burst_packer, {"PAGE_BYTES = 4096": "BURST_BEATS = 2\nPAGE_BYTES = 32"}),
            changed(self.burst_writer, {"WRITES_OUTSTANDING = 16": "BURST_BEATS = 2\nWRITES_OUTSTANDING = 16"}),
            changed(self.writer, {"WORD_DEPTH = 4 * BURST_BEATS": "WORD_DEPTH = 4"}),
        )

    def whole(self, config: ArrayConfig) -> Any:
        """The writer, made of these."""
        # Copies, for all others import the modules themselves, which must stay as they are.
        inner, outer = changed(self.burst_writer, {}), changed(self.writer, {})
        inner.burst_layout, inner.word_layout = self.burst_packer.burst_layout, self.burst_packer.word_layout
        outer.BurstPacker, outer.BurstWriter = self.burst_packer.BurstPacker, inner.BurstWriter
        return outer.Writer(config=config)


class Rows:
    """Groups as the drain gives them, and any byte of theirs on its way to memory.

    Rows come group by group without gaps, and only the last group of a row is short. A byte is not written again
    before it has left.
    """

    def __init__(self, bench: Bench, config: ArrayConfig, groups: Any, flush: Signal) -> None:
        self._bench, self._flush = bench, flush
        m, group = bench.m, groups.payload
        self.most = config.out_bytes * config.lanes
        self.taken, count = Signal(name="taken"), Signal(range(self.most + 1))
        self.goes_on, self.next_address = Signal(name="goes_on"), Signal.like(group.address, name="next_address")
        m.d.comb += [self.taken.eq(groups.valid & groups.ready), count.eq(group.count << group.bytes_log2)]
        with m.If(self.taken):
            m.d.sync += [self.goes_on.eq(~group.last_of_row), self.next_address.eq(group.address + count)]
        with m.If(flush):
            m.d.sync += self.goes_on.eq(0)
        bench.suppose(
            (group.count >= 1) & (group.count <= config.lanes),
            group.bytes_log2 <= (config.out_bytes.bit_length() - 1),
            group.last_of_row | (group.count == config.lanes),
            ~group.last_of_gemm | group.last_of_row,
            ~self.goes_on | (group.address == self.next_address),
        )
        self.byte = bench.choose(len(group.address), "byte")
        bits = (config.bus_bytes - 1).bit_length()
        self.lane, self.word = self.byte[:bits], self.byte[bits:]
        place = (self.byte - group.address)[: len(self.byte)]
        self.covered, self.pending = Signal(name="covered"), Signal(name="pending")
        self.value, self._given = Signal(8, name="value"), Signal(8, name="given")
        m.d.comb += self.covered.eq(groups.valid & (place < count))
        with m.Switch(group.bytes_log2):
            for log2 in range(config.out_bytes.bit_length()):
                with m.Case(log2):
                    codes = Cat(group.codes[n][: 8 << log2] for n in range(config.lanes))
                    m.d.comb += self._given.eq(codes.word_select(place[: self.most.bit_length()], 8))
        bench.suppose(~(self.covered & self.pending))

    def end(self, leaves: Value) -> None:
        """Say when the byte leaves."""
        m = self._bench.m
        m.d.sync += self.pending.eq(((self.pending & ~leaves) | (self.taken & self.covered)) & ~self._flush)
        with m.If(self.taken & self.covered):
            m.d.sync += self.value.eq(self._given)


def packer_bench(modules: Modules, config: ArrayConfig) -> Bench:
    """Any byte of any group; words and bursts as they leave."""
    bench = Bench()
    m = bench.m
    packer = modules.burst_packer.BurstPacker(config=config)
    inside = bench.look_into(packer, "packer")
    groups, words, bursts = packer.groups, packer.words, packer.bursts
    group = groups.payload
    bench.free(groups.valid, group, words.ready, bursts.ready, packer.flush)
    bus_bytes = config.bus_bytes
    given = Rows(bench, config, groups, packer.flush)
    goes_on, next_address, taken, covered = given.goes_on, given.next_address, given.taken, given.covered
    byte, lane, word, pending = given.byte, given.lane, given.word, given.pending
    word_bits, most = len(lane), given.most

    # Words leave one after the other; their addresses are told with the last one of a burst.
    moves, ends = words.valid & words.ready, bursts.valid & bursts.ready
    beats, first = Signal(5), Signal.like(word, name="first")
    address = Signal.like(word, name="address")  # of the word that leaves
    m.d.comb += address.eq(inside["word_address"])
    leaves = moves & (address == word) & words.payload.strobe.bit_select(lane, 1)
    given.end(leaves)
    with m.If(moves):
        m.d.sync += [beats.eq(Mux(ends, 0, beats + 1)), first.eq(Mux(beats == 0, address, first))]
    with m.If(packer.flush):
        m.d.sync += beats.eq(0)
    # Where both queues have room, a group waits no longer than the words of one take.
    halted = Signal(4)
    m.d.sync += halted.eq(Mux(words.ready & bursts.ready & ~groups.ready, halted + 1, 0))
    start = Mux(beats == 0, address, first)
    page_words = 4096 // bus_bytes
    bench.ensure(
        # The byte goes out once, as it was.
        ~leaves | pending,
        ~leaves | (words.payload.data.word_select(lane, 8) == given.value),
        ~packer.idle | ~pending,
        # Words of a burst follow each other, and it says where the first is and how many they are.
        ~moves | (beats == 0) | (address == (first + beats)[: len(word)]),
        ~bursts.valid | (bursts.payload.word_address == start),
        ~bursts.valid | (bursts.payload.beats_less_1 == beats),
        beats < BURST_BEATS,
        ~ends | moves,
        # It stays within 4 KiB; a row's end has closed it.
        ~moves | (start[: (page_words - 1).bit_length()] + beats < page_words),
        ~packer.idle | goes_on | (beats == 0),
        # Its end has a reason.
        ~ends
        | (beats == BURST_BEATS - 1)
        | ((address + 1)[: (page_words - 1).bit_length()] == 0)
        | (inside["last_of_row"] & (inside["words_behind"] == 0)),
        halted < len(inside["strobes"]) // bus_bytes,
    )

    # The end of a GEMM is told once, with a word behind which nothing of it comes.
    lasts, ahead = Signal(3), Signal(3)
    last_taken, last_left = taken & group.last_of_gemm, ends & bursts.payload.last_of_gemm
    m.d.sync += lasts.eq(Mux(packer.flush, 0, lasts + last_taken - last_left))
    with m.If(taken & covered):
        m.d.sync += ahead.eq(lasts - last_left)
    with m.Elif(last_left & (ahead != 0)):
        m.d.sync += ahead.eq(ahead - 1)
    bench.ensure(
        ~last_left | (lasts != 0),
        ~packer.idle | (lasts == 0),
        ~(last_left & pending & (ahead == 0)) | leaves,
    )

    # What induction has to know besides: the byte is in one of three places, the groups behind each other in a row.
    packed_valid, aligned_valid = inside["packed_valid"], inside["aligned_valid"]
    packed, packed_address, packed_count = inside["packed"], inside["packed_address"], inside["byte_count"]
    aligned, strobes, words_behind = inside["aligned"], inside["strobes"], inside["words_behind"]
    kept_data, kept_strobe = inside["kept"][: 8 * bus_bytes], inside["kept"][8 * bus_bytes :]
    words_most = len(strobes) // bus_bytes
    behind = Signal.like(byte, name="behind")  # where what follows the aligned group begins
    upcoming = Signal.like(byte, name="upcoming")  # the address of the word that leaves next
    lowest = Signal.like(strobes, name="lowest")
    m.d.comb += [
        behind.eq(Mux(packed_valid, packed_address, next_address)),
        upcoming.eq(Mux(aligned_valid, address, behind[word_bits:])),
        lowest.eq(strobes & (~strobes + 1)),
    ]
    last_word = strobes >> words_behind * bus_bytes
    in_packed_at, aligned_at = (byte - packed_address)[: len(byte)], (word - address)[: len(word)]
    aligned_lane = Cat(lane, aligned_at)[: len(strobes).bit_length()]
    in_packed = packed_valid & (in_packed_at < packed_count)
    in_aligned = aligned_valid & (aligned_at < words_most) & strobes.bit_select(aligned_lane, 1)
    in_kept = kept_strobe.bit_select(lane, 1) & (word == upcoming[: len(word)])
    keeps = aligned_valid & inside["keep_last"]
    bench.ensure(
        pending == (in_packed | in_aligned | in_kept),
        in_packed + in_aligned + in_kept <= 1,
        ~in_packed | (packed.word_select(in_packed_at[: most.bit_length()], 8) == given.value),
        ~in_aligned | (aligned.word_select(aligned_lane, 8) == given.value),
        ~in_kept | (kept_data.word_select(lane, 8) == given.value),
        ~in_packed | (ahead == (aligned_valid & inside["last_of_gemm"])),
        ~(in_aligned | in_kept) | (ahead == 0),
    )
    bench.ensure(
        ~packed_valid | (packed_count >= 1) & (packed_count <= most),
        ~packed_valid | (inside["last_byte"] + 1 == packed_address[:word_bits] + packed_count),
        ~packed_valid | inside["packed_last_of_row"] | (next_address == (packed_address + packed_count)[: len(byte)]),
        ~packed_valid | ~inside["packed_last_of_gemm"] | inside["packed_last_of_row"],
        ~packed_valid | (goes_on == ~inside["packed_last_of_row"]),
        lasts == (packed_valid & inside["packed_last_of_gemm"]) + (aligned_valid & inside["last_of_gemm"]),
    )
    more = packed_valid | goes_on
    after_aligned = (address + words_behind + ~inside["keep_last"])[: len(word)]
    top_lane = last_word.bit_select(bus_bytes - 1, 1)
    bench.ensure(
        ~aligned_valid | ~inside["last_of_gemm"] | inside["last_of_row"],
        ~aligned_valid | ~(inside["last_of_row"] & inside["keep_last"]),
        ~aligned_valid | inside["last_of_row"] | more & (after_aligned == behind[word_bits:]),
        # Strobes have no gaps, and end in the last word.
        ~aligned_valid | (strobes != 0) & (((strobes + lowest) & strobes) == 0),
        ~aligned_valid | (last_word != 0) & (last_word >> bus_bytes == 0) & (words_behind < words_most),
        ~keeps | ~top_lane,
        ~aligned_valid | inside["keep_last"] | inside["last_of_row"] | top_lane,
        ~keeps | (last_word >> behind[:word_bits] == 0),
        # What is kept lies before what comes.
        ~kept_strobe.any() | aligned_valid | more,
        ~kept_strobe.any() | ~aligned_valid | (kept_strobe < lowest),
        aligned_valid | (kept_strobe >> behind[:word_bits] == 0),
    )
    bench.ensure(
        beats == inside["beats_less_1"],
        inside["is_full"] == (beats == BURST_BEATS - 1),
        ~aligned_valid | (inside["ends_row"] == (inside["last_of_row"] & (words_behind == 0))),
        aligned_valid | inside["finishes"],
        inside["pushes"] == (aligned_valid & ((words_behind != 0) | ~inside["keep_last"])),
        ~aligned_valid | (inside["finishes"] == ((words_behind == 0) | ((words_behind == 1) & inside["keep_last"]))),
        inside["closes"]
        == (
            inside["pushes"] & (inside["ends_row"] | inside["is_full"] | address[: (page_words - 1).bit_length()].all())
        ),
        (beats == 0) | (first == inside["first_address"]),
        (beats == 0) | (upcoming[: len(word)] == (first + beats)[: len(word)]),
        (beats == 0) | aligned_valid | more,
        (beats == 0) | (first[: (page_words - 1).bit_length()] + beats < page_words),
        (halted == 0) | (halted + words_behind < words_most),
    )
    return bench


def queue_bench(modules: Modules, name: str) -> Bench:
    """What is put into one of the writer's two queues comes out in order, as it was; after 3 clocks it is there."""
    bench = Bench()
    m = bench.m
    block = modules.whole(NARROW)
    inside = bench.look_into(block, "writer")
    axi, flush = block.axi, block.flush
    bench.free(block.groups.valid, block.groups.payload, flush)
    bench.free(axi.awready, axi.wready, axi.bvalid, axi.bresp)
    depth = modules.writer.WORD_DEPTH // (1 if name == "words" else 2)
    given, full = inside[f"packer.{name}__payload"], inside[f"{name}_full"]
    shown, second, shows, follows = (inside[f"{name}_shown.{part}"] for part in ("first", "second", "shows", "waits"))
    push, pop = inside[f"packer.{name}__valid"] & ~full & ~flush, shows & inside[f"bus.{name}__ready"]
    waiting, chosen, waits, ahead = Signal(8), Signal(), Signal(), Signal(8)
    popped = bench.delayed(pop & ~flush)
    bench.free(chosen)
    entry = Signal(len(given))
    m.d.sync += waiting.eq(Mux(flush, 0, waiting + push - pop))
    with m.If(waits & pop):
        m.d.sync += [ahead.eq(ahead - 1), waits.eq(ahead != 0)]
    with m.If(push & chosen & ~waits):
        m.d.sync += [waits.eq(1), ahead.eq(waiting - pop), entry.eq(given)]
    with m.If(flush):
        m.d.sync += waits.eq(0)
    last_clock, before = bench.delayed(push), Signal()
    m.d.sync += before.eq(last_clock & ~flush)
    first, at_second = shows & (ahead == 0), follows & (ahead == 1)
    inner, ready = inside[f"{name}.inner_level"], inside[f"{name}.r_rdy"]
    bench.ensure(
        ~(waits & first) | (shown == entry),
        ~shows | (waiting != 0),
        # What has left counts until the next clock.
        full == (waiting + popped == depth),
        waiting + popped <= depth,
        shows | (waiting <= last_clock + before),
        inside[f"{name}_waiting"] == waiting + popped,
        # What induction has to know besides.
        waiting == inner + ready + shows + follows,
        shows | ~follows,
        ~(waits & at_second) | (second == entry),
        ~waits | (ahead < waiting),
        ready | (inner <= last_clock),
        *bench.queue_facts(
            inside, name, known=waits & ~first & ~at_second, ahead=(ahead - shows - follows)[:8], entry=entry
        ),
    )
    return bench


def writer_bench(modules: Modules) -> Bench:
    """Any byte from its group to the bus: written once, to its address; a burst's beats follow each other at once."""
    bench = Bench()
    m = bench.m
    config = NARROW.replace(address_bits=12, size_bits=8)
    block = modules.short().whole(config)
    inside = bench.look_into(block, "writer")
    groups, axi, flush = block.groups, block.axi, block.flush
    group = groups.payload
    bench.free(groups.valid, group, flush, axi.awready, axi.wready, axi.bvalid, axi.bresp)
    given = Rows(bench, config, groups, flush)
    bench.suppose(
        flush | ~bench.delayed(flush & ~block.idle),
        ~axi.bvalid | (inside["bus.awaited.r_rdy"] & ~axi.wvalid & (inside["bus.beats_left"] == 0)),
    )

    # Where the beat on the bus belongs follows from the bursts, which are begun in order.
    begins = inside["bus.bursts__ready"]
    moves = inside["bus.words__ready"]
    following, address = Signal.like(given.word, name="following"), Signal.like(given.word, name="address")
    burst = inside["bursts_shown.first"]
    with m.If(begins):
        m.d.sync += following.eq(burst[: len(following)])
    with m.Elif(moves):
        m.d.sync += following.eq(following + 1)
    with m.If(moves):
        m.d.sync += address.eq(following)
    leaves = axi.wvalid & axi.wready & (address == given.word) & axi.wstrb.bit_select(given.lane, 1)
    given.end(leaves)
    bench.ensure(
        flush | ~leaves | given.pending,
        flush | ~leaves | (axi.wdata.word_select(given.lane, 8) == given.value),
        ~block.idle | ~given.pending,
        # Once a burst has begun its words are there.
        flush | (inside["bus.beats_left"] == 0) | inside["words_shown.shows"],
    )
    return bench


@LONG
@pytest.mark.parametrize("config", [WIDE, NARROW], ids=["wide", "narrow"])
def test_bytes_are_packed_and_words_gathered(config: ArrayConfig, tmp_path: Path) -> None:
    packer_bench(Modules(), config).prove(tmp_path, steps=2, inductive=True, timeout=280)


@LONG
@pytest.mark.parametrize("name", ["words", "bursts"])
def test_queues_keep_their_order(name: str, tmp_path: Path) -> None:
    queue_bench(Modules(), name).prove(tmp_path, steps=2, inductive=True)


@LONG
def test_bytes_reach_the_bus(tmp_path: Path) -> None:
    writer_bench(Modules()).prove(tmp_path, steps=11, timeout=280)


def short_bench(modules: Modules) -> Bench:
    """A queue of words that is soon full."""
    return queue_bench(modules.short(), "words")


wide_bench = partial(packer_bench, config=WIDE)

MUTANTS = {
    "bytes beyond the last are written": (wide_bench, "burst_packer", "count_mask << offset", "ones << offset"),
    "a word too many": (wide_bench, "burst_packer", "+ taken_bytes - 1", "+ taken_bytes"),
    "a row's last word is kept": (
        wide_bench,
        "burst_packer",
        "~last_byte[:offset_bits].all() & ~packed_last_of_row",
        "~last_byte[:offset_bits].all()",
    ),
    "what was kept is lost": (wide_bench, "burst_packer", "_merged(kept, aligned[:bus_width])", "aligned[:bus_width]"),
    "words of a group at one address": (wide_bench, "burst_packer", "eq(word_address + 1)", "eq(word_address)"),
    "a burst across 4 KiB": (wide_bench, "burst_packer", "next_is_full | next_ends_page)", "next_is_full)"),
    "a burst at its last word's address": (
        wide_bench,
        "burst_packer",
        "beats_less_1 == 0, word_address, first_address",
        "1, word_address, 0",
    ),
    "a GEMM's end told early": (wide_bench, "burst_packer", "last_of_gemm & ends_row", "last_of_gemm"),
    "a word lost where bursts wait": (
        wide_bench,
        "burst_packer",
        "(pushes & ~self.words.ready) | (closes & ~self.bursts.ready)",
        "pushes & ~self.words.ready",
    ),
    "a queue full a clock too late": (short_bench, "writer", "((waiting == depth - 1) & push)", "0"),
    "a queue's word shown twice": (short_bench, "writer", "eq(before.ready)", "eq(target.ready)"),
    "a burst announced before its words": (
        wide_bench,
        "burst_packer",
        "self.bursts.valid.eq(closes & self.words.ready)",
        "self.bursts.valid.eq(closes)",
    ),
    "a beat too many": (
        writer_bench,
        "burst_writer",
        "beats_left.eq(burst.beats_less_1 + 1)",
        "beats_left.eq(burst.beats_less_1 + 2)",
    ),
    "a word again in place of the next": (
        writer_bench,
        "burst_writer",
        "data_out.eq(self.words.payload.data)",
        "data_out.eq(Mux(axi.awready, self.words.payload.data, data_out))",
    ),
}
"""What is wrong: the bench that has to show it, and in which module what source text is replaced, by what."""


@pytest.mark.parametrize("name", [*list(MUTANTS)[:1], *(pytest.param(each, marks=LONG) for each in list(MUTANTS)[1:])])
def test_mutants_of_the_writers_queues_are_refuted(name: str, tmp_path: Path) -> None:
    bench, *place = MUTANTS[name]
    with pytest.raises(CounterexampleError, match=r"test_writer_proofs"):
        bench(Modules().mutant(*place)).prove(tmp_path, steps=8 if bench is wide_bench else 10)
