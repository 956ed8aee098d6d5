# amaranth: UnusedElaboratable=no
"""The steps of segments proved, each once its blocks have arrived; those of interleaved arrays multiples of P apart."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Cat, Mux, Signal, Value

from halfulp.hw import sequencer
from halfulp.hw.config import ArrayConfig
from halfulp.hw.operand_buffer import OperandBuffer

from .proofs import Bench, CounterexampleError, changed, mutant

LONG = pytest.mark.proof
"""Of `make proofs`."""

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
    bench.free(block.arrived, block.tile.ready, block.drain_free_soon, block.at_rest)

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


PLAIN = ArrayConfig(
    rows=2,
    columns=2,
    lanes=1,
    a_formats="float16",
    b_formats="float16",
    out_formats="int8",
    accumulator="exact:100",
    roundings="nearest_even",
    bus_width=32,
    buffer_depth=64,
    address_bits=12,
    size_bits=8,
)
BLOCK = 4
SHORT_BLOCKS = changed(
    sequencer,
    {"from halfulp.hw.schedule import block_steps": f"def block_steps(config: ArrayConfig) -> int: return {BLOCK}"},
)
"""So that short runs have more than one."""

MOST_STEPS = 10


def steps_bench(module: ModuleType) -> Bench:
    """A step comes in the first clock in which its blocks are there and, of a tile's last one, the drain allows it."""
    bench = Bench()
    m = bench.m
    block = module.Sequencer(config=PLAIN)
    m.submodules.sequencer = block
    segment, tile = block.segment, block.tile
    names = [name for name in segment.signature.members if name not in ("valid", "ready")]
    bench.free(segment.valid, *(getattr(segment, name) for name in names))
    bench.free(block.arrived, tile.ready, block.drain_free_soon, block.at_rest)
    bench.suppose(
        bench.stable(segment.valid, segment.ready, *(getattr(segment, name) for name in names)),
        segment.steps < MOST_STEPS,
        segment.blocks == segment.steps // BLOCK,
    )

    # The segment under way, and which of its steps is next.
    kept = {name: Signal.like(getattr(segment, name), name=f"kept_{name}") for name in names}
    active, k = Signal(), Signal(range(MOST_STEPS))
    goes, taken = block.a_step.valid, segment.valid & segment.ready
    final = k == kept["steps"]
    with m.If(goes):
        m.d.sync += [k.eq(k + 1), active.eq(~final)]
    with m.If(taken):
        m.d.sync += [*(copy.eq(getattr(segment, name)) for name, copy in kept.items()), k.eq(0), active.eq(1)]

    # Blocks of each operand; those of two clocks ago count.
    has: list[Value] = []
    elements = PLAIN.bus_bytes // PLAIN.a_bytes
    for role, pulse in zip("ab", block.arrived, strict=True):
        step = block.b_step if role == "b" else block.a_step
        arrived = Signal(8, name=f"{role}_blocks")
        m.d.sync += arrived.eq(arrived + pulse)
        in_segment = (k + Mux(kept[f"{role}_slack"], elements - 1, 0)) // BLOCK
        needs = kept[f"{role}_block"] + Mux(in_segment < kept["blocks"], in_segment, kept["blocks"]) + 1
        beyond = (bench.delayed(arrived) - needs)[:8].as_signed()
        has.append(beyond >= 0)
        first_of_both = (arrived - getattr(segment, f"{role}_block"))[:8].as_signed()
        bench.suppose(~segment.valid | ((first_of_both < 40) & (first_of_both > -40)))
        position = kept[f"{role}_word"] * elements + k
        bench.ensure(
            step.valid == goes,
            ~goes | (step.position == position[: len(step.position)]),
            ~goes | (step.first == (k == 0)),
            ~goes | (step.free == (kept[f"{role}_free"] & final)),
            ~goes | (step.parity == kept["parity"]),
            *(~goes | (getattr(step, n) == kept[f"{role}_{n}"]) for n in ("offset", "stride", "across")),
        )

    # The tile on offer, and what enters the array 4 clocks after its step.
    offered, begins = Signal(), Signal()
    ends = final & kept["ends"]
    coming: list[Value] = [Cat(goes, goes & kept["starts"] & begins, goes & ends)]
    for _ in range(OperandBuffer.latency):
        coming.append(bench.delayed(coming[-1]))
    with m.If(goes):
        m.d.sync += begins.eq(0)
    with m.If(taken):
        m.d.sync += begins.eq(1)
    waits = Mux(taken & segment.starts, 1, offered & ~tile.ready)
    m.d.sync += offered.eq(waits)
    may_end = bench.delayed(block.drain_free_soon & ~Cat(each[2] for each in coming).any() & ~waits)
    bench.suppose(~taken | ~segment.starts | ~offered | tile.ready)
    ready = has[0] & has[1]
    bench.ensure(
        goes == (active & ready & (~ends | may_end)),
        segment.ready == (~active | (goes & final)),
        block.read_stall == (active & ~ready),
        block.write_stall == (active & ready & ends & ~may_end),
        block.valid == coming[-1][0],
        ~block.valid | (block.first == coming[-1][1]),
        block.last == coming[-1][2],
        tile.valid == offered,
        block.tile_pending == offered,
    )
    return bench


@pytest.mark.parametrize("steps", [9, pytest.param(12, marks=LONG)])
def test_steps_come_when_their_blocks_have_arrived(steps: int, tmp_path: Path) -> None:
    steps_bench(SHORT_BLOCKS).prove(tmp_path, steps=steps, timeout=280)


@LONG
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("has.eq(beyond > 0)", "has.eq(beyond >= 0)"),
        ("beyond.eq(beyond - ~comes)", "beyond.eq(beyond + comes)"),
        ("(in_block == block_steps(config) - 2) & (blocks_left != 0)", "in_block == block_steps(config) - 2"),
        ("(last_coming == 0) & ~(go & ends)", "(last_coming[:-1] == 0) & ~(go & ends)"),
        ("(last_coming == 0) & ~(go & ends)", "(last_coming == 0)"),
    ],
)
def test_mutants_of_the_steps_are_refuted(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(CounterexampleError, match=r"run of 12 clocks: test_sequencer_proofs"):
        steps_bench(mutant(SHORT_BLOCKS, old, new)).prove(tmp_path, steps=12)
