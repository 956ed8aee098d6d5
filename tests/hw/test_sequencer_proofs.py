# amaranth: UnusedElaboratable=no
"""The clocks of an interleaved array's steps proved: multiples of P apart, and stalls told from one to the next."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Mux, Signal

from halfulp.hw import sequencer
from halfulp.hw.config import ArrayConfig

from .proofs import Bench, CounterexampleError, mutant

INTERLEAVE = 3


def sequencer_bench(module: ModuleType) -> Bench:
    """Steps of a core that is not at rest; `read_stall` and `write_stall`."""
    config = ArrayConfig(
        rows=3,
        columns=2,
        lanes=1,
        a_formats="int4",
        b_formats="int4",
        out_formats="int8",
        accumulator="e4m3",
        roundings="nearest_even",
        interleave=INTERLEAVE,
        size_bits=16,
    )
    bench = Bench()
    m = bench.m
    block = module.Sequencer(config=config)
    inside = bench.look_into(block, "sequencer")
    segment = block.segment
    bench.free(*(getattr(segment, name) for name in segment.signature.members if name != "ready"))
    bench.free(block.arrived, block.tile.ready, block.drain_free, block.at_rest)

    # Clocks since the last step, modulo P, unless the core has been at rest since.
    goes, since, rested = block.a_step.valid, Signal(range(INTERLEAVE)), Signal(init=1)
    m.d.sync += since.eq(Mux(goes, 1, Mux(since == INTERLEAVE - 1, 0, since + 1)))
    with m.If(block.at_rest):
        m.d.sync += rested.eq(1)
    with m.Elif(goes):
        m.d.sync += rested.eq(0)
    stalls = (block.read_stall, block.write_stall)
    bench.ensure(
        block.b_step.valid == goes,
        ~goes | rested | (since == 0),
        *(rested | (since == 0) | (stall == bench.delayed(stall)) for stall in stalls),
        # What induction has to know besides.
        inside["no_step_since_rest"] == rested,
        rested | (inside["clock_of_step"] == since),
        inside["clock_of_step"] < INTERLEAVE,
    )
    return bench


def test_steps_are_multiples_of_the_interval_apart(tmp_path: Path) -> None:
    sequencer_bench(sequencer).prove(tmp_path, steps=3, inductive=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return clock == 0", "return clock <= 1"),
        ("return Mux(turn, state, held)", "return state"),
    ],
)
def test_mutants_of_the_sequencer_are_refuted(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(CounterexampleError, match=r"run of 8 clocks: test_sequencer_proofs"):
        sequencer_bench(mutant(sequencer, old, new)).prove(tmp_path, steps=8)
