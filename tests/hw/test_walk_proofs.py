# amaranth: UnusedElaboratable=no
"""The walk over tiles proved: each once, in the order of `schedule.GemmPlan`, with its edges, slots and addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from amaranth.hdl import Cat, Mux, Signal, Value

from halfulp.hw import tile_walk
from halfulp.hw.config import ArrayConfig
from halfulp.hw.schedule import block_steps, chunk_steps
from halfulp.hw.segments import TILE_CONSTANTS

from .plan_facts import MOST_IN_GROUP, MOST_PANELS, joined, reference, small_gemms
from .proofs import Bench, CounterexampleError, mutant

LONG = pytest.mark.proof
"""Of `make proofs`."""

CONFIG = ArrayConfig(
    rows=2,
    columns=3,
    lanes=1,
    a_formats="int8",
    b_formats="float16",
    out_formats=("int8", "int32"),
    accumulator="exact:100",
    roundings="stochastic",
    bus_width=32,
    buffer_depth=64,
    address_bits=16,
    size_bits=8,
)
CHUNK = chunk_steps(CONFIG)
assert CHUNK == block_steps(CONFIG) == 32

LANES = (CONFIG.rows, CONFIG.columns)


def tiles(most: int) -> Iterator[tuple[tuple[int, int, int, int], tuple[int, ...]]]:
    """By group, panels of the resident and of the streamed operand and number of the tile: what `GemmPlan` says of it.

    Its panels, that they are needed no more, how often the streamed operand was begun before, and that it is the last.
    """
    for group, x, y in product(range(1, MOST_IN_GROUP + 1), *[range(1, MOST_PANELS + 1)] * 2):
        plan = reference(CONFIG, resident=0, group=group, panels=(x, y), k=CHUNK)
        if x * y <= most:
            rounds = {start + i: n for n, (start, size) in enumerate(plan.groups()) for i in range(size)}
            for number, tile in enumerate(plan.tiles()):
                yield (group, x, y, number), (*tile, rounds[tile[0]], number == x * y - 1)


class WalkBench(Bench):
    """GEMMs of up to `most` tiles, one after the other, and which of their segments is due.

    With `stalls` they may start, and segments be taken, in any clock; without, as soon as they can, which is far
    quicker to prove.

    Attributes
    ----------
    gemm, slots, chunked, resident, panels
        Of the GEMM under way: descriptor, words a slot and panels of A and B, and what the plan says.
    x, y, done_x, done_y, times, last
        Of the tile that is due: see `tiles`.
    chunk, number, ends
        Of the segment: its chunk of K, how many of the GEMM's were before it, and that it is its tile's last.
    """

    def __init__(self, module: ModuleType, most: int, stalls: bool) -> None:
        super().__init__()
        m = self.m
        self.walk = walk = module.TileWalk(config=CONFIG)
        m.submodules.walk = walk
        segment, plan, offered = walk.segment, walk.plan, walk.descriptor
        self.free(walk.start, walk.hold, segment.ready)
        group, counts = small_gemms(self, CONFIG, offered, plan)
        self.suppose(
            (walk.start & ~walk.hold & segment.ready) if not stalls else ~walk.ready | walk.start,
            counts[0] * counts[1] <= most,
            plan.chunked | (offered.k <= 2 * CHUNK),
        )
        taken, self.goes = walk.start & walk.ready, segment.valid & segment.ready
        self.gemm: Any = Signal(offered.shape())
        self.slots = [Signal.like(plan.a_slot, name=f"{role}_slot_words") for role in "ab"]
        self.slack, self.chunked, self.resident = Signal(2), Signal(), Signal()
        self.panels = [Signal(3, name=f"panels_of_{role}") for role in "ab"]
        of_group = Signal.like(group)
        with m.If(taken):
            m.d.sync += [
                self.gemm.eq(offered),
                *(slot.eq(of_plan) for slot, of_plan in zip(self.slots, (plan.a_slot, plan.b_slot), strict=True)),
                self.slack.eq(Cat(plan.a_slack, plan.b_slack)),
                self.chunked.eq(plan.chunked),
                self.resident.eq(plan.resident),
                *(kept.eq(count) for kept, count in zip(self.panels, counts, strict=True)),
                of_group.eq(group),
            ]

        # The segment that is due.
        self.x, self.y, self.times = (Signal(3, name=name) for name in ("x", "y", "times"))
        self.done_x, self.done_y, self.last = (Signal(name=name) for name in ("done_x", "done_y", "last"))
        tile, self.chunk, self.number = Signal(4), Signal(3), Signal(6)
        resident, streamed = (Mux(self.resident, *each) for each in (self.panels[::-1], self.panels))
        values = Cat(self.x, self.y, self.done_x, self.done_y, self.times, self.last)
        with m.Switch(Cat(of_group, resident, streamed, tile)):
            for key, entry in tiles(most):
                with m.Case(joined(key, (len(of_group), 3, 3, 4))):
                    m.d.comb += values.eq(joined(entry, (3, 3, 1, 1, 3, 1)))
        self.ends = ~self.chunked | (self.gemm.k <= (self.chunk + 1) * CHUNK)
        self.ends_gemm = self.goes & self.ends & self.last
        active, parity = Signal(), Signal(init=1)
        with m.If(self.goes):
            m.d.sync += [
                self.chunk.eq(Mux(self.ends, 0, self.chunk + 1)),
                tile.eq(tile + self.ends),
                self.number.eq(self.number + 1),
                active.eq(~self.ends_gemm),
            ]
        with m.If(taken):
            m.d.sync += [active.eq(1), tile.eq(0), self.chunk.eq(0), self.number.eq(0), parity.eq(~parity)]

        # It is there as soon as the walk has come to it.
        since, due = Signal(range(walk.period + 1)), Signal(range(walk.period + 1))
        with m.If(taken | self.goes):
            m.d.sync += [since.eq(1), due.eq(Mux(taken, 3, walk.period))]
        with m.Elif(since != due):
            m.d.sync += since.eq(since + 1)
        self.ensure(
            segment.valid == (active & (since == due)),
            ~taken | ~active,
            ~walk.idle | ~active,
            ~segment.valid | (segment.parity == parity),
        )

    def shown(self, wanted: Mapping[str, Any]) -> Iterator[Value]:
        """That the segment's fields are these, where there is a segment."""
        segment = self.walk.segment
        for name, value in wanted.items():
            field = Value.cast(getattr(segment, name))
            yield ~segment.valid | (field[:] == Value.cast(value)[: len(field)])

    def first(self, role: int) -> Value:
        """The first row (column) of the panel of A (B)."""
        return Mux(self.resident == role, self.x, self.y) * LANES[role]


def tiles_bench(module: ModuleType, most: int, *, stalls: bool = False) -> Bench:
    """Which tiles and chunks come, in which order, with which edges, and what is free after them."""
    bench = WalkBench(module, most, stalls)
    gemm, chunked = bench.gemm, bench.chunked
    steps = Mux(~chunked, gemm.k, Mux(bench.ends, gemm.k - bench.chunk * CHUNK, CHUNK)) - 1
    wanted = {
        "steps": steps,
        "blocks": steps // CHUNK,
        "starts": bench.chunk == 0,
        "ends": bench.ends,
        "tile_last": bench.last,
    }
    for role, size, begin in ((0, gemm.m, gemm.row_offset), (1, gemm.n, gemm.column_offset)):
        name, lines = "ab"[role], ("row", "column")[role]
        first = bench.first(role)
        wanted |= {
            f"tile_{lines}": begin + first,
            f"tile_{lines}s": Mux(size - first < LANES[role], size - first, LANES[role]),
            f"{name}_slack": bench.slack[role],
            f"{name}_across": gemm[f"{name}_across_k"],
            f"{name}_free": chunked | Mux(bench.resident == role, bench.done_x, bench.done_y),
        }
    bench.ensure(*bench.shown(wanted), *bench.shown({f"tile_{name}": gemm[name] for name in TILE_CONSTANTS}))
    return bench


def places_bench(module: ModuleType, most: int, *, stalls: bool = False) -> Bench:
    """Where a segment's operands lie in their banks, and its results in memory.

    Strides and slots are small: products of larger ones take the solver long.
    """
    bench = WalkBench(module, most, stalls)
    m, gemm, offered, plan = bench.m, bench.gemm, bench.walk.descriptor, bench.walk.plan
    bench.suppose(offered.c_stride < 8, plan.a_slot < 8, plan.b_slot < 8, plan.chunked | (offered.k <= CHUNK))
    address: Value = gemm.c_address
    for role, words in enumerate(bench.slots):
        name, element_bytes = "ab"[role], (CONFIG.a_bytes, CONFIG.b_bytes)[role]
        # A resident panel has a slot for itself, a streamed one in each group anew; a chunk always.
        here = Mux(bench.resident == role, bench.x, bench.times * bench.panels[role] + bench.y)
        slot = Mux(bench.chunked, bench.number, here)
        word, block = Signal(6, name=f"{name}_first_word"), Signal(8, name=f"{name}_first_block")
        with m.If(bench.ends_gemm):
            m.d.sync += [word.eq(word + (slot + 1) * words), block.eq(block + slot + 1)]
        inside = slice((element_bytes - 1).bit_length(), (CONFIG.bus_bytes - 1).bit_length())
        stride, across = gemm[f"{name}_stride"][inside], gemm[f"{name}_across_k"]
        offset = gemm[f"{name}_address"][inside] + bench.first(role) * stride
        wanted = {
            f"{name}_word": word + slot * words,
            f"{name}_block": block + slot,
            f"{name}_offset": Mux(across, 0, offset[: len(stride)]),
            f"{name}_stride": Mux(across, 1, stride),
        }
        bench.ensure(*bench.shown(wanted))
        address = address + bench.first(role) * Mux(role, Mux(gemm.out_format == 1, 4, 1), gemm.c_stride)
    bench.ensure(*bench.shown({"tile_address": address}))
    return bench


@pytest.mark.parametrize(("most", "steps"), [(2, 14), pytest.param(4, 24, marks=LONG), pytest.param(6, 34, marks=LONG)])
def test_tiles_come_once_and_in_order(most: int, steps: int, tmp_path: Path) -> None:
    """Of every GEMM of so many tiles, and of the next where there are fewer."""
    tiles_bench(tile_walk, most).prove(tmp_path, steps=steps, timeout=280)


@LONG
def test_places_are_those_of_the_panels(tmp_path: Path) -> None:
    places_bench(tile_walk, 4).prove(tmp_path, steps=24, timeout=280)


@LONG
@pytest.mark.parametrize("bench", [tiles_bench, places_bench])
def test_the_walk_may_be_stalled(bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench(tile_walk, 2, stalls=True).prove(tmp_path, steps=10)


MUTANTS = {
    "rows beyond the edge": (tiles_bench, "Mux(a.is_last, a.here.left, a.lanes)", "a.lanes"),
    "the group's last tile is the GEMM's": (
        tiles_bench,
        "segment.tile_last.eq(group_ends & x_last)",
        "segment.tile_last.eq(group_ends)",
    ),
    "the last groups do not share": (tiles_bench, "walk.end.eq(more_panels(walk, split))", "walk.end.eq(walk.whole)"),
    "a tile comes again": (tiles_bench, "Mux(walk.along_streamed, walk.y + 1 == walk.x, walk.y == walk.x)", "1"),
    "a panel is free while it is needed": (tiles_bench, "Mux(mine, y_last, x_end)", "Mux(mine, 1, x_end)"),
    "a group's first panels lie where the last ones did": (
        places_bench,
        "restart | (walk.group_ends & ~mine)",
        "restart",
    ),
    "a chunk lies where the one before did": (
        places_bench,
        "operand.next_slot.eq(walk.chunked |",
        "operand.next_slot.eq(",
    ),
    "tiles are a row apart": (
        places_bench,
        "a.pitch.eq(times(descriptor.c_stride, a.lanes))",
        "a.pitch.eq(descriptor.c_stride)",
    ),
}
"""What is wrong: the bench that has to show it, and the source text that is replaced, by what."""


@LONG
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_of_the_walk_are_refuted(name: str, tmp_path: Path) -> None:
    bench, old, new = MUTANTS[name]
    with pytest.raises(CounterexampleError, match=r"run of 24 clocks: test_walk_proofs"):
        bench(mutant(tile_walk, old, new), 4).prove(tmp_path, steps=24)
