"""What the loader keeps: of the GEMM, of each operand's panels, and of the block whose lines it emits."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Mux, Signal
from amaranth.utils import bits_for, ceil_log2

from halfulp.hw.config import ArrayConfig
from halfulp.hw.long_address import LongAddress
from halfulp.hw.planner import PlanSignature
from halfulp.hw.schedule import block_steps, chunk_steps

__all__ = ["GemmState", "LineState", "OperandState"]


class GemmState:
    """Registers of what holds for the whole GEMM or group."""

    def __init__(self, *, config: ArrayConfig) -> None:
        plan = PlanSignature(config).members
        self.parity = Signal(init=1)
        self.k = Signal(bits_for(config.max_k), reset_less=True)
        self.resident = Signal(reset_less=True)
        self.chunked = Signal(reset_less=True)
        self.one_block = Signal(reset_less=True)
        self.whole = Signal(plan["whole"].shape, reset_less=True)
        self.half = Signal(plan["half"].shape, reset_less=True)
        self.group_rows = Signal(plan["group_rows"].shape, reset_less=True)
        self.split_rows = Signal(plan["split_rows"].shape, reset_less=True)
        self.new_group = Signal(reset_less=True)
        # Resident panels of the group that are still to come; whether there are any, a clock late, soon enough: between
        # two choices that look at it lie a panel's lines.
        self.group_left = Signal(plan["whole"].shape, reset_less=True)
        self.group_goes_on = Signal(reset_less=True)
        self.resident_next = Signal(reset_less=True)
        # The rows left of the resident operand, a clock late; a clock later, whether the next two groups share them,
        # which two bits say. No group begins sooner after its last panel. And the same of the next GEMM's first groups.
        self.rest = Signal(config.size_bits, reset_less=True)
        self.split = Signal(2, reset_less=True)
        self.next_split = Signal(2, reset_less=True)


class OperandState:
    """Registers of one operand's panels, of A (0) or B (1): where the next ones lie in memory and in the ring."""

    def __init__(self, *, config: ArrayConfig, number: int) -> None:
        role = "ab"[number]
        depth = config.buffer_depth
        self.number = number
        self.lanes = config.columns if number else config.rows
        self.bytes = config.b_bytes if number else config.a_bytes
        self.word_elements = config.bus_bytes // self.bytes
        self.block_words = block_steps(config) // self.word_elements

        def register(shape: Any, name: str) -> Signal:
            return Signal(shape, name=f"{role}_{name}", reset_less=True)

        # Of the GEMM. Slot sizes are kept for two, for slots of the one before are still being freed.
        self.base = register(config.address_bits, "base")
        self.stride = register(config.size_bits, "stride")
        self.across = register(1, "across")
        self.size = register(config.size_bits, "size")
        self.slots = [register(bits_for(depth), f"slot{parity}") for parity in (0, 1)]
        # The next panel to load, and the rows that remain from it on.
        self.panel = LongAddress(config.address_bits, f"{role}_panel")
        self.left = register(config.size_bits, "left")
        # One clock after: what is left behind it, whether any are left, and more than a panel's.
        self.left_behind = register(config.size_bits, "left_behind")
        self.some = register(1, "some")
        self.many = register(1, "many")
        self.many_at_first = register(1, "many_at_first")
        # One clock after: whether the next panel to load would come again after it.
        self.comes_again = register(1, "comes_again")
        # The panel that is being loaded: its rows, and the last one's number. `again`: the next panel will be this one;
        # `last`: the next block is its last; `first`: in its first block; `fresh`: the next block begins a slot.
        self.active = register(1, "active")
        self.again = register(1, "again")
        self.count = register(bits_for(self.lanes), "count")
        self.last_row = register(bits_for(self.lanes), "last_row")
        self.block = LongAddress(config.address_bits, f"{role}_block")
        self.k_left = register(bits_for(config.max_k), "k_left")
        self.last = register(1, "last")
        self.first = register(1, "first")
        self.fresh = register(1, "fresh")
        # A clock late: panels begin anew; a block's lines begin; they are all out.
        self.restarts = Signal(name=f"{role}_restarts")
        self.begun = Signal(name=f"{role}_begun")
        self.ended = Signal(name=f"{role}_ended")
        self.chunk_block = register(ceil_log2(chunk_steps(config) // block_steps(config)), "chunk_block")
        self.word = register(ceil_log2(depth), "word")
        # The ring: its next free word, how many are free, and slots in use by GEMMs of either parity.
        self.head = Signal(ceil_log2(depth), name=f"{role}_head")
        self.room = Signal(bits_for(depth), init=depth, name=f"{role}_room")
        self.in_use = [Signal(bits_for(depth), name=f"{role}_in_use{parity}") for parity in (0, 1)]
        self.next_word = Mux(self.fresh, self.head, self.word)
        # One clock after: whether a slot of the present GEMM fits, and whether one of either parity is in use.
        self.fits = register(1, "fits")
        self.used = [Signal(name=f"{role}_used{parity}") for parity in (0, 1)]


class LineState:
    """Registers of the block whose lines are being emitted."""

    def __init__(self, *, config: ArrayConfig) -> None:
        index_bits = max(ceil_log2(max(config.rows, config.columns)), ceil_log2(block_steps(config)))
        self.operand = Signal(reset_less=True)
        self.address = LongAddress(config.address_bits, "address")
        # Across K a block begins where the one before ended, which the address is already where that was its own.
        self.stays = Signal(reset_less=True)
        self.stride = Signal(config.size_bits, reset_less=True)
        self.across = Signal(reset_less=True)
        self.index = Signal(index_bits, reset_less=True)
        self.last_index = Signal(index_bits, reset_less=True)
        self.is_last = Signal(name="line_is_last", reset_less=True)
        # Elements a line, or whole words.
        self.elements = Signal(bits_for(max(config.rows, config.columns, block_steps(config))), reset_less=True)
        self.whole = Signal(reset_less=True)
        self.word = Signal(ceil_log2(config.buffer_depth), reset_less=True)
        self.lane = Signal(ceil_log2(config.bus_bytes), reset_less=True)
        self.ends_panel = Signal(reset_less=True)
