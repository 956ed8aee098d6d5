"""The order in which results leave: tile by tile, row by row, in groups from the left, and each group's address."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import payload_register, tile_layout, tile_stream
from halfulp.hw.pair_queue import PairQueue

__all__ = ["GroupAddresses", "GroupWalker", "group_layout"]

STARTED_TILES = 2
"""Tiles between their start and the leaving of their last result."""


def group_layout(config: ArrayConfig) -> data.StructLayout:
    """A group of up to L results on its way through the drain.

    count: how many are valid; group: its place in the row; column: j mod 4 of its first.
    """
    return data.StructLayout(
        {
            "count": unsigned(ceil_log2(config.lanes + 1)),
            "group": unsigned(max(ceil_log2(config.columns // config.lanes), 1)),
            "column": unsigned(2),
            "last_of_row": unsigned(1),
            "last_of_tile": unsigned(1),
            "last_of_gemm": unsigned(1),
        }
    )


class GroupWalker(wiring.Component):
    """Queues tiles, and walks over the groups of each, one a clock where `ready` is 1.

    Members
    -------
    tile : In(tile_stream(config))
    start, started, first_of_gemm : Out
        A tile starts, which one, and whether it is of another GEMM than the one before it: then nothing of that GEMM
        is under way any more.
    valid, group, i, j : Out
        A group, and the position in C of its first result.
    ready : In(1)
        The group is taken.
    closed : In(1)
        The last group of the oldest started tile has left.
    idle : Out(1)
        No tile waits or is under way.
    """

    tile: Any
    start: Signal
    started: Any
    first_of_gemm: Signal
    valid: Signal
    ready: Signal
    group: Any
    i: Signal
    j: Signal
    closed: Signal
    idle: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "tile": In(tile_stream(config)),
                "start": Out(1),
                "started": Out(tile_layout(config)),
                "first_of_gemm": Out(1),
                "valid": Out(1),
                "ready": In(1),
                "group": Out(group_layout(config)),
                "i": Out(tile_layout(config)["row"].shape),
                "j": Out(tile_layout(config)["column"].shape),
                "closed": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        tile, group = self.started, self.group
        waiting = self.tile
        if not self._config.compact:
            m.submodules.queue = queue = PairQueue(shape=tile_layout(self._config))
            wiring.connect(m, wiring.flipped(self.tile), queue.before)
            waiting = queue.behind
        lanes = self._config.lanes
        open_tiles = Signal(range(STARTED_TILES + 1))
        inside_gemm = Signal()
        i, j = payload_register(m, self.i), payload_register(m, self.j)
        first_column = Signal.like(j, reset_less=True)
        columns = Signal.like(tile.columns, reset_less=True)
        columns_left = Signal.like(tile.columns, reset_less=True)
        rows_left = Signal.like(tile.rows, reset_less=True)
        number = Signal.like(group.group, reset_less=True)
        last_tile = Signal(reset_less=True)
        # What follows by these is known a clock before: of the group that is here, whether it is the last of its row
        # and its row the last; whether rows are of one group; and whether another tile may start, but for this one.
        last_of_row = Signal(reset_less=True)
        last_row = Signal(reset_less=True)
        last_of_tile = Signal(reset_less=True)
        one_group = Signal(reset_less=True)
        may_start = Signal(init=1)
        moves = Signal()
        m.d.comb += [
            tile.eq(waiting.p),
            waiting.ready.eq(self.start),
            self.first_of_gemm.eq(~inside_gemm),
            moves.eq(self.valid & self.ready),
            self.start.eq(waiting.valid & may_start & (~self.valid | (self.ready & last_of_tile))),
            group.count.eq(Mux(last_of_row, columns_left, lanes)),
            group.group.eq(number),
            group.column.eq(j[:2]),
            group.last_of_row.eq(last_of_row),
            group.last_of_tile.eq(last_of_tile),
            group.last_of_gemm.eq(last_of_tile & last_tile),
            self.idle.eq(~waiting.valid & (open_tiles == 0)),
        ]
        still_open = Signal.like(open_tiles)
        inside = Signal()
        m.d.comb += [
            still_open.eq(open_tiles + self.start - self.closed),
            inside.eq(Mux(self.start, ~tile.last, inside_gemm)),
        ]
        m.d.sync += [
            open_tiles.eq(still_open),
            inside_gemm.eq(inside),
            # Rounding and seed are held once, for the GEMM under way: another has to wait until the last of it left.
            may_start.eq((still_open != STARTED_TILES) & (inside | (still_open == 0))),
        ]
        with m.If(self.start):
            ends_row, ends_rows = tile.columns <= lanes, tile.rows == 1
            m.d.sync += [
                self.valid.eq(1),
                last_tile.eq(tile.last),
                i.eq(tile.row),
                j.eq(tile.column),
                first_column.eq(tile.column),
                columns.eq(tile.columns),
                columns_left.eq(tile.columns),
                rows_left.eq(tile.rows),
                number.eq(0),
                one_group.eq(ends_row),
                last_of_row.eq(ends_row),
                last_row.eq(ends_rows),
                last_of_tile.eq(ends_row & ends_rows),
            ]
        with m.Elif(moves):
            with m.If(last_of_row):
                m.d.sync += [
                    i.eq(i + 1),
                    j.eq(first_column),
                    columns_left.eq(columns),
                    rows_left.eq(rows_left - 1),
                    number.eq(0),
                    last_of_row.eq(one_group),
                    last_row.eq(rows_left == 2),
                    last_of_tile.eq(one_group & (rows_left == 2)),
                ]
            with m.Else():
                ends_row = columns_left <= 2 * lanes
                m.d.sync += [
                    j.eq(j + lanes),
                    columns_left.eq(columns_left - lanes),
                    number.eq(number + 1),
                    last_of_row.eq(ends_row),
                    last_of_tile.eq(ends_row & last_row),
                ]
            m.d.sync += self.valid.eq(~last_of_tile)
        return m


class GroupAddresses(wiring.Component):
    """The address of the group that leaves next.

    Parameters
    ----------
    config
        Widths of addresses and strides.

    Members
    -------
    start, tile_address, row_stride : In
        A tile starts: byte address of its first result, and bytes from a row to the next, one for a whole GEMM.
    step : In(8)
        Bytes of a whole group.
    left, last_of_row, last_of_tile : In
        A group leaves in this clock, and which one. The first of a tile does so three clocks after its start or later.
    address : Out(config.address_bits)
        Of the group that leaves next.
    """

    start: Signal
    tile_address: Signal
    row_stride: Signal
    step: Signal
    left: Signal
    last_of_row: Signal
    last_of_tile: Signal
    address: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        super().__init__(
            {
                "start": In(1),
                "tile_address": In(config.address_bits),
                "row_stride": In(config.size_bits),
                "step": In(8),
                "left": In(1),
                "last_of_row": In(1),
                "last_of_tile": In(1),
                "address": Out(config.address_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        address = payload_register(m, self.address)
        # Of the next row, known while the groups of this one leave.
        next_row = Signal.like(self.address, reset_less=True)
        stride = Signal.like(self.row_stride, reset_less=True)
        # The tile that started last, until those before it are done with: its first row, and a clock later the second.
        following = Signal.like(self.address, reset_less=True)
        second_row = Signal.like(self.address, reset_less=True)
        waits = Signal()
        is_open = Signal()
        begins_tile, begun = Signal(), Signal()
        begins_row = Signal()
        takes_following = Signal()
        m.d.comb += [
            begins_tile.eq(waits & (~is_open | (self.left & self.last_of_tile))),
            begins_row.eq((waits & ~is_open) | (self.left & self.last_of_row)),
            # Less than `begins_tile`, where a row begins: whether one does comes late.
            takes_following.eq(waits & (~is_open | self.last_of_tile)),
        ]
        m.d.sync += [
            waits.eq(self.start | (waits & ~begins_tile)),
            begun.eq(begins_tile),
            second_row.eq(following + stride),
            is_open.eq(begins_tile | (is_open & ~(self.left & self.last_of_tile))),
        ]
        with m.If(self.start):
            m.d.sync += [stride.eq(self.row_stride), following.eq(self.tile_address)]
        with m.If(begins_row):
            m.d.sync += [
                address.eq(Mux(takes_following, following, next_row)),
                next_row.eq(Mux(takes_following, second_row, next_row + stride)),
            ]
        with m.Else():
            with m.If(self.left):
                m.d.sync += address.eq(address + self.step)
            with m.If(begun):
                # Of a tile that began as soon as it came.
                m.d.sync += next_row.eq(second_row)
        return m
