# amaranth: UnusedElaboratable=no
"""What the memory returns proved: each beat reaches the place of its word in the operand buffer, once, in order."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Array, Mux, Signal

from halfulp.hw import burst_reader
from halfulp.hw.config import ArrayConfig

from .proofs import Bench, CounterexampleError, changed, mutant

LONG = pytest.mark.proof
"""Of `make proofs`."""

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
    address_bits=16,
    size_bits=8,
)

SHORT_BURSTS = changed(burst_reader, {"_PAGE_BITS = 12": "_PAGE_BITS = 5\nBURST_BEATS = 2"})
"""Bursts of at most 2 beats in pages of 4, so that short runs have all that long ones have."""


def beats_bench(module: ModuleType) -> Bench:
    """Any word of any line comes back where it belongs; nothing else does; errors come with their burst's address."""
    bench = Bench()
    m = bench.m
    reader = module.BurstReader(config=CONFIG)
    m.submodules.reader = reader
    line, axi, beat = reader.line, reader.axi, reader.beat
    where = (line.operand, line.across, line.word, line.bank, line.lane, line.offset)
    bench.free(line.valid, line.address, line.beats, line.ahead, *where, line.last)
    bench.free(axi.arready, axi.rvalid, axi.rlast, axi.rdata, axi.rresp, reader.flush)
    bench.suppose(
        line.beats != 0,
        line.ahead == module.words_ahead(line.address, CONFIG.bus_bytes),
        line.valid | ~bench.delayed(line.valid & ~line.ready),
        bench.stable(line.valid & ~reader.flush, line.ready, line.address, line.beats, *where, line.last),
        # A flush lasts until nothing is under way.
        reader.flush | ~bench.delayed(reader.flush & ~reader.idle),
    )

    # The memory answers bursts in order, each with all of its beats.
    known, done = Signal(2), Signal(8)
    lengths = Array(Signal(8, name=f"length_{n}") for n in range(2))
    starts = Array(Signal(16, name=f"start_{n}") for n in range(2))
    comes, ends = axi.arvalid & axi.arready, axi.rvalid & axi.rlast
    bench.suppose(~axi.rvalid | (known != 0), axi.rlast == (done == lengths[0]))
    m.d.sync += known.eq(known + comes - ends)
    with m.If(axi.rvalid):
        m.d.sync += done.eq(Mux(axi.rlast, 0, done + 1))
    with m.If(ends):
        m.d.sync += [lengths[0].eq(lengths[1]), starts[0].eq(starts[1])]
    with m.If(comes):
        m.d.sync += [lengths[(known - ends)[:1]].eq(axi.arlen), starts[(known - ends)[:1]].eq(axi.araddr)]

    # Any word of any line, and how many are to come back before it.
    chosen, number = Signal(), Signal.like(line.beats)
    bench.free(chosen, number)
    accepted = line.valid & line.ready & ~reader.flush
    owed, waits, ahead = Signal(8), Signal(), Signal(8)
    place, word = Signal.like(number), Signal(13)
    kept = [Signal.like(each, name=f"kept_{n}") for n, each in enumerate((*where, line.last, line.beats))]
    operand, across, address, bank, lane, offset, last, beats = kept
    mine = waits & axi.rvalid & (ahead == 0)
    m.d.sync += owed.eq(Mux(reader.flush, 0, owed + Mux(accepted, line.beats, 0) - axi.rvalid))
    with m.If(waits & axi.rvalid):
        m.d.sync += [ahead.eq(ahead - 1), waits.eq(ahead != 0)]
    with m.If(accepted & chosen & (number < line.beats) & ~waits):
        m.d.sync += [
            waits.eq(1),
            ahead.eq(owed - axi.rvalid + number),
            place.eq(number),
            word.eq(line.address[3:] + number),
            *(copy.eq(each) for copy, each in zip(kept, (*where, line.last, line.beats), strict=True)),
        ]
    with m.If(reader.flush):
        m.d.sync += waits.eq(0)
    is_end = last & (place == beats - 1) & ~reader.flush
    before = bench.delayed(mine & ~reader.flush)
    at_address = address + Mux(across, 0, place)
    bench.ensure(
        axi.rready,
        ~axi.rvalid | reader.flush | (owed != 0),
        # The bus has the word that was asked for, and behind its block's last one this is told.
        ~mine | ((starts[0] >> 3) + done == word),
        ~bench.delayed(mine) | (reader.arrived == bench.delayed(Mux(is_end, Mux(operand, 2, 1), 0))),
        bench.delayed(axi.rvalid) | (reader.arrived == 0),
        beat.valid == bench.delayed(axi.rvalid & ~reader.flush),
        ~beat.valid | (beat.data == bench.delayed(axi.rdata)),
        ~before | (beat.operand == bench.delayed(operand)),
        ~before | (beat.across == bench.delayed(across)),
        ~before | (beat.word == bench.delayed(at_address)[: len(beat.word)]),
        ~before | (beat.bank == bench.delayed(bank)),
        ~before | (beat.lane == bench.delayed(lane)),
        ~before | (beat.offset == bench.delayed(offset)),
        ~before | (beat.beat == bench.delayed(place)),
        ~before | (beat.rotation == bench.delayed(Mux(across, lane - offset, 0))[: len(beat.rotation)]),
        reader.error == bench.delayed(axi.rvalid & axi.rresp[1]),
        ~reader.error | (reader.error_address == bench.delayed(starts[0])),
    )
    return bench


@LONG
def test_beats_reach_the_places_of_their_words(tmp_path: Path) -> None:
    beats_bench(SHORT_BURSTS).prove(tmp_path, steps=10, timeout=280)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('Mux(of["across"], 0, number)', "number"),
        pytest.param("number.eq(Mux(axi.rlast, 0, number + 1))", "number.eq(number + 1)", marks=LONG),
        pytest.param('context["last"] = kept["last"] & ends', 'context["last"] = kept["last"]', marks=LONG),
        pytest.param('kept["word"].eq(kept["word"] + burst)', 'kept["word"].eq(kept["word"] + 1)', marks=LONG),
        pytest.param("done_beats.eq(done_beats + burst)", "done_beats.eq(done_beats + 1)", marks=LONG),
        pytest.param("read_index.eq(read_index + axi.rlast)", "read_index.eq(read_index + 1)", marks=LONG),
        pytest.param("axi.rvalid & ~self.flush)", "axi.rvalid)", marks=LONG),
        pytest.param(
            "self.error.eq(axi.rvalid & axi.rresp[1])", "self.error.eq(axi.rvalid & axi.rresp.all())", marks=LONG
        ),
    ],
)
def test_mutants_of_the_beats_are_refuted(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(CounterexampleError, match=r"run of 9 clocks: test_reader_proofs"):
        beats_bench(mutant(SHORT_BURSTS, old, new)).prove(tmp_path, steps=9)
