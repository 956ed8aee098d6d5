# amaranth: UnusedElaboratable=no
"""The operand buffers proved: the element that the bus brought is the one that the array gets, and when."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Array, Cat, Mux, Signal, Value

from halfulp.hw import operand_buffer
from halfulp.hw.config import ArrayConfig

from .proofs import Bench, CounterexampleError, mutant

LONG = pytest.mark.proof
"""Of `make proofs`."""


def configuration(rows: int, a_formats: str) -> ArrayConfig:
    return ArrayConfig(
        rows=rows,
        columns=2,
        lanes=1,
        a_formats=a_formats,
        b_formats="int8",
        out_formats="int8",
        accumulator="exact:64",
        roundings="nearest_even",
        bus_width=32,
        buffer_depth=64,
    )


PAIRS = configuration(3, "float16")
"""Two elements a bus word, and rows on more than one of them."""

FOURS = configuration(3, "int8")
"""Four elements a bus word."""


def buffer_bench(module: ModuleType, config: ArrayConfig) -> Bench:
    """Any element of any word of any bank: read as it was written last, and not reported free before it was read.

    Nothing comes for a word between a step that reads it and the clock in which that step could free it.
    """
    bench = Bench()
    m = bench.m
    block = module.OperandBuffer(config=config, operand=0)
    inside = bench.look_into(block, "buffer")
    beat, step, lanes = block.beat, block.step, config.rows
    elements, bits = config.bus_bytes // config.a_bytes, 8 * config.a_bytes
    lane_bits = (elements - 1).bit_length()
    bench.free(*(getattr(beat, name) for name in beat.signature.members))
    bench.free(*(getattr(step, name) for name in step.signature.members))
    bank, word = bench.choose((lanes - 1).bit_length(), "bank"), bench.choose(len(beat.word), "word")
    element = bench.choose(lane_bits, "element")
    bench.suppose(
        bank < lanes,
        (beat.offset < elements) & (beat.lane < elements),
        beat.rotation[:lane_bits] == Mux(beat.across, beat.lane - beat.offset, 0)[:lane_bits],
    )

    # What the element holds: a row's words come as they are, a step's elements from the line's place on.
    position = beat.offset + bank
    here = Mux(
        beat.across,
        (position // elements == beat.beat) & ((beat.lane + bank) % elements == element),
        beat.bank == bank,
    )
    comes = beat.valid & ~beat.operand & (beat.word == word) & here
    held = Signal(bits)
    with m.If(comes):
        m.d.sync += held.eq(beat.data.word_select(Mux(beat.across, position % elements, element)[:lane_bits], bits))

    # Where the step reads: its position, and from the segment's first step on where rows begin.
    kept, now = [Signal(2 * lane_bits + 1, name=name) for name in ("segment", "segment_now")]
    begun = Signal()
    m.d.comb += now.eq(Mux(step.first, Cat(step.offset, step.stride, step.across), kept))
    with m.If(step.valid):
        m.d.sync += [kept.eq(now), begun.eq(1)]
    offset, stride, across = now[:lane_bits], now[lane_bits : 2 * lane_bits], now[-1]
    turn = (offset + bank * stride) % elements
    place = step.position[:lane_bits] + turn
    read_word = (step.position[lane_bits:] + Mux(across, 0, place // elements))[: len(word)]
    reads = step.valid & (read_word == word) & (place % elements == element)
    bench.suppose(~step.valid | step.first | begun)

    # Steps of the clocks before.
    def past(value: Value, clocks: int) -> list[Value]:
        values = [value]
        for _ in range(clocks):
            values.append(bench.delayed(values[-1]))
        return values

    reading, expected = (past(each, block.latency + lanes - 1) for each in (reads, held))
    bench.suppose(*(~(comes & each) for each in reading[:lanes]))
    leaves = Array(reading[block.latency :])[bank]
    bench.ensure(~leaves | (block.codes[bank] == Array(expected[block.latency :])[bank]))
    freed, parity = (past(each, lanes)[-1] for each in (step.valid & step.free, step.parity))
    bench.ensure(block.freed == freed, ~block.freed | (block.freed_parity == parity))

    # What induction has to know besides: where each bank is in its segment, and what it holds.
    position, segments = past(step.position, lanes), past(kept, lanes - 1)
    for i, segment in enumerate(segments):
        turned = segment[:lane_bits] + i * segment[lane_bits : 2 * lane_bits]
        bench.ensure(
            inside[f"position{i}"] == position[i + 1],
            inside[f"offset{i}"] == turned[:lane_bits],
            inside[f"next_offset{i}"] == (turned + segment[lane_bits : 2 * lane_bits])[:lane_bits],
            inside[f"stride{i}"] == segment[lane_bits : 2 * lane_bits],
            inside[f"across{i}"] == segment[-1],
        )
    writes = inside["hit"].bit_select(bank, 1) & (inside["address"] == word)
    writes &= inside["chosen"].bit_select((element - bank)[:lane_bits], 1)
    stored = Array(bench.stored(f"bank{i}", word).word_select(element, bits) for i in range(lanes))[bank]
    bench.ensure(
        writes == bench.delayed(comes),
        ~writes | (inside["word"].word_select(element, bits) == held),
        stored == bench.delayed(held),
    )
    return bench


def test_elements_are_read_as_they_came(tmp_path: Path) -> None:
    buffer_bench(operand_buffer, PAIRS).prove(tmp_path, steps=6, inductive=True)


@LONG
def test_elements_of_wide_words_are_read_as_they_came(tmp_path: Path) -> None:
    buffer_bench(operand_buffer, FOURS).prove(tmp_path, steps=6, inductive=True)


MUTANTS = {
    "every bank takes the element of the first": ("chosen.rotate_left(i % elements)", "chosen"),
    "across K an element lies in the next word": ("(place[-1] & ~Mux(first, across, wraps))", "place[-1]"),
    "a row goes to the bank below": ("1 << beat.bank)", "2 << beat.bank)"),
    "the other operand's words are taken": ("beat.operand == self._operand", "1"),
    "rows begin where the first one does": ("next_turn.eq(offset + stride)", "next_turn.eq(offset)"),
    "a slot is free before its last bank is read": ("self.freed.eq(freeing[-1])", "self.freed.eq(freeing[-2])"),
    "segments take over in the middle": ("step.first, step.valid & step.first", "step.first, step.first"),
}
"""What is wrong: the source text that is replaced, by what."""


@pytest.mark.parametrize("name", [*list(MUTANTS)[:1], *(pytest.param(each, marks=LONG) for each in list(MUTANTS)[1:])])
def test_mutants_of_the_buffer_are_refuted(name: str, tmp_path: Path) -> None:
    with pytest.raises(CounterexampleError, match=r"run of 8 clocks: test_buffer_proofs"):
        buffer_bench(mutant(operand_buffer, *MUTANTS[name]), PAIRS).prove(tmp_path, steps=8)
