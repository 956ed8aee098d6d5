# amaranth: UnusedElaboratable=no
"""The core's sides of AXI proved: rules of the channels, and that nothing is lost, doubled or moved."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from amaranth.hdl import Cat, Mux, Signal

from halfulp.hw import axi_lite, burst_reader, burst_writer
from halfulp.hw.config import ArrayConfig

from .proofs import Bench, CounterexampleError, mutant

LONG = pytest.mark.proof
"""Of `make proofs`."""


def axi_lite_bench(module: ModuleType) -> Bench:
    """Each write reaches the registers once, with its address, data and strobes, and is answered once; so each read."""
    bench = Bench()
    m = bench.m
    m.submodules.target = target = module.AxiLiteTarget(address_width=5)
    bus = target.bus
    bench.free(bus.awvalid, bus.awaddr, bus.wvalid, bus.wdata, bus.wstrb, bus.bready)
    bench.free(bus.arvalid, bus.araddr, bus.rready, target.read_data)
    bench.suppose(
        bench.stable(bus.awvalid, bus.awready, bus.awaddr),
        bench.stable(bus.wvalid, bus.wready, bus.wdata, bus.wstrb),
        bench.stable(bus.arvalid, bus.arready, bus.araddr),
    )

    def counted(more: Signal, less: Signal, name: str) -> Signal:
        count = Signal(2, name=name)
        m.d.sync += count.eq(count + more - less)
        bench.ensure(count <= 1, ~less | (count == 1))
        return count

    def last(event: Signal, value: Signal, name: str) -> Signal:
        kept = Signal(len(value), name=name)
        with m.If(event):
            m.d.sync += kept.eq(value)
        return kept

    taken = {name: Signal(name=f"{name}_taken") for name in ("aw", "w", "b", "ar", "r")}
    m.d.comb += [event.eq(getattr(bus, f"{name}valid") & getattr(bus, f"{name}ready")) for name, event in taken.items()]
    addresses = counted(taken["aw"], target.write_enable, "addresses")
    words = counted(taken["w"], target.write_enable, "words")
    writes = counted(target.write_enable, taken["b"], "writes")
    bench.ensure(
        (addresses == 0) | (target.write_address == last(taken["aw"], bus.awaddr[2:], "address")),
        (words == 0) | (target.write_data == last(taken["w"], bus.wdata, "data")),
        (words == 0) | (target.write_strobe == last(taken["w"], bus.wstrb, "strobe")),
        bus.bvalid == (writes == 1),
        bus.bresp == 0,
        # Neither waits for the other, and both together wait for nothing but the answer before.
        bus.awready == (addresses == 0),
        bus.wready == (words == 0),
        target.write_enable == ((addresses == 1) & (words == 1) & (writes == 0)),
        # Registers take what was written a clock later.
        *(
            ~bench.delayed(target.write_enable) | (value == bench.delayed(value))
            for value in (target.write_address, target.write_data, target.write_strobe)
        ),
    )
    asked = counted(taken["ar"], target.read_enable, "asked")
    reads = counted(target.read_enable, taken["r"], "reads")
    bench.ensure(
        (asked == 0) | (target.read_address == last(taken["ar"], bus.araddr[2:], "read_address")),
        ~bus.rvalid | (bus.rdata == last(target.read_enable, target.read_data, "read_data")),
        bus.rvalid == (reads == 1),
        bus.rresp == 0,
        bus.arready == (asked == 0),
        target.read_begins == bench.delayed(taken["ar"]),
        target.read_continues == bench.delayed(target.read_begins),
        target.read_enable == ((asked == 1) & ~target.read_begins & ~target.read_continues & (reads == 0)),
        bench.stable(bus.bvalid, bus.bready, bus.bresp),
        bench.stable(bus.rvalid, bus.rready, bus.rdata, bus.rresp),
    )
    return bench


def test_every_register_access_is_done_and_answered_once(tmp_path: Path) -> None:
    axi_lite_bench(axi_lite).prove(tmp_path, steps=3, inductive=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("have_address & have_data & ~bus.bvalid", "have_address & have_data"),
        ("is_ready & ~bus.rvalid", "is_ready"),
        ("bus.wready.eq(~have_data)", "bus.wready.eq(~have_data | bus.bvalid)"),
    ],
)
def test_mutants_of_the_register_bus_are_refuted(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(CounterexampleError, match=r"run of 9 clocks: test_bus_proofs"):
        axi_lite_bench(mutant(axi_lite, old, new)).prove(tmp_path, steps=9)


CONFIG = ArrayConfig(
    rows=2,
    columns=2,
    lanes=1,
    a_formats="int8",
    b_formats="int8",
    out_formats="int8",
    accumulator="exact:16",
    roundings="nearest_even",
    buffer_depth=64,
    reads_outstanding=2,
)
WORD = CONFIG.bus_bytes
PAGE_WORDS = 4096 // WORD


class Line:
    """What is still to be asked for of a line of words."""

    def __init__(self, name: str, line: Any) -> None:
        self.word = Signal(len(line.address) - 3, name=f"{name}_word")
        self.left = Signal.like(line.beats, name=f"{name}_left")


def reader_bench(module: ModuleType) -> Bench:
    """Bursts cover exactly the words of the lines, in order; rules of the address channel; no more than allowed.

    Each burst is put on the bus in the clock after it was cut, in which the next line may already have been taken.
    """
    bench = Bench()
    m = bench.m
    reader = module.BurstReader(config=CONFIG)
    inside = bench.look_into(reader, "reader")
    line, axi = reader.line, reader.axi
    bench.free(line.valid, line.address, line.beats, line.operand, line.across, line.word, line.bank, line.lane)
    bench.free(line.ahead, line.offset, line.last, axi.arready, axi.rvalid, axi.rlast, axi.rdata, axi.rresp)
    page_left = PAGE_WORDS - line.address[3:12]
    bench.suppose(line.beats != 0, line.ahead == Mux(page_left < 16, page_left, 16))
    bench.suppose(bench.stable(line.valid, line.ready, line.address, line.beats, line.ahead))

    # A line asks for its words; a burst that comes to the bus takes the next ones of the line it was cut from.
    accepted = line.valid & line.ready
    replaced, former, present = bench.delayed(accepted), Line("former", line), Line("present", line)
    waited = bench.delayed(axi.arvalid & ~axi.arready)
    comes = axi.arvalid & ~waited
    beats = Signal(9)
    after = Signal.like(line.beats)
    m.d.comb += [beats.eq(axi.arlen + 1), after.eq(Mux(comes & ~replaced, present.left - beats, present.left))]
    m.d.sync += [present.left.eq(after), former.left.eq(after), former.word.eq(present.word)]
    with m.If(comes & ~replaced):
        m.d.sync += [present.word.eq(present.word + beats), former.word.eq(present.word + beats)]
    with m.If(accepted):
        m.d.sync += [present.word.eq(line.address[3:]), present.left.eq(line.beats)]
    word, left = Mux(replaced, former.word, present.word), Mux(replaced, former.left, present.left)
    bench.ensure(
        ~comes | (axi.araddr == word << 3),
        ~comes | (beats <= left),
        beats <= 16,
        ~axi.arvalid | (axi.araddr[3:12] + beats <= PAGE_WORDS),
        # As long as they may be.
        ~comes | (beats == left) | (beats == 16) | ((axi.araddr[3:12] + beats)[:9] == 0),
        # A line makes room for the next only when all of it has been asked for.
        ~replaced | (former.left == Mux(comes, beats, 0)),
        bench.stable(axi.arvalid, axi.arready, axi.araddr, axi.arlen),
        axi.arburst == 1,
        axi.arsize == 3,
    )

    # Bursts whose last beat is still to come, and of these the ones that the memory knows of.
    in_flight, known = Signal(4), Signal(4)
    ends = axi.rvalid & axi.rlast
    m.d.sync += [in_flight.eq(in_flight + comes - ends), known.eq(known + (axi.arvalid & axi.arready) - ends)]
    bench.suppose(~axi.rvalid | (known != 0))
    bench.ensure(in_flight + comes <= CONFIG.reads_outstanding)
    bench.ensure(reader.idle == ~(axi.arvalid | (in_flight != 0)))

    # What is asked for comes to the bus where it may: the third clock without a reason to wait does not go by.
    idle_clocks = Signal(2)
    free = (after != 0) & ~axi.arvalid & (in_flight + comes < CONFIG.reads_outstanding)
    m.d.sync += idle_clocks.eq(Mux(free, idle_clocks + 1, 0))
    bench.ensure(idle_clocks != 3)

    # What induction has to know besides.
    low, high, carry = (inside[f"words_{part}"] for part in ("low", "high", "carry"))
    words, burst = Cat(low, (high + carry)[: len(high)]), inside["burst"]
    room = Mux(words[:9] > PAGE_WORDS - 16, PAGE_WORDS - words[:9], 16)
    next_word = Mux(comes & ~replaced, present.word + beats, present.word)[: len(words)]
    bench.ensure(
        inside["held"] == (after != 0),
        ~inside["held"] | ((words == next_word) & (inside["left"] == after)),
        ~(inside["held"] & ~inside["usable"]) | (inside["ahead"] == room),
        ~inside["usable"] | inside["held"] & (burst == Mux(after < room, after, room)),
        ~inside["usable"] | (inside["ends"] == (burst == after)),
        inside["in_flight"] == in_flight + comes,
        inside["full"] == (inside["in_flight"] == CONFIG.reads_outstanding),
        known + axi.arvalid == inside["in_flight"],
        ~waited | axi.arvalid,
        (idle_clocks != 1) | axi.arvalid | inside["usable"],
        (idle_clocks != 2) | axi.arvalid,
    )
    return bench


def test_bursts_ask_for_the_words_of_the_lines(tmp_path: Path) -> None:
    reader_bench(burst_reader).prove(tmp_path, steps=3, inductive=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("words.value[: _PAGE_BITS - word_bits], 2)", "words.value[: _PAGE_BITS - word_bits], 1)"),
        pytest.param("last = left <= ahead", "last = left < ahead", marks=LONG),
        pytest.param("length.eq(burst - 1)", "length.eq(burst)", marks=LONG),
        pytest.param("(in_flight == depth - 1) & begin & ~end", "(in_flight == depth - 1) & begin & end", marks=LONG),
        pytest.param("& can_begin & (~axi.arvalid | axi.arready)", "& can_begin", marks=LONG),
        pytest.param("(begin & ends)", "begin", marks=LONG),
    ],
)
def test_mutants_of_the_reader_are_refuted(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(CounterexampleError, match=r"run of 8 clocks: test_bus_proofs"):
        reader_bench(mutant(burst_reader, old, new)).prove(tmp_path, steps=8)


def burst_writer_bench(module: ModuleType) -> Bench:
    """Every burst goes out once, with as many words as it says, WLAST on the last; each is reported once."""
    bench = Bench()
    m = bench.m
    block = module.BurstWriter(config=CONFIG)
    inside = bench.look_into(block, "writer")
    words, bursts, axi = block.words, block.bursts, block.axi
    bench.free(words.valid, words.payload, bursts.valid, bursts.payload, block.flush)
    bench.free(axi.awready, axi.wready, axi.bvalid, axi.bresp)

    # Words of bursts that wait are all here: as many as were taken from `bursts` and not yet from `words`.
    owed = Signal(5)
    begins = bursts.valid & bursts.ready
    beats = bursts.payload.beats_less_1 + 1
    m.d.sync += owed.eq(owed + Mux(begins, beats, 0) - words.ready)
    bench.suppose((owed == 0) | words.valid | block.flush)
    bench.ensure(~words.ready | (owed != 0), ~begins | (owed - words.ready == 0))

    # The address channel: what was taken in the clock before comes to the bus, and stays.
    begun = bench.delayed(begins)
    comes = axi.awvalid & ~bench.delayed(axi.awvalid & ~axi.awready)
    bench.ensure(
        comes == begun,
        ~begun | (axi.awaddr == bench.delayed(bursts.payload.word_address) << 3),
        ~begun | (axi.awlen == bench.delayed(bursts.payload.beats_less_1)),
        axi.awburst == 1,
        axi.awsize == 3,
        bench.stable(axi.awvalid, axi.awready, axi.awaddr, axi.awlen),
        bench.stable(axi.wvalid, axi.wready, axi.wdata, axi.wstrb, axi.wlast),
    )
    # The data channel: each word taken comes to the bus in the next clock.
    moved = bench.delayed(words.ready)
    kept = words.valid & ~block.flush
    bench.ensure(
        (axi.wvalid & ~bench.delayed(axi.wvalid & ~axi.wready)) == moved,
        ~moved | (axi.wdata == bench.delayed(words.payload.data)),
        ~moved | (axi.wstrb == bench.delayed(Mux(kept, words.payload.strobe, 0))),
        ~moved | (axi.wlast == bench.delayed(owed == 1)),
        # Nothing but the memory halts them, and no address is waited for.
        words.ready == ((owed != 0) & (~axi.wvalid | axi.wready)),
    )

    # Bursts whose response is awaited: one for each, after its data at the earliest.
    awaited, unfinished = Signal(6), Signal(6)
    finishes, answered = axi.wvalid & axi.wready & axi.wlast, axi.bvalid & axi.bready
    m.d.sync += [awaited.eq(awaited + begins - answered), unfinished.eq(unfinished + begins - finishes)]
    bench.suppose(~axi.bvalid | (awaited > unfinished))
    bench.ensure(
        awaited <= module.WRITES_OUTSTANDING,
        ~answered | (awaited != 0),
        axi.bready | (awaited == 0) | begun,
        block.error == (answered & ~block.flush & axi.bresp[1]),
        ~block.done | (answered & ~block.flush & ~axi.bresp[1]),
        ~begins | ~block.flush,
        block.idle == ~(axi.awvalid | axi.wvalid | (owed != 0) | (awaited != 0)),
    )

    # Any one burst, and how many are answered before it.
    chosen, waits, ahead = Signal(), Signal(), Signal(6)
    bench.free(chosen)
    burst = Signal.like(bursts.payload)
    with m.If(begins & chosen & ~waits):
        m.d.sync += [waits.eq(1), burst.eq(bursts.payload), ahead.eq(awaited - answered)]
    with m.If(waits & answered):
        m.d.sync += [ahead.eq(ahead - 1), waits.eq(ahead != 0)]
    mine = waits & answered & (ahead == 0)
    bench.ensure(
        ~mine | (block.error_address == burst.word_address << 3),
        ~mine | (block.done == (burst.last_of_gemm & ~axi.bresp[1] & ~block.flush)),
    )

    # What induction has to know besides.
    level = inside["awaited.inner_level"] + inside["awaited.r_rdy"]
    last_beat = axi.wvalid & axi.wlast
    entry = Cat(burst.word_address, burst.last_of_gemm)
    bench.ensure(
        *bench.queue_facts(inside, "awaited", known=waits, ahead=ahead, entry=entry),
        inside["beats_left"] == owed,
        inside["more"] == (owed != 0),
        level == awaited,
        inside["awaited.inner_level"] < module.WRITES_OUTSTANDING,
        unfinished == (owed != 0) + last_beat,
        unfinished <= awaited,
        owed <= 16,
        ~begun | (owed != 0),
    )
    return bench


def test_bursts_are_written_and_answered_once(tmp_path: Path) -> None:
    burst_writer_bench(burst_writer).prove(tmp_path, steps=2, inductive=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("last_out.eq(beats_left == 1)", "last_out.eq(beats_left <= 1 + axi.awvalid)"),
        pytest.param("beat_free.eq(~axi.wvalid | axi.wready)", "beat_free.eq(~axi.wvalid | axi.awready)", marks=LONG),
        pytest.param("((beats_left == 1) & beat_free))", "(beats_left == 1))", marks=LONG),
        pytest.param("& ~self.flush\n                & (~axi.awvalid", "& (~axi.awvalid", marks=LONG),
        pytest.param("answered & entry.last_of_gemm & ~failed", "answered & burst.last_of_gemm & ~failed", marks=LONG),
        pytest.param("more.eq(beats_left != 1)", "more.eq((beats_left != 1) & ~axi.awvalid)", marks=LONG),
    ],
)
def test_mutants_of_the_writer_are_refuted(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(CounterexampleError, match=r"run of 8 clocks: test_bus_proofs"):
        burst_writer_bench(mutant(burst_writer, old, new)).prove(tmp_path, steps=8)
