"""The first random words of each tile's rows and columns, made while the tile before computes."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import seed_layout
from halfulp.hw.threefry import Threefry
from halfulp.numerics.random_bits import COLUMN_COUNTER, ROW_COUNTER

__all__ = ["WordSeeds"]


class WordSeeds(wiring.Component):
    """Word 0 of Threefry(seed, (i, 2**30)) a row i, of Threefry(seed, (j, 2**31)) a column j, zero replaced by 1.

    One Threefry makes a word a clock: those of a tile take R + C + `Threefry.latency` + 2 clocks from the first step of
    the tile before, or from when the tile is offered, and so the tiles of a GEMM are at least that, and the way from
    the sequencer to the array, apart.

    Members
    -------
    offered, row, column, key : In
        A tile is ready to be started, and its first row, first column and seed.
    ready : Out(1)
        Its words have been made: it may be taken.
    taken : In(1)
        It was.
    first : In(1)
        A tile's first step enters the array.
    seed : Out(seed_layout(config))
        To the array: rows, then columns.
    """

    offered: Signal
    row: Signal
    column: Signal
    key: Signal
    ready: Signal
    taken: Signal
    first: Signal
    seed: data.View[data.StructLayout]

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "offered": In(1),
                "row": In(32),
                "column": In(32),
                "key": In(64),
                "ready": Out(1),
                "taken": In(1),
                "first": In(1),
                "seed": Out(seed_layout(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build the block."""
        m = Module()
        rows, words = self._config.rows, self._config.rows + self._config.columns
        m.submodules.threefry = threefry = Threefry()
        # The array keeps one tile's words beside those in use: they must have been taken before the next ones come.
        kept, busy = Signal(), Signal()
        clock = Signal(range(words + Threefry.latency))
        is_row: Value = clock < rows
        counter = Signal(32)
        m.d.comb += [
            counter.eq(Mux(is_row, self.row + clock, self.column + clock - rows)),
            threefry.load.eq(self.offered & ~self.ready & ~busy & ~kept),
            threefry.key.eq(self.key),
            threefry.valid.eq(busy),
            threefry.counter[0].eq(counter),
            threefry.counter[1].eq(Mux(is_row, ROW_COUNTER, COLUMN_COUNTER)),
            self.seed.valid.eq(busy & (clock >= Threefry.latency)),
            self.seed.index.eq(clock - Threefry.latency),
            self.seed.word.eq(threefry.words[0] | (threefry.words[0] == 0)),
        ]
        with m.If(self.first):
            m.d.sync += kept.eq(0)
        with m.If(self.taken):
            m.d.sync += [kept.eq(1), self.ready.eq(0)]
        with m.If(threefry.load):
            m.d.sync += [busy.eq(1), clock.eq(0)]
        with m.If(busy):
            m.d.sync += clock.eq(clock + 1)
            with m.If(clock == words + Threefry.latency - 1):
                m.d.sync += [busy.eq(0), self.ready.eq(1)]
        return m
