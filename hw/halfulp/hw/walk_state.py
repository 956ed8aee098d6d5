"""What the walk over tiles keeps: of the GEMM, of its place in a group, and of each operand's panels."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Signal, Value
from amaranth.utils import bits_for, ceil_log2

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import tile_layout
from halfulp.hw.planner import PlanSignature
from halfulp.hw.schedule import MAX_GROUP
from halfulp.hw.segments import block_count_bits

__all__ = ["GemmWalk", "OperandWalk", "Sum"]


class Place:
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
        """Which panel it is."""
        return self.left, self.share, self.offset

    def slot(self) -> tuple[Signal, Signal]:
        """Where it lies in the buffer."""
        return self.word, self.block


class OperandWalk:
    """Registers of the walk along the panels of one operand, of A (0) or B (1)."""

    def __init__(self, *, config: ArrayConfig, number: int) -> None:
        self.role = role = "ab"[number]
        self.number = number
        self.lanes = config.columns if number else config.rows
        self.bytes = config.b_bytes if number else config.a_bytes
        self.lane_bits = ceil_log2(config.bus_bytes // self.bytes)
        # The panel of the segment being prepared, and the first one of the group.
        self.here = Place(config, f"{role}_here", self.lane_bits)
        self.origin = Place(config, f"{role}_origin", self.lane_bits)
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
        self.next_share = Sum(self.here.share, self.pitch, f"{role}_next_share")
        self.next_offset = Signal.like(self.here.offset, name=f"{role}_next_offset", reset_less=True)
        # Whether the next two groups share its panels, were it resident, and whether the panel is its last.
        self.split = Signal(2, name=f"{role}_split", reset_less=True)
        self.is_last = Signal(name=f"{role}_is_last", reset_less=True)
        # What the next move does, decided behind the segment: panel and slot go on, or back to the group's first.
        self.advance = Signal(name=f"{role}_advance", reset_less=True)
        self.restart = Signal(name=f"{role}_restart", reset_less=True)
        self.next_slot = Signal(name=f"{role}_next_slot", reset_less=True)
        self.first_slot = Signal(name=f"{role}_first_slot", reset_less=True)
        self.regroup = Signal(name=f"{role}_regroup", reset_less=True)


class Sum:
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
        """In every clock."""
        return [Cat(self._low, self._carry).eq(self._low_sum), self._high.eq(self._high_sum)]


class GemmWalk:
    """Registers of what holds for the whole GEMM, and of the position in its group."""

    def __init__(self, *, config: ArrayConfig) -> None:
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
        # Decided with the segment, for the move after it: whether it ends a tile, and the group or the GEMM with it;
        # whether the walk goes on along the resident and the streamed operand's panels, or back to their first one.
        self.tile_ends = Signal(reset_less=True)
        self.group_ends = Signal(reset_less=True)
        self.gemm_ends = Signal(reset_less=True)
        self.then_along_streamed = Signal(reset_less=True)
        self.x_advances, self.x_restarts = Signal(reset_less=True), Signal(reset_less=True)
        self.y_advances, self.y_restarts = Signal(reset_less=True), Signal(reset_less=True)
        # A clock later, what follows for many registers.
        self.regroup = Signal(reset_less=True)
        self.x_goes_on, self.x_begins_anew = Signal(reset_less=True), Signal(reset_less=True)
        self.y_goes_on, self.y_begins_anew = Signal(reset_less=True), Signal(reset_less=True)
