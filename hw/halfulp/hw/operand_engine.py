"""From descriptors to the array's edge: planner, loader, reader, operand buffers, tile walk and sequencer."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, ResetInserter, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from halfulp.hw.burst_reader import BurstReader
from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import ArrayFeedSignature, AxiReadSignature, descriptor_layout, tile_layout
from halfulp.hw.loader import Loader
from halfulp.hw.operand_buffer import OperandBuffer
from halfulp.hw.pair_queue import PairQueue
from halfulp.hw.planner import Planner
from halfulp.hw.sequencer import Sequencer
from halfulp.hw.tile_walk import TileWalk
from halfulp.hw.word_seeds import WordSeeds

__all__ = ["OperandEngine"]


class OperandEngine(wiring.Component):
    """Read both operands of each GEMM through AXI and feed the array, one step of K a clock.

    The order of loads and tiles is `schedule.GemmPlan`'s; when each can happen is said in `Planner`, `Loader`,
    `BurstReader`, `OperandBuffer`, `TileWalk` and `Sequencer`. The loader runs ahead of the array as far as the
    buffers reach, and into the next descriptor.

    Parameters
    ----------
    config
        The core.

    Members
    -------
    descriptor
        GEMMs, checked. One leaves its queue when the array's side starts it; until then the loader works from the
        queue's head.
    axi
        Read channels.
    feed
        To the array. Bubbles where operands are missing or results have no place.
    tile
        To the drain: offered from the tile's first step on, taken before its last step is issued.
    drain_free_soon
        A last step may be issued in the next clock. A 1 stands until the tile's last step leaves through `feed`.
    read_stall, write_stall
        The array waits for operands; for results to leave.
    error, error_address
        Pulse: a read failed; address of its burst.
    at_rest
        No GEMM is under way in the core, nor anything of one in the array: the next step may come in any clock.
    flush
        Drop everything. Bursts in flight are taken; hold it until `idle`.
    idle
        Nothing is going on, on the bus either. A descriptor that is offered is not looked at.
    """

    descriptor: stream.Interface
    axi: Any
    feed: Any
    tile: stream.Interface
    drain_free_soon: Signal
    read_stall: Signal
    write_stall: Signal
    error: Signal
    error_address: Signal
    at_rest: Signal
    flush: Signal
    idle: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "descriptor": In(stream.Signature(descriptor_layout(config))),
                "axi": Out(AxiReadSignature(config.bus_width)),
                "feed": Out(ArrayFeedSignature(config)),
                "tile": Out(stream.Signature(tile_layout(config))),
                "drain_free_soon": In(1),
                "read_stall": Out(1),
                "write_stall": Out(1),
                "error": Out(1),
                "error_address": Out(config.address_bits),
                "at_rest": In(1),
                "flush": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Wire the parts."""
        m = Module()
        config = self._config
        planner, loader, reader = Planner(config=config), Loader(config=config), BurstReader(config=config)
        walk, sequencer = TileWalk(config=config), Sequencer(config=config)
        a, b = OperandBuffer(config=config, operand=0), OperandBuffer(config=config, operand=1)
        # The reader alone must see the bus through a flush.
        m.submodules.reader = reader
        for name, part in (
            ("planner", planner),
            ("loader", loader),
            ("walk", walk),
            ("sequencer", sequencer),
            ("a_buffer", a),
            ("b_buffer", b),
        ):
            m.submodules[name] = ResetInserter(self.flush)(part)

        # The queue's head is loaded first, then walked, which takes it off the queue.
        loading = Signal()
        start_walk = planner.valid & loading
        m.d.comb += [
            planner.descriptor.eq(self.descriptor.payload),
            planner.offered.eq(self.descriptor.valid),
            planner.taken.eq(self.descriptor.ready),
            loader.descriptor.eq(self.descriptor.payload),
            loader.start.eq(planner.valid & ~loading),
            walk.descriptor.eq(self.descriptor.payload),
            walk.start.eq(start_walk),
            walk.hold.eq(sequencer.tile_pending),
            self.descriptor.ready.eq(start_walk & walk.ready & ~self.flush),
        ]
        for name in planner.plan.signature.members:
            m.d.comb += [
                getattr(loader.plan, name).eq(getattr(planner.plan, name)),
                getattr(walk.plan, name).eq(getattr(planner.plan, name)),
            ]
        with m.If(self.flush | self.descriptor.ready):
            m.d.sync += loading.eq(0)
        with m.Elif(loader.start & loader.ready):
            m.d.sync += loading.eq(1)

        lines_idle = self._queue_lines(m, loader, reader)
        self._start_tiles(m, walk, sequencer)
        wiring.connect(m, sequencer.a_step, a.step)
        wiring.connect(m, sequencer.b_step, b.step)
        for buffer in (a, b):
            for name in reader.beat.signature.members:
                m.d.comb += getattr(buffer.beat, name).eq(getattr(reader.beat, name))
        wiring.connect(m, wiring.flipped(self.axi), reader.axi)
        wiring.connect(m, sequencer.tile, wiring.flipped(self.tile))

        m.d.comb += [
            reader.flush.eq(self.flush),
            sequencer.arrived.eq(reader.arrived),
            loader.freed.eq(Cat(a.freed, b.freed)),
            loader.freed_parity.eq(Cat(a.freed_parity, b.freed_parity)),
            sequencer.drain_free_soon.eq(self.drain_free_soon),
            sequencer.at_rest.eq(self.at_rest),
            self.read_stall.eq(sequencer.read_stall),
            self.write_stall.eq(sequencer.write_stall),
            self.error.eq(reader.error),
            self.error_address.eq(reader.error_address),
            self.idle.eq(loader.idle & lines_idle & walk.idle & sequencer.idle & reader.idle),
            self.feed.a_code.eq(a.codes),
            self.feed.b_code.eq(b.codes),
        ]
        for name in ("valid", "first", "last", "a_format", "b_format"):
            m.d.comb += getattr(self.feed, name).eq(getattr(sequencer, name))
        return m

    def _queue_lines(self, m: Module, loader: Loader, reader: BurstReader) -> Value:
        """Register the loader's lines for the reader; return whether none waits.

        Two can wait, so that no path leads from the bus into the loader. In a compact core one can.
        """
        offered, taken = loader.line, reader.line
        names = [name for name in offered.signature.members if name not in ("valid", "ready")]
        before, behind = (Cat(getattr(line, name) for name in names) for line in (offered, taken))
        valid, shown = Signal(name="line_valid"), Signal(len(before), name="line", reset_less=True)
        if self._config.compact:
            m.d.comb += offered.ready.eq(~valid | taken.ready)
            with m.If(offered.ready):
                m.d.sync += [valid.eq(offered.valid), shown.eq(before)]
            with m.If(self.flush):
                m.d.sync += valid.eq(0)
        else:
            queue = PairQueue(shape=unsigned(len(before)))
            m.submodules.lines = ResetInserter(self.flush)(queue)
            m.d.comb += [
                queue.before.valid.eq(offered.valid),
                queue.before.p.eq(before),
                offered.ready.eq(queue.before.ready),
                queue.behind.ready.eq(taken.ready),
                valid.eq(queue.behind.valid),
                shown.eq(queue.behind.p),
            ]
        m.d.comb += [taken.valid.eq(valid), behind.eq(shown)]
        return ~valid

    def _start_tiles(self, m: Module, walk: TileWalk, sequencer: Sequencer) -> None:
        """Pass segments on; the first one of a tile once the tile's random words have been made, where it needs any."""
        offered, taken = walk.segment, sequencer.segment
        if not self._config.step_random_bits:
            wiring.connect(m, offered, taken)
            return
        seeds = WordSeeds(config=self._config)
        m.submodules.seeds = ResetInserter(self.flush)(seeds)
        may_start = ~offered.starts | seeds.ready
        m.d.comb += [
            *(getattr(taken, name).eq(getattr(offered, name)) for name in taken.signature.members if name != "ready"),
            taken.valid.eq(offered.valid & may_start),
            offered.ready.eq(taken.ready & may_start),
            seeds.offered.eq(offered.valid & offered.starts),
            seeds.taken.eq(taken.valid & taken.ready & taken.starts),
            seeds.first.eq(sequencer.valid & sequencer.first),
            seeds.row.eq(offered.tile_row),
            seeds.column.eq(offered.tile_column),
            seeds.key.eq(offered.tile_seed),
            self.feed.seed.eq(seeds.seed),
        ]
