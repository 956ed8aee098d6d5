"""The order of tiles: which panels, slots and part of K come next, prepared while the array works on the one before."""

from __future__ import annotations

import enum
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import descriptor_layout, payload_registers, tile_layout
from halfulp.hw.planner import PlanSignature, is_at_most, more_panels, split_conditions, times
from halfulp.hw.schedule import MAX_GROUP, block_steps, chunk_steps
from halfulp.hw.segments import TILE_CONSTANTS, SegmentSignature, block_count_bits

__all__ = ["TileWalk"]


class _State(enum.IntEnum):
    """Bits of the state, of which one is 1: hundreds of registers look at one or another."""

    IDLE = 0
    TAKE = 1
    MEASURE = 2
    PREPARE = 3
    READY = 4
    MOVE = 5


class _Place:
    """One panel: what starts over when the walk along this operand does."""

    def __init__(self, config: ArrayConfig, role: str, lane_bits: int) -> None:
        # Rows (columns) of the operand from this panel on, the panel's share of the address in C, and where its row
        # 0 starts in a bus word.
        self.left = Signal(config.size_bits, name=f"{role}_left", reset_less=True)
        self.share = Signal(config.address_bits, name=f"{role}_share", reset_less=True)
        self.offset = Signal(lane_bits, name=f"{role}_offset", reset_less=True)
        # Its slot: first word, and how many blocks had been loaded before it.
        self.word = Signal(ceil_log2(config.buffer_depth), name=f"{role}_word")
        self.block = Signal(block_count_bits(config), name=f"{role}_block")

    def index(self) -> tuple[Signal, Signal, Signal]:
        return self.left, self.share, self.offset

    def slot(self) -> tuple[Signal, Signal]:
        return self.word, self.block


class _Operand:
    """Registers of the walk along one operand's panels."""

    def __init__(self, config: ArrayConfig, number: int) -> None:
        self.role = role = "ab"[number]
        self.number = number
        self.lanes = config.columns if number else config.rows
        self.bytes = config.b_bytes if number else config.a_bytes
        self.lane_bits = ceil_log2(config.bus_bytes // self.bytes)
        # The panel of the segment being prepared, and the first one of the group.
        self.here = _Place(config, f"{role}_here", self.lane_bits)
        self.origin = _Place(config, f"{role}_origin", self.lane_bits)
        # Row (column), counted from the whole GEMM's first one, of what follows the operand's last one.
        self.end = Signal(tile_layout(config)["row"].shape, name=f"{role}_end", reset_less=True)
        self.slot_words = Signal(bits_for(config.buffer_depth), name=f"{role}_slot_words", reset_less=True)
        self.slack = Signal(name=f"{role}_slack", reset_less=True)
        # To the next row's start and to the next panel's, in elements modulo a bus word; to the next panel's in C.
        self.stride = Signal(self.lane_bits, name=f"{role}_stride", reset_less=True)
        self.across = Signal(name=f"{role}_across", reset_less=True)
        self.panel_stride = Signal(self.lane_bits, name=f"{role}_panel_stride", reset_less=True)
        self.pitch = Signal(config.size_bits + bits_for(self.lanes), name=f"{role}_pitch", reset_less=True)
        # The panel after this one, known by the time of a move.
        self.next_left = Signal.like(self.here.left, name=f"{role}_next_left", reset_less=True)
        self.next_share = _Sum(self.here.share, self.pitch, f"{role}_next_share")
        self.next_offset = Signal.like(self.here.offset, name=f"{role}_next_offset", reset_less=True)
        # Whether the next two groups share its panels, were it resident, and whether the panel is its last.
        self.split = Signal(2, name=f"{role}_split", reset_less=True)
        self.is_last = Signal(name=f"{role}_is_last", reset_less=True)
        # What the next move does, decided with the segment: panel and slot go on, or back to the group's first.
        self.advance = Signal(name=f"{role}_advance", reset_less=True)
        self.restart = Signal(name=f"{role}_restart", reset_less=True)
        self.next_slot = Signal(name=f"{role}_next_slot", reset_less=True)
        self.first_slot = Signal(name=f"{role}_first_slot", reset_less=True)
        self.regroup = Signal(name=f"{role}_regroup", reset_less=True)


class _Sum:
    """A sum of addresses in two halves, so that no carry runs through all of it in one clock.

    `value` is right two clocks after the addends have changed, `soon` one clock after.
    """

    def __init__(self, a: Value, b: Value, name: str) -> None:
        low = (len(a) + 1) // 2
        self._low = Signal(low, name=f"{name}_low", reset_less=True)
        self._carry = Signal(name=f"{name}_carry", reset_less=True)
        self._high = Signal(len(a) - low, name=f"{name}_high", reset_less=True)
        self._low_sum = a[:low] + b[:low]
        self._high_sum = (a[low:] + b[low:] + self._carry)[: len(a) - low]
        self.value = Cat(self._low, self._high)
        self.soon = Cat(self._low, self._high_sum)

    def follow(self) -> list[Any]:
        return [Cat(self._low, self._carry).eq(self._low_sum), self._high.eq(self._high_sum)]


class _Walk:
    """Registers of what holds for the whole GEMM, and of the position in its group."""

    def __init__(self, config: ArrayConfig) -> None:
        plan = PlanSignature(config).members
        k_bits = bits_for(config.max_k)
        self.parity = Signal(init=1)
        self.k = Signal(k_bits, reset_less=True)
        self.k_left = Signal(k_bits, reset_less=True)
        self.resident = Signal(reset_less=True)
        self.chunked = Signal(reset_less=True)
        self.whole = Signal(plan["whole"].shape, reset_less=True)
        self.half = Signal(plan["half"].shape, reset_less=True)
        self.group_rows = Signal(plan["group_rows"].shape, reset_less=True)
        self.split_rows = Signal(plan["split_rows"].shape, reset_less=True)
        # The last panel of this group; resident and streamed panel within it; whether the walk goes along the streamed
        # operand, under a resident panel that is new.
        self.end = Signal(plan["whole"].shape, reset_less=True)
        self.new_group = Signal(reset_less=True)
        self.x = Signal(bits_for(MAX_GROUP), reset_less=True)
        self.y = Signal(bits_for(MAX_GROUP), reset_less=True)
        self.along_streamed = Signal(reset_less=True)
        # The panels after these; beyond the largest group only the streamed panel counts, and only as "many".
        self.next_x = Signal.like(self.x, reset_less=True)
        self.next_y = Signal.like(self.y, reset_less=True)
        # Measured for the segment that is prepared: whether the resident panel is the last that its group may have, and
        # whether the walk along one operand has come as far as the group has grown.
        self.at_end = Signal(reset_less=True)
        self.meets = Signal(reset_less=True)
        # Decided with the segment, for the move after it.
        self.tile_ends = Signal(reset_less=True)
        self.regroup = Signal(reset_less=True)
        self.gemm_ends = Signal(reset_less=True)
        self.then_along_streamed = Signal(reset_less=True)
        self.x_goes_on, self.x_begins_anew = Signal(reset_less=True), Signal(reset_less=True)
        self.y_goes_on, self.y_begins_anew = Signal(reset_less=True), Signal(reset_less=True)


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
        walk = _Walk(config)
        operands = a, b = _Operand(config, 0), _Operand(config, 1)
        segment = payload_registers(m, self.segment)
        state = Signal(len(_State), init=1 << _State.IDLE)
        address = _Sum(a.here.share, b.here.share, "address")
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
        with m.If(state[_State.READY] & self.segment.ready):
            m.d.sync += state.eq(1 << _State.MOVE)
        with m.If(state[_State.MOVE]):
            self._move(m, walk, operands)
            m.d.sync += state.eq(Mux(walk.gemm_ends, 1 << _State.IDLE, 1 << _State.MEASURE))
        return m

    def _take(self, m: Module, walk: _Walk, operands: tuple[_Operand, _Operand]) -> None:
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

    def _keep(self, m: Module, domain: str, walk: _Walk, operands: tuple[_Operand, _Operand], segment: Any) -> None:
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

    def _prepare(self, m: Module, walk: _Walk, operands: tuple[_Operand, _Operand], segment: Any) -> None:
        """Fill in the segment of the present panels, and decide which way to go from it."""
        config = self._config
        a, b = operands
        x_last, y_last = Mux(walk.resident, b.is_last, a.is_last), Mux(walk.resident, a.is_last, b.is_last)
        split = Mux(walk.resident, b.split, a.split).all()
        x_end, group_ends = Signal(), Signal()
        m.d.comb += [x_end.eq(x_last | walk.at_end), group_ends.eq(x_end & y_last)]
        along, meets = walk.along_streamed, walk.meets
        x_advance = ~group_ends & Mux(along, y_last, ~x_end)
        x_restart = ~group_ends & Mux(along, ~y_last & meets, x_end)
        y_advance = ~group_ends & Mux(along, ~y_last, x_end)
        y_restart = ~group_ends & Mux(along, y_last, ~x_end & meets)
        m.d.sync += [
            walk.new_group.eq(0),
            walk.regroup.eq(walk.tile_ends & group_ends),
            walk.gemm_ends.eq(walk.tile_ends & group_ends & x_last),
            walk.then_along_streamed.eq(~group_ends & Mux(along, y_last | ~meets, meets & ~x_end)),
        ]

        starts_group = group_ends & walk.tile_ends
        m.d.sync += [
            walk.x_goes_on.eq(x_advance & walk.tile_ends),
            walk.x_begins_anew.eq((x_restart & walk.tile_ends) | starts_group),
            walk.y_goes_on.eq(y_advance & walk.tile_ends),
            walk.y_begins_anew.eq((y_restart & walk.tile_ends) | starts_group),
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
            advance, restart = Mux(mine, x_advance, y_advance), Mux(mine, x_restart, y_restart)
            m.d.sync += [
                operand.advance.eq(walk.tile_ends & (advance | (group_ends & mine))),
                operand.restart.eq(walk.tile_ends & (restart | (group_ends & ~mine))),
                operand.regroup.eq(walk.tile_ends & group_ends & mine),
                # In chunks every segment has slots of its own, and every group.
                operand.next_slot.eq(walk.chunked | advance | group_ends),
                operand.first_slot.eq(~walk.chunked & restart),
                getattr(segment, f"{operand.role}_word").eq(operand.here.word),
                getattr(segment, f"{operand.role}_offset").eq(operand.here.offset),
                getattr(segment, f"{operand.role}_stride").eq(operand.stride),
                getattr(segment, f"{operand.role}_across").eq(operand.across),
                getattr(segment, f"{operand.role}_block").eq(operand.here.block),
                getattr(segment, f"{operand.role}_slack").eq(operand.slack),
                getattr(segment, f"{operand.role}_free").eq(free),
            ]

    def _move(self, m: Module, walk: _Walk, operands: tuple[_Operand, _Operand]) -> None:
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
