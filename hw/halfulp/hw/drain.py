"""The drain: finished tiles out of the array, through the rounding lanes, to the writer."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, ResetInserter, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from halfulp.hw.config import ArrayConfig
from halfulp.hw.group_walker import GroupAddresses, GroupWalker, group_layout
from halfulp.hw.interfaces import output_group_layout, output_stream, result_layout, tile_stream
from halfulp.hw.pair_queue import PairQueue
from halfulp.hw.reserved_queue import ReservedQueue
from halfulp.hw.rounder import RoundingLane, RoundingSetup
from halfulp.hw.row_buffer import ResultMover, RowBuffer
from halfulp.hw.threefry import Threefry
from halfulp.numerics.rounding import KINDS

__all__ = [
    "CAPTURE_LATENCY",
    "Drain",
    "acceptance_latency",
    "is_stochastic",
    "position_latency",
    "queued_groups",
    "queued_positions",
    "result_latency",
    "rounding_latency",
]

BLOCK = 4
"""Neighbouring columns that one Threefry output serves."""


def is_stochastic(config: ArrayConfig) -> bool:
    """Whether a stochastic mode is built in."""
    return any(kind.startswith("stochastic") for kind in config.roundings)


def position_latency(config: ArrayConfig) -> int:
    """Clocks from the one in which a position is known to the one in which its result can be read.

    In the pipeline that makes its random bits, and in the queue behind that.
    """
    return _bits_latency(config) + ReservedQueue.latency


def _bits_latency(config: ArrayConfig) -> int:
    return Threefry.latency if is_stochastic(config) else 1


def queued_positions(config: ArrayConfig) -> int:
    """Positions that are in their pipeline or wait behind it, at most: so many that a group a clock goes on."""
    return 1 << ceil_log2(position_latency(config) + 1)


def acceptance_latency(config: ArrayConfig) -> int:
    """Clocks from a tile's acceptance, where no other is under way, until its first group can be read.

    In the queue of tiles, which a compact core has not, one to start, then its position's.
    """
    return (0 if config.compact else PairQueue.latency) + 1 + position_latency(config)


CAPTURE_LATENCY = 2
"""Clocks from the array's `captured` to the one in which a tile's first group can be read: it moves, and is there."""


def rounding_latency(config: ArrayConfig) -> int:
    """Clocks from the one in which a group is read to the one in which it is behind the lanes."""
    return RowBuffer.latency + RoundingLane.latency_of(config)


def result_latency(config: ArrayConfig) -> int:
    """Clocks from the one in which a group is read to the one in which it is at the drain's output."""
    return rounding_latency(config) + ReservedQueue.latency


def queued_groups(config: ArrayConfig) -> int:
    """Groups that are in the lanes or wait behind them, at most: so many that a group a clock goes on."""
    return 1 << ceil_log2(result_latency(config) + 1)


class Drain(wiring.Component):
    """Takes each finished tile out of the array and rounds it, L results a clock, row by row from the left.

    Only results inside of C leave: a row is a run of groups of L, the last of which may be short.

    Members
    -------
    tile : In(tile_stream(config))
        One for each tile that is computed, in order, accepted no later than its last step. Two wait here while two
        more are under way.
    feed_last : In(1)
        A tile's last step enters the array in this clock. Only where `free_soon` was 1 in the clock before, and no
        other entered then.
    top : In
        The array's.
    shift : Out(1)
        The array's.
    free_soon : Out(1)
        A last step may enter in the next clock, where none does in this one. Falls in the clock after `feed_last`, and
        rises less than `halfulp.hw.array.minimum_tile_interval` clocks after it where results leave fast enough.
    output : Out(output_stream(config))
        Rounded results, with their addresses.
    invalid, overflow : Out(1)
        1 for a clock: a result that left had no code for its NaN, or was beyond the largest finite one.
    flush : In(1)
        Drop everything. Must last until the array is empty: R + C + 40 clocks.
    idle : Out(1)
        No tile is waiting or under way.

    Each group's position enters a pipeline as soon as its tile has started and fewer than `queued_positions` are there;
    behind it, with its random bits, it waits for its row, `position_latency` clocks after it entered at the earliest,
    and from there it takes `result_latency` clocks to `output`. A group a clock is read, each in the first clock in
    which

    - the array's `captured` was 1 for its tile at least `CAPTURE_LATENCY` clocks before (plus one for each row before
      its own),
    - it has come through: a tile accepted while nothing is under way gets there in `acceptance_latency` clocks,
    - there is room for it behind the lanes, where `queued_groups` results of lanes can wait or be under way to.

    So nothing halts on its way, neither positions nor results: each has a place behind its pipeline before it sets out,
    and no signal has to reach all registers of a pipeline at once.

    A tile starts when all groups of the one before have entered, the last group of the one before that has left
    the lanes, and, for the first tile of a GEMM, the last group of the GEMM before has. Whole tiles of K steps so
    follow each other without a gap from K = max(`minimum_tile_interval`, rows · C / L) on, where as well two tiles' K
    is no less than `position_latency` + `rounding_latency` + rows · C / L.
    """

    tile: Any
    feed_last: Signal
    top: Any
    shift: Signal
    free_soon: Signal
    output: Any
    invalid: Signal
    overflow: Signal
    flush: Signal
    idle: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        if not isinstance(config, ArrayConfig):
            raise TypeError(f"config must be an ArrayConfig, not {config!r}")
        self._config = config
        super().__init__(
            {
                "tile": In(tile_stream(config)),
                "feed_last": In(1),
                "top": In(data.ArrayLayout(result_layout(config), config.columns)),
                "shift": Out(1),
                "free_soon": Out(1),
                "output": Out(output_stream(config)),
                "invalid": Out(1),
                "overflow": Out(1),
                "flush": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        m.submodules.flushable = ResetInserter(self.flush)(self._elaborate())
        return m

    def _elaborate(self) -> Module:
        m = Module()
        m.submodules.walker = walker = GroupWalker(config=self._config)
        m.submodules.mover = mover = ResultMover(config=self._config)
        m.submodules.buffer = buffer = RowBuffer(config=self._config)
        m.submodules.setup = setup = RoundingSetup(config=self._config)
        m.submodules.addresses = addresses = GroupAddresses(config=self._config)
        wiring.connect(m, wiring.flipped(self.tile), walker.tile)
        accepted = self.tile.valid & self.tile.ready
        m.d.comb += [
            mover.accept.eq(accepted),
            mover.rows.eq(self.tile.payload.rows),
            mover.feed_last.eq(self.feed_last),
            self.free_soon.eq(mover.free_soon),
            self.shift.eq(mover.shift),
            buffer.write.eq(mover.shift),
            buffer.row.eq(self.top),
            setup.load.eq(walker.start & walker.first_of_gemm),
            setup.tile.eq(walker.started),
        ]

        # Positions: each has a place behind their pipeline before it enters.
        lanes = self._config.lanes
        place_layout = data.StructLayout({"group": group_layout(self._config), "randoms": 16 * lanes})
        m.submodules.places = places = ReservedQueue(shape=place_layout, depth=queued_positions(self._config))
        enters = Signal()
        front = _Groups(m, "front", self._config, _bits_latency(self._config), enters, walker.group)
        m.d.comb += [
            walker.ready.eq(places.room),
            enters.eq(walker.valid & places.room),
            places.reserve.eq(enters),
            places.valid.eq(front.valid[-1]),
            places.item.group.eq(front.groups[-1]),
            places.item.randoms.eq(self._random_bits(m, setup, walker, enters, front)),
        ]
        found: Any = places.behind.p.group

        # Results: each has a place behind the lanes before it is read.
        results_layout = data.StructLayout(
            {"group": output_group_layout(self._config), "invalid": unsigned(1), "overflow": unsigned(1)}
        )
        m.submodules.queue = queue = ReservedQueue(shape=results_layout, depth=queued_groups(self._config))
        read = Signal()
        back = _Groups(m, "back", self._config, rounding_latency(self._config), read, found)
        last = back.groups[-1]
        m.d.comb += [
            read.eq(places.behind.valid & places.behind.ready),
            places.behind.ready.eq(buffer.available & queue.room),
            buffer.read.eq(read),
            buffer.group.eq(found.group),
            buffer.pop.eq(found.last_of_row),
            mover.released.eq(read & found.last_of_row),
        ]
        randoms = [places.behind.p.randoms.word_select(lane, 16) for lane in range(lanes)]
        codes, invalid, overflow = self._lanes(m, setup.rounding, back, buffer.results, randoms)

        left = back.valid[-1]
        group, leaves = queue.item.group, queue.behind.p
        m.d.comb += [
            walker.closed.eq(left & last["last_of_tile"]),
            addresses.start.eq(walker.start),
            addresses.tile_address.eq(walker.started.address),
            addresses.row_stride.eq(walker.started.c_stride),
            addresses.step.eq(Const(lanes) << setup.rounding.bytes_log2),
            addresses.left.eq(left),
            addresses.last_of_row.eq(last["last_of_row"]),
            addresses.last_of_tile.eq(last["last_of_tile"]),
            queue.reserve.eq(read),
            queue.valid.eq(left),
            group.address.eq(addresses.address),
            group.bytes_log2.eq(setup.rounding.bytes_log2),
            group.count.eq(last["count"]),
            group.last_of_row.eq(last["last_of_row"]),
            group.last_of_gemm.eq(last["last_of_gemm"]),
            *(group.codes[number].eq(code) for number, code in enumerate(codes)),
            queue.item.invalid.eq(_any_of_first(invalid, last["count"])),
            queue.item.overflow.eq(_any_of_first(overflow, last["count"])),
            self.output.valid.eq(queue.behind.valid),
            self.output.p.eq(leaves.group),
            queue.behind.ready.eq(self.output.ready),
            self.invalid.eq(self.output.valid & self.output.ready & leaves.invalid),
            self.overflow.eq(self.output.valid & self.output.ready & leaves.overflow),
            self.idle.eq(walker.idle & mover.idle & queue.idle),
        ]
        return m

    def _random_bits(
        self, m: Module, setup: RoundingSetup, walker: GroupWalker, enters: Signal, front: _Groups
    ) -> Value:
        """16 random bits a lane for the group at the end of the position pipeline; `enters`: the walker's does."""
        lanes = self._config.lanes
        if not is_stochastic(self._config):
            return Const(0, 16 * lanes)
        words: list[Value] = []
        in_use = Signal()  # the GEMM is of a stochastic mode
        with m.If(setup.load):
            stochastic = [n for n, kind in enumerate(KINDS) if kind.startswith("stochastic")]
            m.d.sync += in_use.eq(walker.started.rounding_mode.matches(*stochastic))
        for number in range(max(lanes // BLOCK, 1)):
            generator = Threefry()
            m.submodules[f"threefry_{number}"] = generator
            m.d.comb += [
                generator.load.eq(setup.load),
                generator.key.eq(walker.started.seed),
                generator.valid.eq(enters & in_use),
                generator.counter[0].eq(walker.i),
                generator.counter[1].eq(walker.j[2:] + number),
            ]
            words += [generator.words[0], generator.words[1]]
        bits = Cat(words)
        if lanes < BLOCK:
            # A group of fewer lanes lies inside one block of 4 columns, at a multiple of its size.
            bits = bits.word_select(front.groups[-1]["column"][ceil_log2(lanes) :], 16 * lanes)
        return bits

    def _lanes(
        self, m: Module, rounding: Any, back: _Groups, results: Any, randoms: list[Value]
    ) -> tuple[list[Signal], list[Signal], list[Signal]]:
        """The rounding lanes, `randoms` those of the group that is read; returns their codes and flags."""
        rounded: tuple[list[Signal], list[Signal], list[Signal]] = [], [], []
        for number, random in enumerate(randoms):
            lane = RoundingLane(config=self._config)
            m.submodules[f"lane_{number}"] = lane
            for stage in range(RowBuffer.latency):
                register = Signal(16, name=f"random_{number}_{stage}", reset_less=True)
                m.d.sync += register.eq(random)
                random = register
            m.d.comb += [
                lane.rounding.eq(rounding),
                lane.valid.eq(back.valid[RowBuffer.latency - 1]),
                lane.result.eq(results[number]),
                lane.random.eq(random),
            ]
            for values, value in zip(rounded, (lane.code, lane.invalid, lane.overflow), strict=True):
                values.append(value)
        return rounded


def _any_of_first(flags: list[Signal], count: Value) -> Value:
    """Whether one of the first `count` flags is set."""
    return Cat(flag & (number < count) for number, flag in enumerate(flags)).any()


class _Groups:
    """A pipeline of groups; `valid` and `groups` are its stages."""

    def __init__(
        self, m: Module, name: str, config: ArrayConfig, length: int, valid: Value, group: data.View[data.StructLayout]
    ) -> None:
        self.valid = Signal(length, name=f"{name}_valid")
        self.groups: list[Any] = []
        m.d.sync += self.valid.eq(Cat(valid, self.valid))
        for stage in range(length):
            register: Any = Signal(group_layout(config), name=f"{name}_group_{stage}", reset_less=True)
            m.d.sync += register.eq(group)
            self.groups.append(register)
            group = register
