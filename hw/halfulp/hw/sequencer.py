"""The clock-by-clock side: issues the steps of a segment as its blocks arrive and the drain allows."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import tile_layout
from halfulp.hw.operand_buffer import OperandBuffer, StepSignature
from halfulp.hw.schedule import block_steps
from halfulp.hw.segments import TILE_CONSTANTS, TILE_PLACE, SegmentSignature, block_count_bits

__all__ = ["Sequencer"]


class Sequencer(wiring.Component):
    """Issue one step of K a clock, or every P clocks where the array is interleaved P times, tile after tile.

    A step is issued in a clock in which, for both operands, the block that holds it has arrived: block
    (k + slack) div `block_steps` of the segment, or its last, 2 clocks after its last beat was on the bus; slack is
    a bus word's elements less one where rows may begin within a bus word, else 0. A tile's last step also needs
    `drain_free_soon` in the clock before, that no other last step was on its way to the array then (the
    `OperandBuffer.latency` clocks after it was issued), and that the tile was taken by then. A segment that is ready
    in time follows the one before without a bubble, but for a tile of one step, which waits a clock for its tile.

    Parameters
    ----------
    config
        The core.

    Members
    -------
    segment
        From the `TileWalk`.
    arrived
        Pulse an operand: the last beat of a block of it is on the bus.
    a_step, b_step
        To the buffers.
    valid, first, last, a_format, b_format
        Of the array's feed, `OperandBuffer.latency` clocks after the step.
    tile
        Offered from the clock after its first segment is taken.
    tile_pending
        The tile is still offered.
    drain_free_soon, read_stall, write_stall, at_rest
        As in `OperandEngine`.
    idle
        No step is waiting, nor on its way to the array.
    """

    segment: Any
    arrived: Signal
    a_step: Any
    b_step: Any
    valid: Signal
    first: Signal
    last: Signal
    a_format: Signal
    b_format: Signal
    tile: stream.Interface
    tile_pending: Signal
    drain_free_soon: Signal
    read_stall: Signal
    write_stall: Signal
    at_rest: Signal
    idle: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "segment": In(SegmentSignature(config)),
                "arrived": In(2),
                "a_step": Out(StepSignature(config, config.a_bytes)),
                "b_step": Out(StepSignature(config, config.b_bytes)),
                "valid": Out(1),
                "first": Out(1),
                "last": Out(1),
                "a_format": Out(3),
                "b_format": Out(3),
                "tile": Out(stream.Signature(tile_layout(config))),
                "tile_pending": Out(1),
                "drain_free_soon": In(1),
                "read_stall": Out(1),
                "write_stall": Out(1),
                "at_rest": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build the issue stage."""
        m = Module()
        segment, tile = self.segment, self.tile
        latency = OperandBuffer.latency
        active, offered = Signal(), Signal()
        steps_left = Signal.like(segment.steps, reset_less=True)
        begins = Signal(reset_less=True)
        ends_tile = Signal(reset_less=True)
        place = {name: Signal(tile.p[name].shape(), name=name, reset_less=True) for name in TILE_PLACE}
        go, take = Signal(), Signal()
        # Whether a tile's last step may be issued, a register, for the drain is far away and the step leads far.
        may_end, still_offered = Signal(), Signal()
        # The step is its segment's last, and its tile's last.
        final, ends = Signal(reset_less=True), Signal(reset_less=True)
        # What is on its way to the array: bit 0 entered the buffers last.
        valid_coming, last_coming = Signal(latency), Signal(latency)
        first_coming = Signal(latency, reset_less=True)

        here = [self._follow(m, number, take=take, go=go, final=final) for number in (0, 1)]
        arrived = here[0] & here[1]
        turn = self._take_turns(m, go)
        m.d.comb += [
            still_offered.eq(offered & ~tile.ready),
            go.eq(active & arrived & (~ends | may_end) & turn),
            segment.ready.eq(~active | (go & final)),
            take.eq(segment.valid & segment.ready),
            self.read_stall.eq(self._for_a_step(m, "read_stall", turn, active & ~arrived)),
            self.write_stall.eq(self._for_a_step(m, "write_stall", turn, active & arrived & ends & ~may_end)),
            self.idle.eq(~active & ~offered & (valid_coming == 0)),
            self.tile_pending.eq(offered),
            tile.valid.eq(offered),
            *(tile.p[name].eq(place[name]) for name in TILE_PLACE),
            *(tile.p[name].eq(getattr(segment, f"tile_{name}")) for name in TILE_CONSTANTS),
        ]
        with m.If(go):
            m.d.sync += [
                steps_left.eq(steps_left - 1),
                final.eq(steps_left == 1),
                ends.eq((steps_left == 1) & ends_tile),
                begins.eq(0),
            ]
            with m.If(final):
                m.d.sync += active.eq(0)
        # Whatever segment comes next, so that steps do not enable these registers.
        with m.If(~still_offered):
            m.d.sync += [place[name].eq(getattr(segment, f"tile_{name}")) for name in TILE_PLACE]
        m.d.sync += [
            offered.eq(still_offered | (take & segment.starts)),
            may_end.eq(
                self.drain_free_soon & (last_coming == 0) & ~(go & ends) & ~still_offered & ~(take & segment.starts)
            ),
        ]
        with m.If(take):
            m.d.sync += [
                active.eq(1),
                steps_left.eq(segment.steps),
                final.eq(segment.steps == 0),
                ends.eq((segment.steps == 0) & segment.ends),
                begins.eq(segment.starts),
                ends_tile.eq(segment.ends),
            ]

        m.d.sync += [
            valid_coming.eq(Cat(go, valid_coming)),
            last_coming.eq(Cat(go & ends, last_coming)),
            first_coming.eq(Cat(begins, first_coming)),
        ]
        m.d.comb += [
            self.valid.eq(valid_coming[-1]),
            self.first.eq(first_coming[-1]),
            self.last.eq(last_coming[-1]),
        ]
        for role, leaving in (("a", self.a_format), ("b", self.b_format)):
            entering = Signal(3, name=f"{role}_format_entering", reset_less=True)
            coming = Signal(3 * latency, name=f"{role}_format_coming", reset_less=True)
            with m.If(take):
                m.d.sync += entering.eq(getattr(segment, f"tile_{role}_format"))
            m.d.sync += coming.eq(Cat(entering, coming))
            m.d.comb += leaving.eq(coming[-3:])
        return m

    def _take_turns(self, m: Module, go: Value) -> Value:
        """Whether a step can be issued in this clock, of an interleaved array: every P clocks from the first step on.

        A core at rest takes the first step in any clock, so that a GEMM's clocks do not depend on when it is started.
        """
        interval = self._config.interleave
        if interval == 1:
            return Const(1)
        clock = Signal(range(interval), name="clock_of_step")
        is_fresh = Signal(init=1, name="no_step_since_rest")
        with m.If(self.at_rest):
            m.d.sync += is_fresh.eq(1)
        with m.Elif(go):
            m.d.sync += is_fresh.eq(0)
        m.d.sync += clock.eq(Mux((is_fresh & ~go) | (clock == interval - 1), 0, clock + 1))
        return clock == 0

    def _for_a_step(self, m: Module, name: str, turn: Value, state: Value) -> Value:
        """What holds where a step could be issued, and until the next one could be."""
        if self._config.interleave == 1:
            return state
        held = Signal(name=f"{name}_held")
        with m.If(turn):
            m.d.sync += held.eq(state)
        return Mux(turn, state, held)

    def _follow(self, m: Module, number: int, *, take: Value, go: Value, final: Value) -> Value:
        """Walk one operand's slot of the segment; return whether the step's block has arrived."""
        config, segment, role = self._config, self.segment, "ab"[number]
        element_bytes = config.b_bytes if number else config.a_bytes
        slack = config.bus_bytes // element_bytes - 1
        lane_bits = ceil_log2(slack + 1)
        step = self.b_step if number else self.a_step
        count_bits = block_count_bits(config)

        position = Signal.like(step.position, name=f"{role}_position", reset_less=True)
        offset = Signal.like(step.offset, name=f"{role}_offset", reset_less=True)
        stride = Signal.like(step.stride, name=f"{role}_stride", reset_less=True)
        across = Signal(name=f"{role}_across", reset_less=True)
        first = Signal(name=f"{role}_first", reset_less=True)
        free = Signal(name=f"{role}_free", reset_less=True)
        parity = Signal(name=f"{role}_parity", reset_less=True)
        # Blocks that have arrived, and how many of them are beyond what this step needs: below 0, what it waits for.
        # Blocks after its own in the segment, the step's place in its block, and whether the next step is in the next.
        arrived = Signal(count_bits, name=f"{role}_arrived")
        beyond = Signal(signed(count_bits), name=f"{role}_beyond", reset_less=True)
        blocks_left = Signal.like(segment.blocks, name=f"{role}_blocks_left", reset_less=True)
        in_block = Signal(range(block_steps(config)), name=f"{role}_in_block", reset_less=True)
        crosses = Signal(name=f"{role}_crosses", reset_less=True)
        # Whether the present step's block has arrived, decided a clock before, from the three steps that it may be.
        has = Signal(name=f"{role}_has")
        comes = self.arrived[number]
        m.d.sync += [arrived.eq(arrived + comes), has.eq(beyond >= 0), beyond.eq(beyond + comes)]
        with m.If(go):
            m.d.sync += [
                position.eq(position + 1),
                first.eq(0),
                in_block.eq(in_block + 1),
                crosses.eq((in_block == block_steps(config) - 2) & (blocks_left != 0)),
            ]
            with m.If(crosses):
                m.d.sync += [
                    blocks_left.eq(blocks_left - 1),
                    has.eq(beyond > 0),
                    beyond.eq(beyond - ~comes),
                ]
        # Less one, and less one where none comes: by an adder's carry. Counts differ by less than half of their range.
        others = ~getattr(segment, f"{role}_block")
        at_first = (arrived + others)[:count_bits].as_signed()
        after_it = (Cat(1, arrived) + Cat(comes, others))[1 : count_bits + 1].as_signed()
        with m.If(take):
            m.d.sync += [
                position.eq(Cat(Const(0, lane_bits), getattr(segment, f"{role}_word"))),
                first.eq(1),
                across.eq(getattr(segment, f"{role}_across")),
                offset.eq(getattr(segment, f"{role}_offset")),
                stride.eq(getattr(segment, f"{role}_stride")),
                free.eq(getattr(segment, f"{role}_free")),
                parity.eq(segment.parity),
                has.eq(at_first >= 0),
                beyond.eq(after_it),
                blocks_left.eq(segment.blocks),
                crosses.eq(0),
                in_block.eq(Mux(getattr(segment, f"{role}_slack"), slack, 0)),
            ]
        m.d.comb += [
            step.valid.eq(go),
            step.position.eq(position),
            step.first.eq(first),
            step.across.eq(across),
            step.offset.eq(offset),
            step.stride.eq(stride),
            step.free.eq(free & final),
            step.parity.eq(parity),
        ]
        return has
