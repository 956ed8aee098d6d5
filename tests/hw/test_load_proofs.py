# amaranth: UnusedElaboratable=no
"""The loader's choices proved: panels in the order of `schedule.GemmPlan`, once, each where the buffers have room."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from amaranth.hdl import Cat, Mux, Signal

from halfulp.hw import loader
from halfulp.hw.config import ArrayConfig
from halfulp.hw.schedule import block_steps, chunk_steps

from .plan_facts import MOST_IN_GROUP, MOST_PANELS, joined, reference, small_gemms
from .proofs import Bench, CounterexampleError, mutant

LONG = pytest.mark.proof
"""Of `make proofs`."""

CONFIG = ArrayConfig(
    rows=1,
    columns=2,
    lanes=1,
    a_formats="int8",
    b_formats="float16",
    out_formats="int8",
    accumulator="exact:64",
    roundings="nearest_even",
    bus_width=32,
    buffer_depth=64,
    address_bits=16,
    size_bits=8,
)
STEPS = block_steps(CONFIG)
assert chunk_steps(CONFIG) == STEPS == 32

WAIT = 10
"""Clocks until the next line is there, where nothing stands in its way."""


def blocks(most: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """What `GemmPlan` loads: operand, panel, number of its block; that a slot begins; that nothing comes after it.

    By operand that stays, group, panels of it and of the other one, blocks a panel and number of the block; where
    there are at most `most` of these.
    """
    counts = range(1, MOST_PANELS + 1)
    for resident, group, x, y, length in product((0, 1), range(1, MOST_IN_GROUP + 1), counts, counts, (1, 2)):
        plan = reference(CONFIG, resident=resident, group=group, panels=(x, y), k=length * STEPS)
        found = list(plan.blocks())
        if len(found) <= most:
            for number, block in enumerate(found):
                panel = block.start // (CONFIG.rows, CONFIG.columns)[block.operand]
                entry = block.operand, panel, block.k // STEPS, bool(block.slot_words), number == len(found) - 1
                yield (resident, group, x, y, length, number), tuple(map(int, entry))


def loader_bench(module: ModuleType, most: int, *, stalls: bool = False) -> Bench:
    """GEMMs of up to `most` blocks, one after the other, operands along K: their lines, and words of their slots.

    With `stalls` slots are freed, lines taken and GEMMs started in any clock; without, there is room for all, which is
    far quicker to prove.
    """
    bench = Bench()
    m = bench.m
    block = module.Loader(config=CONFIG)
    m.submodules.loader = block
    line, plan, offered = block.line, block.plan, block.descriptor
    bench.free(block.start, line.ready, block.freed, block.freed_parity)
    group, counts = small_gemms(bench, CONFIG, offered, plan)
    known = dict(blocks(most))
    length = Mux(offered.k > STEPS, 2, 1)
    key = Cat(plan.resident, group, Mux(plan.resident, Cat(*counts[::-1]), Cat(*counts)), length[:2])
    widths = (1, len(group), 3, 3, 2, 5)
    fits_table = Signal()
    with m.Switch(key):
        for each in {key[:-1] for key in known}:
            with m.Case(joined(each, widths[:-1])):
                m.d.comb += fits_table.eq(1)
    # A line counts from its first clock on: the next GEMM may be taken while the last one is offered.
    taken, goes = block.start & block.ready, line.valid & ~bench.delayed(line.valid & ~line.ready)
    bench.suppose(
        fits_table,
        ~offered.a_across_k & ~offered.b_across_k,
        (plan.a_slot > 0) & (plan.b_slot > 0),
        bench.stable(block.start, block.ready, offered, key, *(getattr(plan, n) for n in plan.signature.members)),
        *((block.start & line.ready, block.freed == 0) if not stalls else ()),
        ~block.ready | block.start,
    )

    # The GEMM under way, and the line that is due.
    gemm: Any = Signal(offered.shape())
    kept, slots = Signal.like(key), [[Signal(7, name=f"{role}_slot_{p}") for p in (0, 1)] for role in "ab"]
    parity, active, number, row = Signal(init=1), Signal(), Signal(5), Signal(2)
    operand, panel, part, fresh, last = Signal(), Signal(2), Signal(), Signal(), Signal()
    with m.Switch(Cat(kept, number)):
        for of, entry in known.items():
            with m.Case(joined(of, widths)):
                m.d.comb += Cat(operand, panel, part, fresh, last).eq(joined(entry, (1, 2, 1, 1, 1)))
    first = panel * Mux(operand, CONFIG.columns, CONFIG.rows)
    lanes, left = Mux(operand, CONFIG.columns, CONFIG.rows), Mux(operand, gemm.n, gemm.m) - first
    ends = row == Mux(left < lanes, left, lanes) - 1
    with m.If(goes):
        m.d.sync += [row.eq(Mux(ends, 0, row + 1)), number.eq(number + ends), active.eq(~(ends & last))]
    with m.If(taken):
        m.d.sync += [gemm.eq(offered), kept.eq(key), parity.eq(~parity), active.eq(1), number.eq(0), row.eq(0)]
        for p in (0, 1):
            with m.If(parity != p):
                m.d.sync += [slots[0][p].eq(plan.a_slot), slots[1][p].eq(plan.b_slot)]
    begins = goes & fresh & (row == 0)
    since = Signal(range(WAIT + 1))
    m.d.sync += since.eq(Mux(goes | taken, 0, since + (since != WAIT)))

    stride = Mux(operand, gemm.b_stride, gemm.a_stride)
    address = Mux(operand, gemm.b_address, gemm.a_address) + (first + row) * stride + part * Mux(operand, 64, 32)
    bench.ensure(
        ~taken | ~active,
        ~goes | active,
        ~block.idle | ~active,
        ~goes | (line.operand == operand),
        ~goes | (line.address == address[: CONFIG.address_bits]),
        ~goes | (line.bank == row),
        ~goes | (line.last == ends),
    )
    for role in (0, 1):
        mine, name = operand == role, "ab"[role]
        words = [Mux(parity, slot[1], slot[0]) for slot in slots][role]
        head, word, used = (
            Signal(bits, name=f"{name}_{each}") for each, bits in (("head", 6), ("word", 6), ("used", 7))
        )
        used_by = [Signal(5, name=f"{name}_slots_used_{p}") for p in (0, 1)]
        free, odd = block.freed[role], block.freed_parity[role]
        bench.suppose(~free | Mux(odd, used_by[1] != 0, used_by[0] != 0))
        starts, frees = begins & mine, Mux(free, Mux(odd, slots[role][1], slots[role][0]), 0)
        m.d.sync += used.eq(used + Mux(starts, words, 0) - frees)
        for p, count in enumerate(used_by):
            m.d.sync += count.eq(count + (starts & (parity == p)) - (free & (odd == p)))
        with m.If(goes & mine & (row == 0)):
            m.d.sync += word.eq(line.word)
        with m.If(starts):
            m.d.sync += head.eq(head + words)
        bench.ensure(
            # The words that a slot begins with are free, and behind those of the slot before.
            ~starts | (used + words <= CONFIG.buffer_depth),
            ~(goes & mine & fresh & (row == 0)) | (line.word == head),
            ~(goes & mine & ~fresh & (row == 0)) | (line.word == (word + Mux(operand, 16, 8))[:6]),
            ~(goes & mine & (row != 0)) | (line.word == word),
            # A GEMM's slots are of one size until the last of them is free.
            ~taken | Mux(parity, used_by[0] == 0, used_by[1] == 0),
        )
        if not stalls:
            bench.suppose((plan.b_slot if role else plan.a_slot) <= CONFIG.buffer_depth // (2 * most))
    if not stalls:
        bench.ensure(~active | (since != WAIT))
    return bench


@pytest.mark.parametrize(("most", "steps"), [(3, 16), pytest.param(5, 24, marks=LONG)])
def test_panels_are_loaded_once_and_in_order(most: int, steps: int, tmp_path: Path) -> None:
    """Of every GEMM of so many blocks, and of those that follow where there are fewer."""
    loader_bench(loader, most).prove(tmp_path, steps=steps, timeout=280)


@LONG
def test_no_more_is_loaded_than_there_is_room_for(tmp_path: Path) -> None:
    loader_bench(loader, 3, stalls=True).prove(tmp_path, steps=15, timeout=280)


MUTANTS = {
    "panels are loaded over those in use": ("operand.fits.eq(operand.room >= slot)", "operand.fits.eq(1)"),
    "the operand that stays is loaded first": (
        "more_resident & (gemm.resident_next | ~more_streamed)",
        "more_resident",
    ),
    "a group takes a panel too many": ("gemm.group_goes_on.eq(gemm.group_left != 0)", "gemm.group_goes_on.eq(1)"),
    "slots overlap by a word": ("operand.head.eq(operand.head + slot)", "operand.head.eq(operand.head + slot - 1)"),
    "slot sizes change while they are needed": (
        "next_unused.eq(Mux(gemm.parity, unused[0], unused[1]))",
        "next_unused.eq(1)",
    ),
}
"""What is wrong: the source text that is replaced, by what."""


@LONG
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_of_the_choice_are_refuted(name: str, tmp_path: Path) -> None:
    stalls = name == "panels are loaded over those in use"
    most, steps = (3, 15) if stalls else (5, 26)
    with pytest.raises(CounterexampleError, match=rf"run of {steps} clocks: test_load_proofs"):
        loader_bench(mutant(loader, *MUTANTS[name]), most, stalls=stalls).prove(tmp_path, steps=steps)
