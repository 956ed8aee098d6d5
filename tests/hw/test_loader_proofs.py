# amaranth: UnusedElaboratable=no
"""The loader's lines proved: of each panel that it takes up all rows over all of K, once, and where their words lie."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Cat, Mux, Signal, Value

from halfulp.hw import loader
from halfulp.hw.config import ArrayConfig
from halfulp.hw.schedule import block_steps, chunk_steps

from .proofs import Bench, CounterexampleError, mutant

LONG = pytest.mark.proof
"""Of `make proofs`."""

CONFIG = ArrayConfig(
    rows=3,
    columns=2,
    lanes=1,
    a_formats="int8",
    b_formats="float16",
    out_formats="int8",
    accumulator="exact:500",
    roundings="nearest_even",
    bus_width=32,
    buffer_depth=128,
    address_bits=24,
    size_bits=12,
)
STEPS, CHUNK = block_steps(CONFIG), chunk_steps(CONFIG)
UNIT, PANEL, BLOCK, LINES = 8, 16, 32, 64


class Panel:
    """The panel of one operand under way: plain counters of its blocks and lines."""

    def __init__(self, role: str) -> None:
        self.active = Signal(name=f"{role}_under_way")
        self.start = Signal(CONFIG.address_bits, name=f"{role}_panel_start")
        self.rows = Signal(2, name=f"{role}_rows")
        self.k_next = Signal(10, name=f"{role}_k_next")  # where the next block begins
        self.k_here = Signal(10, name=f"{role}_k_here")
        self.line = Signal(10, name=f"{role}_line")
        self.address = Signal(CONFIG.address_bits, name=f"{role}_line_address")
        self.word = Signal(7, name=f"{role}_first_word")
        self.next_word = Signal(7, name=f"{role}_next_word")


def loader_bench(module: ModuleType) -> Bench:
    """Every line of every block of each panel; which panel comes next is not looked into."""
    bench = Bench()
    m = bench.m
    block = module.Loader(config=CONFIG)
    inside = bench.look_into(block, "loader")
    line, plan, descriptor = block.line, block.plan, block.descriptor
    for name in plan.signature.members:
        bench.free(getattr(plan, name))
    bench.free(descriptor, block.start, line.ready, block.freed, block.freed_parity)
    state, wanted, operand = inside["state"], inside["wanted"], inside["operand"]
    bench.suppose((descriptor.k > 0) & (descriptor.k <= CONFIG.max_k))
    bench.ensure(state.matches(*(1 << n for n in range(len(state)))))

    def address_in(name: str) -> Value:
        low, high, carry = (inside[f"{name}_{part}"] for part in ("low", "high", "carry"))
        return Cat(low, (high + carry)[: len(high)])

    # What holds for the GEMM.
    k, chunked = Signal(10), Signal()
    with m.If(block.ready):
        m.d.sync += [k.eq(descriptor.k), chunked.eq(plan.chunked)]

    offers = line.valid & line.ready
    bench.ensure(
        line.valid == (state == LINES),
        bench.stable(
            line.valid, line.ready, *(getattr(line, n) for n in line.signature.members if n not in ("valid", "ready"))
        ),
        inside["k"] == k,
        inside["chunked"] == chunked,
        (k == 0) | (inside["one_block"] == (k <= STEPS)),
        (k != 0) | (state < UNIT) & ~inside["a_active"] & ~inside["b_active"],
        (state == PANEL) == wanted.any(),
    )
    panels = Panel("a"), Panel("b")
    for number, panel in enumerate(panels):
        role = "ab"[number]
        lanes = (CONFIG.rows, CONFIG.columns)[number]
        size = (CONFIG.a_bytes, CONFIG.b_bytes)[number]
        elements_a_word = CONFIG.bus_bytes // size
        block_words = STEPS // elements_a_word
        own = {
            n: inside[f"{role}_{n}"]
            for n in ("active", "left", "many", "count", "last_row", "k_left", "begun", "ended")
        }
        own |= {n: address_in(f"{role}_{n}") for n in ("panel", "block")}
        own |= {n: inside[f"{role}_{n}"] for n in ("last", "first", "fresh", "chunk_block", "word", "head", "fits")}
        across, stride = Signal(name=f"{role}_is_across"), Signal(CONFIG.size_bits, name=f"{role}_row_stride")
        with m.If(block.ready):
            m.d.sync += [across.eq(descriptor[f"{role}_across_k"]), stride.eq(descriptor[f"{role}_stride"])]

        # A panel is taken up, then block by block, each of which begins in a clock in which its slot has room.
        mine = operand == number
        taken_up = (state == PANEL) & wanted[number]
        begins = (state == BLOCK) & mine & (~own["fresh"] | own["fits"])
        offered = offers & mine
        in_block = (state == LINES) & mine
        here = Mux(k - panel.k_here < STEPS, k - panel.k_here, STEPS)[:8]
        ends_panel = panel.k_here + STEPS >= k
        ends_slot = ends_panel | (chunked & ((panel.k_here + STEPS) % CHUNK == 0))
        last_line = panel.line == Mux(across, here, panel.rows) - 1
        starts_slot = (panel.k_next == 0) | (chunked & (panel.k_next % CHUNK == 0))
        bench.suppose(~taken_up | (own["left"] != 0))
        with m.If(taken_up):
            m.d.sync += [
                panel.active.eq(1),
                panel.start.eq(own["panel"]),
                panel.rows.eq(Mux(own["left"] < lanes, own["left"], lanes)),
                panel.k_next.eq(0),
                panel.address.eq(own["panel"]),
            ]
        with m.If(begins):
            word = Mux(starts_slot, own["head"], panel.next_word)
            m.d.sync += [
                panel.k_here.eq(panel.k_next),
                panel.k_next.eq(panel.k_next + STEPS),
                panel.line.eq(0),
                panel.word.eq(word),
                panel.next_word.eq(word + block_words),
            ]
            with m.If(~across):
                m.d.sync += panel.address.eq(panel.start + panel.k_next * size)
        with m.If(offered):
            m.d.sync += [
                panel.line.eq(panel.line + 1),
                panel.address.eq(panel.address + stride),
                panel.active.eq(~(last_line & ends_panel)),
            ]

        # The line that is offered: its elements run from its address on.
        into_word = panel.address[: (CONFIG.bus_bytes - 1).bit_length()] >> (size - 1).bit_length()
        elements = Mux(across, panel.rows, Mux(ends_slot, here, STEPS - into_word))
        beats = (into_word + elements + elements_a_word - 1) // elements_a_word
        wanted_line: dict[str, Value] = {
            "address": panel.address,
            "beats": beats,
            "ahead": Mux(panel.address[2:12] > 1024 - 16, 1024 - panel.address[2:12], 16),
            "across": across,
            "bank": panel.line[: len(line.bank)],
            "word": (panel.word + Mux(across, panel.line // elements_a_word, 0))[:7],
            "lane": Mux(across, panel.line % elements_a_word, 0),
            "offset": Mux(across, into_word, 0),
            "last": last_line,
        }
        bench.ensure(
            ~taken_up | ~panel.active,
            ~offered | panel.active,
            ~block.idle | ~panel.active,
            ~offered | (line.operand == number),
            *(~offered | (getattr(line, name) == value) for name, value in wanted_line.items()),
        )

        # What induction has to know besides.
        other = panels[1 - number]
        waits = panel.active & ~in_block
        # What is next is noted a clock after a block begins, and after it ends.
        late, ended = own["begun"], own["ended"] & across
        k_due = Mux(late, panel.k_here, panel.k_next)
        due = waits | (in_block & (late | ~ends_panel))
        starts_due = (k_due == 0) | (chunked & (k_due % CHUNK == 0))
        bench.ensure(
            own["active"] == panel.active,
            (state >= BLOCK) | ~panel.active,
            ~((state >= BLOCK) & mine) | panel.active,
            inside[f"{role}_across"] == across,
            inside[f"{role}_stride"] == stride,
            (state != PANEL) | (own["many"] == (own["left"] > lanes)),
            ~late | in_block & (panel.line == 0),
            ~own["ended"] | (state == BLOCK) | (state == UNIT),
            ~((state == BLOCK) & mine) | (inside["stays"] == ended),
            ~panel.active | (panel.rows != 0) & (panel.rows <= lanes) & (own["count"] == panel.rows),
            ~panel.active | (own["last_row"] == panel.rows - 1),
            ~due | (k_due < k) & (own["k_left"] == k - k_due),
            ~due | (own["last"] == (k - k_due <= STEPS)),
            ~panel.active | (panel.k_next % STEPS == 0),
            ~panel.active | (own["chunk_block"] == (k_due // STEPS)[: len(own["chunk_block"])]),
            ~due | (own["fresh"] == starts_due),
            ~panel.active | starts_due | (own["word"] == Mux(late, panel.word, panel.next_word)),
            ~(late & own["fresh"]) | (own["head"] == panel.word),
            ~panel.active | (panel.next_word == (panel.word + block_words)[:7]) | (panel.k_next == 0),
            ~waits | ~across | (Mux(ended, address_in("address"), own["block"]) == panel.address),
            ~panel.active | across | (own["block"] == (panel.start + k_due * size)[: len(own["block"])]),
            ~in_block | (panel.k_here < k) & (panel.k_next == panel.k_here + STEPS),
            ~in_block | (address_in("address") == panel.address),
            ~in_block | (inside["across"] == across) & (inside["stride"] == stride),
            ~in_block | (inside["index"] == panel.line),
            ~in_block | (inside["last_index"] == Mux(across, here, panel.rows) - 1),
            ~in_block | (inside["line_is_last"] == last_line),
            ~in_block | (panel.line < Mux(across, here, panel.rows)),
            ~in_block | (inside["elements"] == Mux(across, panel.rows, here)),
            ~in_block | (inside["whole"] == (~across & ~ends_slot)),
            ~in_block | (inside["ends_panel"] == ends_panel),
            ~in_block | (inside["word"] == wanted_line["word"]) & (inside["lane"] == wanted_line["lane"]),
            ~in_block | ~other.active | (other.k_next < k),
        )
    return bench


def test_lines_are_those_of_the_panels(tmp_path: Path) -> None:
    loader_bench(loader).prove(tmp_path, steps=3, inductive=True)


MUTANTS = {
    "rows beyond the edge": (
        "line.elements.eq(Mux(operand.across, operand.count,",
        "line.elements.eq(Mux(operand.across, operand.lanes,",
    ),
    "a last block of whole words": ("line.whole.eq(~operand.across & ~ends_slot)", "line.whole.eq(~operand.across)"),
    "all lines at one address": ("line.address.add(line.stride)", "line.address.add(0)"),
    "a single row without an end": ("operand.last_row == 0)", "0)"),
    "a block too few": ("operand.last.eq(gemm.one_block)", "operand.last.eq(1)"),
}
"""What is wrong: the source text that is replaced, by what."""


@LONG
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_of_the_loader_are_refuted(name: str, tmp_path: Path) -> None:
    with pytest.raises(CounterexampleError, match=r"run of 9 clocks: test_loader_proofs"):
        loader_bench(mutant(loader, *MUTANTS[name])).prove(tmp_path, steps=9)
