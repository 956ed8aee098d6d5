# amaranth: UnusedElaboratable=no
"""The drain proved: exactly the valid results leave the array, in order, once, for the right places in C."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from amaranth.hdl import Array, Cat, Mux, Signal, Value
from amaranth.lib import data

from halfulp.hw import group_walker, pair_queue, reserved_queue, row_buffer
from halfulp.hw.array import first_capture
from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import tile_layout

from .proofs import Bench, CounterexampleError, mutant

LONG = pytest.mark.proof
"""Of `make proofs`."""


def configuration(rows: int, columns: int, lanes: int) -> ArrayConfig:
    return ArrayConfig(
        rows=rows,
        columns=columns,
        lanes=lanes,
        a_formats="int4",
        b_formats="int4",
        out_formats="int4",
        accumulator="exact:4",
        roundings="nearest_even",
    )


def walker_bench(module: ModuleType) -> Bench:
    """Tiles are walked once, in order: the rows of each from the first, these in groups of L from the left."""
    config = configuration(3, 4, 2)
    bench = Bench()
    m = bench.m
    walker = module.GroupWalker(config=config)
    inside = bench.look_into(walker, "walker")
    offered, started, group = walker.tile.payload, walker.started, walker.group
    bench.free(walker.tile.valid, offered, walker.ready, walker.closed)
    for each, known in ((offered, walker.tile.valid), (started, walker.start)):
        inside_array = (each.rows > 0) & (each.rows <= config.rows) & (each.columns > 0)
        bench.suppose(~known | (inside_array & (each.columns <= config.columns)))

    # The tile under way, and which of its groups is next.
    tile: Any = Signal(tile_layout(config))
    row, number, active = Signal(2), Signal(2), Signal()
    last_of_row = ((number + 1) * config.lanes) >= tile.columns
    last_of_tile = last_of_row & (row + 1 == tile.rows)
    moves = walker.valid & walker.ready
    with m.If(walker.start):
        m.d.sync += [tile.eq(started), row.eq(0), number.eq(0), active.eq(1)]
    with m.Elif(moves):
        m.d.sync += [row.eq(row + last_of_row), number.eq(Mux(last_of_row, 0, number + 1)), active.eq(~last_of_tile)]
    left = tile.columns - number * config.lanes
    bench.ensure(
        walker.valid == active,
        ~active | (walker.i == (tile.row + row)[: len(walker.i)]),
        ~active | (walker.j == (tile.column + number * config.lanes)[: len(walker.j)]),
        ~active | (group.group == number),
        ~active | (group.count == Mux(left < config.lanes, left, config.lanes)),
        ~active | (group.column == walker.j[:2]),
        ~active | (group.last_of_row == last_of_row),
        ~active | (group.last_of_tile == last_of_tile),
        ~active | (group.last_of_gemm == (last_of_tile & tile.last)),
        ~walker.start | ~active | (moves & last_of_tile),
    )

    # Tiles that wait, that are walked, and that are walked to the end and have not left.
    waiting, leaving = Signal(3), Signal(3)
    accepted = walker.tile.valid & walker.tile.ready
    m.d.sync += [
        waiting.eq(waiting + accepted - walker.start),
        leaving.eq(leaving + (moves & last_of_tile) - walker.closed),
    ]
    bench.suppose(~walker.closed | (leaving != 0))
    under_way = leaving + active
    between = Signal(init=1)
    with m.If(walker.start):
        m.d.sync += between.eq(started.last)
    bench.ensure(
        waiting <= 2,
        under_way <= module.STARTED_TILES,
        ~walker.start | (waiting != 0),
        walker.idle == ((waiting == 0) & (under_way == 0)),
        walker.tile.ready == (waiting != 2),
        # What is held once for a GEMM is not changed under another one.
        walker.first_of_gemm == between,
        ~(walker.start & between) | (under_way == 0),
    )

    # Any tile, and how many were accepted before it and not yet started.
    chosen, waits, ahead = Signal(), Signal(), Signal(3)
    bench.free(chosen)
    mine: Any = Signal(tile_layout(config))
    with m.If(accepted & chosen & ~waits):
        m.d.sync += [waits.eq(1), mine.eq(offered), ahead.eq(waiting - walker.start)]
    with m.If(waits & walker.start):
        m.d.sync += [ahead.eq(ahead - 1), waits.eq(ahead != 0)]
    bench.ensure(~(waits & walker.start & (ahead == 0)) | (started.as_value() == mine.as_value()))

    # What induction has to know besides.
    bench.ensure(
        ~waits | (ahead < waiting),
        ~waits | (Mux(ahead == 0, inside["queue.first"], inside["queue.second"]) == mine.as_value()),
        inside["open_tiles"] == under_way,
        inside["inside_gemm"] == ~between,
        inside["queue.shows"] == (waiting != 0),
        inside["queue.waits"] == (waiting == 2),
        ~active | (inside["columns_left"] == left),
        ~active | (inside["rows_left"] == (tile.rows - row)[: len(inside["rows_left"])]),
        ~active | (inside["first_column"] == tile.column),
        ~active | (inside["columns"] == tile.columns),
        ~active | (inside["last_tile"] == tile.last),
        ~active | (inside["last_row"] == (row + 1 == tile.rows)),
        ~active | (inside["one_group"] == (tile.columns <= config.lanes)),
        inside["may_start"] == ((under_way != module.STARTED_TILES) & (~between | (under_way == 0))),
        ~active | ((row < tile.rows) & (number * config.lanes < tile.columns)),
        ~active | ((tile.rows <= config.rows) & (tile.columns <= config.columns)),
    )
    return bench


def _older(age: Signal) -> Value:
    """The next age, of at most 3 clocks."""
    return Mux(age == 3, 3, age + 1)


def addresses_bench(module: ModuleType) -> Bench:
    """The address of each group that leaves: C's element that the tile says, whatever starts meanwhile."""
    bench = Bench()
    m = bench.m
    block = module.GroupAddresses(config=configuration(3, 4, 2))
    inside = bench.look_into(block, "addresses")
    bench.free(block.start, block.tile_address, block.row_stride, block.step)
    bench.free(block.left, block.last_of_row, block.last_of_tile)

    # Two tiles at most, the elder of which leaves, but not at once: its first address, the row and group that are next.
    count, rows, groups, is_new = Signal(2), Signal(2), Signal(2), Signal()
    # Clocks since either's start, up to 3.
    age, second_age = Signal(2), Signal(2)
    first, second = Signal.like(block.address, name="first"), Signal.like(block.address, name="second")
    stride, step = Signal.like(block.row_stride, name="stride"), Signal.like(block.step, name="step")
    closes = block.left & block.last_of_tile
    bench.suppose(
        ~block.start | (count != 2),
        ~block.left | ((count != 0) & (age == 3)),
        ~block.last_of_tile | block.last_of_row,
        (count == 0) | ((block.row_stride == stride) & (block.step == step)),
        (rows != 3) | ~block.last_of_row | block.last_of_tile,
        (groups != 3) | block.last_of_row,
    )
    m.d.sync += [
        count.eq(count + block.start - closes),
        is_new.eq(block.start & ((count == 0) | ((count == 1) & closes))),
        second_age.eq(Mux(block.start, 1, _older(second_age))),
        age.eq(_older(age)),
    ]
    with m.If(block.start & (count == 0)):
        m.d.sync += [stride.eq(block.row_stride), step.eq(block.step)]
    with m.If(block.start):
        m.d.sync += second.eq(block.tile_address)
    with m.If(closes | (count == 0)):
        m.d.sync += [first.eq(Mux(count == 2, second, block.tile_address)), rows.eq(0), groups.eq(0)]
        m.d.sync += age.eq(Mux(count == 2, _older(second_age), 1))
    with m.Elif(block.left & block.last_of_row):
        m.d.sync += [rows.eq(rows + 1), groups.eq(0)]
    with m.Elif(block.left):
        m.d.sync += groups.eq(groups + 1)
    row = (first + rows * stride)[: len(first)]
    leaves = (count != 0) & ~is_new
    bench.ensure(
        ~leaves | (block.address == (row + groups * step)[: len(first)]),
        # What induction has to know besides.
        count <= 2,
        ~is_new | ((count == 1) & (first == second) & (rows == 0) & (groups == 0)),
        inside["is_open"] == leaves,
        inside["waits"] == (is_new | (count == 2)),
        ~inside["waits"] | (inside["following"] == second),
        ~leaves | (age != 3) | (inside["next_row"] == (row + stride)[: len(first)]),
        ~leaves | (age >= 2),
        ~is_new | (age == 1),
        (count == 0) | (age != 0) & ((age == 3) | (rows == 0) & (groups == 0)),
        (count != 2) | (second_age != 0),
        ~leaves | (age != 2) | inside["begun"] & (inside["second_row"] == (first + stride)[: len(first)]),
        (count != 2) | (second_age < 2) | (inside["second_row"] == (second + stride)[: len(first)]),
        (count == 0) | (inside["stride"] == stride),
    )
    return bench


def mover_bench(module: ModuleType, *, rows: int = 3) -> Bench:
    """All valid rows of each tile move, once, before any sum of the next is captured, and there is room for them."""
    config = configuration(rows, 2, 1)
    bench = Bench()
    m = bench.m
    mover = module.ResultMover(config=config)
    bench.look_into(mover, "mover")
    bench.free(mover.accept, mover.rows, mover.feed_last, mover.released)

    # The array: the first sum is captured some clocks after the last step, all of them R + C - 2 clocks later.
    first = first_capture(config)
    last = first + config.rows + config.columns - 2
    steps = Signal(last)
    m.d.sync += steps.eq(Cat(mover.feed_last, steps))
    captured = steps[last - 1]

    # Tiles accepted whose last step is to come, or whose rows are still to move; rows of each.
    order = Array(Signal(range(rows + 1), name=f"order_{n}") for n in range(module.OPEN_TILES))
    accepted, moved, fed, open_tiles = Signal(2), Signal(2), Signal(3), Signal(3)
    due, level = Signal(range(rows + 1)), Signal(range(module.buffered_rows(config) + 1))
    ends = mover.shift & (due == 1)
    with m.If(mover.accept):
        m.d.sync += [order[accepted].eq(mover.rows), accepted.eq(accepted + 1)]
    with m.If(captured):
        m.d.sync += [due.eq(order[moved]), moved.eq(moved + 1)]
    with m.Else():
        m.d.sync += due.eq(due - mover.shift)
    m.d.sync += [
        open_tiles.eq(open_tiles + mover.accept - ends),
        fed.eq(fed + mover.accept - mover.feed_last),
        level.eq(level + mover.shift - mover.released),
    ]
    bench.suppose(
        (mover.rows != 0) & (mover.rows <= config.rows),
        ~mover.accept | (open_tiles != module.OPEN_TILES),
        ~mover.feed_last | (bench.delayed(mover.free_soon & ~mover.feed_last) & ((fed != 0) | mover.accept)),
        ~mover.released | (level != 0),
    )
    fits = (due != 0) & (level + due <= module.buffered_rows(config))
    bench.ensure(
        ~mover.shift | (due != 0),
        ~steps[first - 1] | (due == mover.shift),
        ~steps[first:].any() | ~mover.shift,
        ~captured | (due == 0),
        level <= module.buffered_rows(config),
        ~(mover.idle & ~mover.accept) | (due == 0),
        # Two clocks after there is room; at once where there was in the clock before they are captured.
        ~bench.delayed(bench.delayed(fits)) | mover.shift | (due == 0),
        ~bench.delayed(captured & bench.delayed(level + order[moved] <= module.buffered_rows(config))) | mover.shift,
    )
    return bench


def buffer_bench(module: ModuleType) -> Bench:
    """Groups are read from the rows that were written, in order, each as it was."""
    config = configuration(2, 2, 1)
    bench = Bench()
    m = bench.m
    m.submodules.buffer = buffer = module.RowBuffer(config=config)
    bench.free(buffer.write, buffer.row, buffer.read, buffer.group, buffer.pop)
    depth = module.buffered_rows(config)
    level = Signal(range(depth + 1))
    pops = buffer.read & buffer.pop
    m.d.sync += level.eq(level + buffer.write - pops)
    bench.suppose(~buffer.write | (level != depth), ~buffer.read | buffer.available)
    bench.ensure(buffer.available == (level != 0))

    # Any row, how many are before it, and what is read of it on its way to the output.
    chosen, waits, ahead = Signal(), Signal(), Signal(3)
    bench.free(chosen)
    row: Any = Signal(data.ArrayLayout(buffer.results.shape().elem_shape, config.columns))
    with m.If(buffer.write & chosen & ~waits):
        m.d.sync += [waits.eq(1), row.eq(buffer.row), ahead.eq(level - pops)]
    with m.If(waits & pops):
        m.d.sync += [ahead.eq(ahead - 1), waits.eq(ahead != 0)]
    reads = waits & buffer.read & (ahead == 0)
    expected, known = Signal.like(row[0].sum, name="expected_0"), Signal()
    delivered, ready = Signal.like(expected), Signal()
    m.d.sync += [expected.eq(row[buffer.group].sum), known.eq(reads), delivered.eq(expected), ready.eq(known)]
    bench.ensure(~ready | (buffer.results[0].sum == delivered))
    return bench


def pair_bench(module: ModuleType) -> Bench:
    """What enters a queue of two leaves it in order, as it was, a clock later at the earliest; two can wait."""
    bench = Bench()
    m = bench.m
    queue = module.PairQueue(shape=4)
    inside = bench.look_into(queue, "queue")
    before, behind = queue.before, queue.behind
    bench.free(before.valid, before.p, behind.ready)
    waiting, first, second = Signal(2), Signal(4), Signal(4)
    enters, leaves = before.valid & before.ready, behind.valid & behind.ready
    m.d.sync += waiting.eq(waiting + enters - leaves)
    with m.If(leaves):
        m.d.sync += first.eq(second)
    with m.If(enters):
        with m.If(waiting == leaves):
            m.d.sync += first.eq(before.p)
        with m.Else():
            m.d.sync += second.eq(before.p)
    bench.ensure(
        before.ready == (waiting < 2),
        behind.valid == (waiting != 0),
        (waiting == 0) | (behind.p == first),
        # What induction has to know besides.
        waiting <= 2,
        inside["waits"] == (waiting == 2),
        (waiting != 2) | (inside["second"] == second),
    )
    return bench


def queue_bench(module: ModuleType) -> Bench:
    """What was promised a place is kept in order, as it was; while all is taken at once, there is always room."""
    bench = Bench()
    m = bench.m
    queue = module.ReservedQueue(shape=3, depth=4)
    inside = bench.look_into(queue, "queue")
    behind = queue.behind
    bench.free(queue.reserve, queue.valid, queue.item, behind.ready)
    reserved, waiting = Signal(3), Signal(3)  # of these, places whose item has come
    taken = behind.valid & behind.ready
    m.d.sync += [reserved.eq(reserved + queue.reserve - taken), waiting.eq(waiting + queue.valid - taken)]
    bench.suppose(~queue.reserve | queue.room, ~queue.valid | (waiting < reserved))
    bench.ensure(
        queue.room == (reserved != 4),
        queue.idle == (reserved == 0),
        waiting <= reserved,
        reserved <= 4,
        ~behind.valid | (waiting != 0),
        behind.valid | (waiting <= bench.delayed(queue.valid)),
    )

    # Any item, and how many are before it.
    chosen, waits, ahead, entry = Signal(), Signal(), Signal(3), Signal(3)
    bench.free(chosen)
    with m.If(waits & taken):
        m.d.sync += [ahead.eq(ahead - 1), waits.eq(ahead != 0)]
    with m.If(queue.valid & chosen & ~waits):
        m.d.sync += [waits.eq(1), ahead.eq(waiting - taken), entry.eq(queue.item)]
    first = waits & behind.valid & (ahead == 0)
    bench.ensure(
        ~first | (behind.p == entry),
        # What induction has to know besides.
        inside["reserved"] == reserved,
        inside["level"] == waiting - behind.valid,
        inside["waits"] == (inside["level"] != 0),
        inside["written"] == (inside["read"] + inside["level"])[:2],
        ~waits | (ahead < waiting),
        ~waits | first | (bench.stored("items", (inside["read"] + ahead - behind.valid)[:2]) == entry),
    )
    return bench


def test_items_leave_as_they_came_and_have_room(tmp_path: Path) -> None:
    queue_bench(reserved_queue).prove(tmp_path, steps=2, inductive=True)


def test_groups_of_each_tile_are_walked(tmp_path: Path) -> None:
    walker_bench(group_walker).prove(tmp_path, steps=2, inductive=True)


@LONG
def test_groups_leave_for_their_addresses(tmp_path: Path) -> None:
    addresses_bench(group_walker).prove(tmp_path, steps=2, inductive=True)


def test_rows_move_before_they_are_overwritten(tmp_path: Path) -> None:
    mover_bench(row_buffer).prove(tmp_path, steps=22)


@LONG
@pytest.mark.parametrize(("rows", "steps"), [(3, 30), (8, 28)])
def test_rows_of_more_tiles_move_in_time(rows: int, steps: int, tmp_path: Path) -> None:
    mover_bench(row_buffer, rows=rows).prove(tmp_path, steps=steps, timeout=280)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    buffer_bench(row_buffer).prove(tmp_path, steps=9)


def test_what_waits_in_a_queue_of_two_is_next(tmp_path: Path) -> None:
    pair_bench(pair_queue).prove(tmp_path, steps=2, inductive=True)


MUTANTS = {
    "a short group is whole": (
        walker_bench,
        group_walker,
        "Mux(last_of_row, columns_left, lanes)",
        "lanes",
    ),
    "a row too few": (walker_bench, group_walker, "last_row.eq(rows_left == 2)", "last_row.eq(rows_left <= 3)"),
    "a tile that comes overtakes one that waits": (
        walker_bench,
        group_walker,
        "tile.eq(waiting.p)",
        "tile.eq(Mux(self.tile.valid, self.tile.payload, queue.behind.p))",
    ),
    "rounding changed under a GEMM": (walker_bench, group_walker, "(inside | (still_open == 0))", "1"),
    "the next tile's address lost": (
        addresses_bench,
        group_walker,
        "waits & (~is_open | self.last_of_tile)",
        "waits & ~is_open",
    ),
    "a row's address from the last group": (
        addresses_bench,
        group_walker,
        "next_row + stride)",
        "address + stride)",
    ),
    "sums let in a clock early": (
        partial(mover_bench, rows=8),
        row_buffer,
        "remaining <= few + 1)",
        "remaining <= few + 2)",
    ),
    "no heed of a full buffer": (mover_bench, row_buffer, "(needed <= depth)", "(reserved <= depth)"),
    "a row read when it is not there": (buffer_bench, row_buffer, "~((level == 1) & popped)", "1"),
    "room for a row too many": (
        mover_bench,
        row_buffer,
        "(needed == depth + 1) & self.released",
        "needed == depth + 1",
    ),
    "what waits is overtaken": (
        pair_bench,
        pair_queue,
        "Mux(waits, second, offered)",
        "Mux(waits & ~self.before.valid, second, offered)",
    ),
    "what waits is lost": (pair_bench, pair_queue, "m.d.sync += second.eq(offered)", "m.d.sync += second.eq(0)"),
    "a place promised twice": (
        queue_bench,
        reserved_queue,
        "((reserved == depth - 1) & self.reserve)",
        "(reserved == depth)",
    ),
    "an item shown twice": (queue_bench, reserved_queue, "self.behind.valid.eq(waits)", "self.behind.valid.eq(1)"),
    "rows that never leave": (buffer_bench, row_buffer, "(done + popped)", "(done + (popped & self.write))"),
}
"""What is wrong: the bench that has to show it, and the source text that is replaced, by what."""


@pytest.mark.parametrize("name", [*list(MUTANTS)[:1], *(pytest.param(each, marks=LONG) for each in list(MUTANTS)[1:])])
def test_mutants_of_the_drain_are_refuted(name: str, tmp_path: Path) -> None:
    bench, module, old, new = MUTANTS[name]
    steps = 32 if module is row_buffer else 10
    with pytest.raises(CounterexampleError, match=rf"run of {steps} clocks: test_drain_proofs"):
        bench(mutant(module, old, new)).prove(tmp_path, steps=steps)
