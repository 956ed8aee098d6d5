"""The order of tiles: which panels, slots and part of K come next, prepared while the array works on the one before."""

from __future__ import annotations

import enum
from typing import Any, TypeAlias

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import descriptor_layout, payload_registers
from halfulp.hw.planner import PlanSignature, is_at_most, more_panels, split_conditions, times
from halfulp.hw.schedule import MAX_GROUP, block_steps, chunk_steps
from halfulp.hw.segments import TILE_CONSTANTS, SegmentSignature
from halfulp.hw.walk_state import GemmWalk, OperandWalk, Sum

__all__ = ["TileWalk"]


_Operands: TypeAlias = tuple[OperandWalk, OperandWalk]
"""Those of A and B."""


class _State(enum.IntEnum):
    """Bits of the state, of which one is 1: hundreds of registers look at one or another."""

    IDLE = 0
    TAKE = 1
    MEASURE = 2
    PREPARE = 3
    READY = 4
    MOVE = 5


class TileWalk(wiring.Component):
    """Walk the segments of a GEMM as `schedule.GemmPlan.segments` lists them.

    Clocks. A GEMM is taken in a clock in which `start` and `ready` are 1: `ready` is 1 for a clock, the one after
    `start` was seen with `hold` 0, and `start` has to stand until then. Three clocks later its first segment is valid.
    A segment taken in clock t is followed by the next in clock t + `period`; after a GEMM's last segment `start` is
    looked at from clock t + 2 on.

    Parameters
    ----------
    config
        The core.

    Members
    -------
    descriptor, plan, start, ready
        The GEMM to walk.
    hold
        The constants of the GEMM that was walked are still needed.
    segment
        The next segment.
    """

    descriptor: Any
    plan: Any
    start: Signal
    ready: Signal
    hold: Signal
    segment: Any
    idle: Signal

    period = 4

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "descriptor": In(descriptor_layout(config)),
                "plan": In(PlanSignature(config)),
                "start": In(1),
                "ready": Out(1),
                "hold": In(1),
                "segment": Out(SegmentSignature(config)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build the walk."""
        m = Module()
        config = self._config
        walk = GemmWalk(config=config)
        operands = a, b = OperandWalk(config=config, number=0), OperandWalk(config=config, number=1)
        segment = payload_registers(m, self.segment)
        state = Signal(len(_State), init=1 << _State.IDLE)
        address = Sum(a.here.share, b.here.share, "address")
        m.d.sync += [
            *address.follow(),
            walk.next_x.eq(Mux(walk.x == MAX_GROUP, MAX_GROUP, walk.x + 1)),
            walk.next_y.eq(Mux(walk.y == MAX_GROUP, MAX_GROUP, walk.y + 1)),
        ]
        for operand in operands:
            m.d.sync += [
                operand.next_left.eq(operand.here.left - operand.lanes),
                *operand.next_share.follow(),
                operand.next_offset.eq(operand.here.offset + operand.panel_stride),
            ]
        if config.compact:
            # The descriptor stands until the GEMM's end.
            self._keep(m, "comb", walk, operands, segment)
        m.d.comb += [
            self.idle.eq(state[_State.IDLE]),
            self.ready.eq(state[_State.TAKE]),
            self.segment.valid.eq(state[_State.READY]),
        ]
        with m.If(state[_State.IDLE]):
            with m.If(self.start & ~self.hold):
                m.d.sync += state.eq(1 << _State.TAKE)
        with m.If(state[_State.TAKE]):
            self._take(m, walk, operands)
            if not config.compact:
                self._keep(m, "sync", walk, operands, segment)
            m.d.sync += state.eq(1 << _State.MEASURE)
        with m.If(state[_State.MEASURE]):
            m.d.sync += [
                *(operand.split.eq(split_conditions(walk, operand.here.left)) for operand in operands),
                *(operand.is_last.eq(is_at_most(operand.here.left, operand.lanes)) for operand in operands),
                # A new group begins with x = 0, which is its end only where groups have one panel.
                walk.at_end.eq(Mux(walk.new_group, walk.whole == 0, walk.x == walk.end)),
                walk.meets.eq(Mux(walk.along_streamed, walk.y + 1 == walk.x, walk.y == walk.x)),
                walk.tile_ends.eq(~walk.chunked | is_at_most(walk.k_left, chunk_steps(self._config))),
                state.eq(1 << _State.PREPARE),
            ]
        with m.If(state[_State.PREPARE]):
            self._prepare(m, walk, operands, segment)
            m.d.sync += segment.tile_address.eq(address.soon)
            m.d.sync += state.eq(1 << _State.READY)
        with m.If(state[_State.READY]):
            self._decide(m, walk, operands)
            with m.If(self.segment.ready):
                m.d.sync += state.eq(1 << _State.MOVE)
        with m.If(state[_State.MOVE]):
            self._move(m, walk, operands)
            m.d.sync += state.eq(Mux(walk.gemm_ends, 1 << _State.IDLE, 1 << _State.MEASURE))
        return m

    def _take(self, m: Module, walk: GemmWalk, operands: _Operands) -> None:
        """Go to the GEMM's first panels. Slots go on where the last GEMM's ended."""
        config, descriptor = self._config, self.descriptor
        m.d.sync += [
            walk.k_left.eq(descriptor.k),
            walk.new_group.eq(1),
            walk.x.eq(0),
            walk.y.eq(0),
            walk.along_streamed.eq(0),
        ]
        if not config.compact:
            m.d.sync += walk.parity.eq(~walk.parity)
        sizes, shares = (descriptor.m, descriptor.n), (descriptor.c_address, 0)
        for operand, size, share in zip(operands, sizes, shares, strict=True):
            inside = slice(ceil_log2(operand.bytes), ceil_log2(config.bus_bytes))
            along_k = ~descriptor[f"{operand.role}_across_k"]
            offset = Mux(along_k, descriptor[f"{operand.role}_address"][inside], 0)
            for place in (operand.here, operand.origin):
                m.d.sync += [place.left.eq(size), place.share.eq(share), place.offset.eq(offset)]

    def _keep(self, m: Module, domain: str, walk: GemmWalk, operands: _Operands, segment: Any) -> None:
        """What holds for the whole GEMM, of its descriptor and its plan."""
        config, descriptor, plan = self._config, self.descriptor, self.plan
        a, b = operands
        m.d[domain] += [
            walk.k.eq(descriptor.k),
            walk.resident.eq(plan.resident),
            walk.chunked.eq(plan.chunked),
            walk.whole.eq(plan.whole),
            walk.half.eq(plan.half),
            walk.group_rows.eq(plan.group_rows),
            walk.split_rows.eq(plan.split_rows),
            *(getattr(segment, f"tile_{name}").eq(descriptor[name]) for name in TILE_CONSTANTS),
            a.pitch.eq(times(descriptor.c_stride, a.lanes)),
        ]
        with m.Switch(descriptor.out_format):
            for number, fmt in enumerate(config.out_formats):
                with m.Case(number):
                    m.d[domain] += b.pitch.eq(b.lanes * fmt.container_bytes)
        for operand, size, start, slot, slack in (
            (a, descriptor.m, descriptor.row_offset, plan.a_slot, plan.a_slack),
            (b, descriptor.n, descriptor.column_offset, plan.b_slot, plan.b_slack),
        ):
            inside = slice(ceil_log2(operand.bytes), ceil_log2(config.bus_bytes))
            along_k = ~descriptor[f"{operand.role}_across_k"]
            stride = descriptor[f"{operand.role}_stride"][inside]
            m.d[domain] += [
                operand.end.eq(start + size),
                operand.slot_words.eq(slot),
                operand.slack.eq(slack),
                # Across K the banks' words are turned by one element from row to row, and panels begin alike.
                operand.stride.eq(Mux(along_k, stride, 1)),
                operand.panel_stride.eq(Mux(along_k, times(stride, operand.lanes), 0)),
                operand.across.eq(~along_k),
            ]

    def _prepare(self, m: Module, walk: GemmWalk, operands: _Operands, segment: Any) -> None:
        """Fill in the segment of the present panels, and decide which way to go from it."""
        config = self._config
        a, b = operands
        x_last, y_last = Mux(walk.resident, b.is_last, a.is_last), Mux(walk.resident, a.is_last, b.is_last)
        split = Mux(walk.resident, b.split, a.split).all()
        x_end, group_ends = Signal(), Signal()
        m.d.comb += [x_end.eq(x_last | walk.at_end), group_ends.eq(x_end & y_last)]
        along, meets = walk.along_streamed, walk.meets
        m.d.sync += [
            walk.new_group.eq(0),
            walk.group_ends.eq(group_ends),
            walk.gemm_ends.eq(walk.tile_ends & group_ends & x_last),
            walk.then_along_streamed.eq(~group_ends & Mux(along, y_last | ~meets, meets & ~x_end)),
            walk.x_advances.eq(~group_ends & Mux(along, y_last, ~x_end)),
            walk.x_restarts.eq(~group_ends & Mux(along, ~y_last & meets, x_end)),
            walk.y_advances.eq(~group_ends & Mux(along, ~y_last, x_end)),
            walk.y_restarts.eq(~group_ends & Mux(along, y_last, ~x_end & meets)),
        ]

        with m.If(walk.new_group):
            m.d.sync += walk.end.eq(more_panels(walk, split))

        chunk = chunk_steps(config)
        steps = Signal.like(walk.k)
        m.d.comb += steps.eq(Mux(walk.tile_ends, walk.k_left - 1, chunk - 1))
        m.d.sync += [
            segment.steps.eq(steps),
            segment.blocks.eq(steps >> ceil_log2(block_steps(config))),
            segment.starts.eq(walk.k_left == walk.k),
            segment.ends.eq(walk.tile_ends),
            segment.parity.eq(walk.parity),
            segment.tile_row.eq(a.end - a.here.left),
            segment.tile_column.eq(b.end - b.here.left),
            segment.tile_rows.eq(Mux(a.is_last, a.here.left, a.lanes)),
            segment.tile_columns.eq(Mux(b.is_last, b.here.left, b.lanes)),
            segment.tile_last.eq(group_ends & x_last),
        ]
        for operand in operands:
            mine = walk.resident == operand.number
            # A resident panel is done with the last streamed one, a streamed panel with the group's last one.
            free = walk.chunked | Mux(mine, y_last, x_end)
            m.d.sync += [
                getattr(segment, f"{operand.role}_word").eq(operand.here.word),
                getattr(segment, f"{operand.role}_offset").eq(operand.here.offset),
                getattr(segment, f"{operand.role}_stride").eq(operand.stride),
                getattr(segment, f"{operand.role}_across").eq(operand.across),
                getattr(segment, f"{operand.role}_block").eq(operand.here.block),
                getattr(segment, f"{operand.role}_slack").eq(operand.slack),
                getattr(segment, f"{operand.role}_free").eq(free),
            ]

    def _decide(self, m: Module, walk: GemmWalk, operands: _Operands) -> None:
        """What the move does, a clock behind the segment."""
        ends, starts_group = walk.tile_ends, walk.group_ends & walk.tile_ends
        m.d.sync += [
            walk.regroup.eq(starts_group),
            walk.x_goes_on.eq(walk.x_advances & ends),
            walk.x_begins_anew.eq((walk.x_restarts & ends) | starts_group),
            walk.y_goes_on.eq(walk.y_advances & ends),
            walk.y_begins_anew.eq((walk.y_restarts & ends) | starts_group),
        ]
        for operand in operands:
            mine = walk.resident == operand.number
            advance = Mux(mine, walk.x_advances, walk.y_advances)
            restart = Mux(mine, walk.x_restarts, walk.y_restarts)
            m.d.sync += [
                operand.advance.eq(ends & (advance | (walk.group_ends & mine))),
                operand.restart.eq(ends & (restart | (walk.group_ends & ~mine))),
                operand.regroup.eq(starts_group & mine),
                # In chunks every segment has slots of its own, and every group.
                operand.next_slot.eq(walk.chunked | advance | walk.group_ends),
                operand.first_slot.eq(~walk.chunked & restart),
            ]

    def _move(self, m: Module, walk: GemmWalk, operands: _Operands) -> None:
        """Go to the panels, or the chunk, of the next segment."""
        m.d.sync += walk.k_left.eq(Mux(walk.tile_ends, walk.k, walk.k_left - chunk_steps(self._config)))
        with m.If(walk.tile_ends):
            m.d.sync += walk.along_streamed.eq(walk.then_along_streamed)
        with m.If(walk.regroup):
            m.d.sync += walk.new_group.eq(1)
        for count, following, goes_on, begins_anew in (
            (walk.x, walk.next_x, walk.x_goes_on, walk.x_begins_anew),
            (walk.y, walk.next_y, walk.y_goes_on, walk.y_begins_anew),
        ):
            with m.If(begins_anew):
                m.d.sync += count.eq(0)
            with m.Elif(goes_on):
                m.d.sync += count.eq(following)
        for operand in operands:
            here, origin = operand.here, operand.origin
            next_index: tuple[Value, ...] = (operand.next_left, operand.next_share.value, operand.next_offset)
            next_slot: tuple[Value, ...] = (
                here.word + operand.slot_words,
                here.block + self.segment.blocks + 1,
            )
            with m.If(operand.advance):
                m.d.sync += _copy(next_index, here.index())
            with m.If(operand.restart):
                m.d.sync += _copy(origin.index(), here.index())
            with m.If(operand.regroup):
                m.d.sync += _copy(next_index, origin.index())
            with m.If(operand.next_slot):
                m.d.sync += _copy(next_slot, here.slot())
            with m.If(operand.first_slot):
                m.d.sync += _copy(origin.slot(), here.slot())
            with m.If(walk.regroup):
                m.d.sync += _copy(next_slot, origin.slot())


def _copy(values: tuple[Value, ...], registers: tuple[Signal, ...]) -> list[Any]:
    return [register.eq(value) for register, value in zip(registers, values, strict=True)]
