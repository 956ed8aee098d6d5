"""Which bus words to read and when: panels in the order of use, block by block, as buffer slots become free."""

from __future__ import annotations

import enum
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from halfulp.hw.burst_reader import LineSignature, words_ahead
from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import descriptor_layout
from halfulp.hw.loader_state import GemmState, LineState, OperandState
from halfulp.hw.planner import PlanSignature, is_at_most, more_panels, split_conditions
from halfulp.hw.schedule import block_steps

__all__ = ["Loader"]


class _State(enum.IntEnum):
    """Bits of the state, of which one is 1."""

    IDLE = 0
    TAKE = 1
    SETTLE = 2
    UNIT = 3
    PANEL = 4
    BLOCK = 5
    LINES = 6


class Loader(wiring.Component):
    """Walk a GEMM's panels as `schedule.GemmPlan.blocks` lists them, and emit their lines.

    Clocks. A GEMM is taken in a clock in which `start` and `ready` are 1: `ready` is 1 for a clock, the one after
    `start` was seen where a GEMM can be taken, and `start` has to stand until then. Choosing the next panels takes a
    clock, setting them up another, a third passes before each block, then a line is offered in every clock. So a
    block's first line follows the last line of the block before by 2 clocks, by 4 where a panel (or pair) begins, and
    by 6 where a group begins.

    Room. A panel's (chunk's) slot is allocated before its first block; the loader waits there until a clock after
    enough words of the ring are free. Slots are freed in order of allocation. The next GEMM is taken once this one's
    lines are all out and no slot of the GEMM before this one is in use any more.

    Parameters
    ----------
    config
        The core.

    Members
    -------
    descriptor, plan
        The GEMM to start and its plan.
    start, ready
        As valid and ready in a stream; see above.
    line
        To the `BurstReader`, by way of a register or more.
    freed, freed_parity
        From the buffers, one bit an operand: a slot is free; whether its GEMM was an odd one, counted from 0.
    """

    descriptor: Any
    plan: Any
    start: Signal
    ready: Signal
    line: Any
    freed: Signal
    freed_parity: Signal
    idle: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "descriptor": In(descriptor_layout(config)),
                "plan": In(PlanSignature(config)),
                "start": In(1),
                "ready": Out(1),
                "line": Out(LineSignature(config)),
                "freed": In(2),
                "freed_parity": In(2),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build the walk over panels, blocks and lines."""
        m = Module()
        config = self._config
        gemm, line = GemmState(config=config), LineState(config=config)
        operands = a, b = OperandState(config=config, number=0), OperandState(config=config, number=1)
        state = Signal(len(_State), init=1 << _State.IDLE)
        # Of which operands a panel begins: in the clock of PANEL alone.
        wanted = Signal(2)

        # The next GEMM is of the other parity. Its slots are only given back while no GEMM is taken, so that a clock
        # later is as well.
        unused = [~a.used[p] & ~b.used[p] for p in (0, 1)]
        next_unused = Signal()
        m.d.sync += next_unused.eq(Mux(gemm.parity, unused[0], unused[1]))
        m.d.comb += [
            self.idle.eq(state[_State.IDLE]),
            self.line.valid.eq(state[_State.LINES]),
            self.ready.eq(state[_State.TAKE]),
        ]
        self._offer(m, line, operands)
        m.d.sync += gemm.group_goes_on.eq(gemm.group_left != 0)
        m.d.sync += gemm.rest.eq(Mux(gemm.resident, b.left, a.left))
        m.d.sync += gemm.split.eq(split_conditions(gemm, gemm.rest))
        # Of the next GEMM a clock before it is taken, when its descriptor and its plan are there already.
        descriptor, plan = self.descriptor, self.plan
        m.d.sync += gemm.next_split.eq(split_conditions(plan, Mux(plan.resident, descriptor.n, descriptor.m)))
        allocate = Signal(2)
        for operand in operands:
            self._account(m, operand, gemm.parity, allocate[operand.number])
            self._move_on(m, gemm, operand, line)
            self._begin_panel(m, gemm, operand, operands[1 - operand.number], wanted[operand.number])
        m.d.sync += [wanted.eq(0), *line.address.settle()]
        if config.compact:
            # The descriptor stands until the GEMM's end.
            self._keep(m, "comb", gemm, operands)

        with m.If(state[_State.IDLE]):
            with m.If(self.start & next_unused):
                m.d.sync += state.eq(1 << _State.TAKE)
        with m.If(state[_State.TAKE]):
            self._take(m, gemm, operands)
            if not config.compact:
                self._keep(m, "sync", gemm, operands)
            m.d.sync += state.eq(1 << _State.UNIT)
        with m.If(state[_State.SETTLE]):
            # A new group: the other operand's panels from the first one on.
            for operand in operands:
                with m.If(gemm.resident != operand.number):
                    m.d.sync += [
                        operand.restarts.eq(1),
                        operand.left.eq(operand.size),
                        operand.some.eq(1),
                        operand.many.eq(operand.many_at_first),
                    ]
            m.d.sync += state.eq(1 << _State.UNIT)
        with m.If(state[_State.UNIT]):
            self._choose(m, gemm, operands, wanted, state)
        with m.If(state[_State.PANEL]):
            m.d.sync += [line.operand.eq(~wanted[0]), state.eq(1 << _State.BLOCK)]
        with m.If(state[_State.BLOCK]):
            for operand in operands:
                with m.If((line.operand == operand.number) & (~operand.fresh | operand.fits)):
                    m.d.comb += allocate[operand.number].eq(operand.fresh)
                    m.d.sync += [operand.begun.eq(1), state.eq(1 << _State.LINES)]
        with m.If(state[_State.LINES]):
            with m.If(self.line.ready):
                self._advance(m, operands, line, state)
        # Always but while lines are offered, so that neither the state nor room enables these registers.
        with m.Elif(line.operand):
            self._set_up(m, gemm, b, line)
        with m.Else():
            self._set_up(m, gemm, a, line)
        return m

    def _account(self, m: Module, operand: OperandState, parity: Value, allocate: Value) -> None:
        """Count the ring's free words and the slots in use by GEMMs of either parity, and register what follows."""
        freed, odd = self.freed[operand.number], self.freed_parity[operand.number]
        if self._config.compact:
            odd = Const(1)  # GEMMs do not overlap, and need no parity
        slot = Mux(parity, operand.slots[1], operand.slots[0])
        m.d.sync += [
            operand.fits.eq(operand.room >= slot),
            operand.left_behind.eq(operand.left - operand.lanes),
            operand.some.eq(operand.left != 0),
            operand.many.eq(~is_at_most(operand.left, operand.lanes)),
            *(used.eq(in_use != 0) for used, in_use in zip(operand.used, operand.in_use, strict=True)),
        ]
        freed_slot = Mux(odd, operand.slots[1], operand.slots[0])
        # Counted a clock late, which is soon enough: between two slots of an operand lies the choice of a panel, or a
        # block of the other one.
        allocated = Signal(name=f"allocated_{operand.number}")
        m.d.sync += allocated.eq(allocate)
        allocate = allocated
        with m.If(allocate):
            m.d.sync += operand.head.eq(operand.head + slot)
        with m.If(allocate | freed):
            m.d.sync += operand.room.eq(operand.room - Mux(allocate, slot, 0) + Mux(freed, freed_slot, 0))
            for p, in_use in enumerate(operand.in_use):
                m.d.sync += in_use.eq(in_use + (allocate & (parity == p)) - (freed & (odd == p)))

    def _take(self, m: Module, gemm: GemmState, operands: tuple[OperandState, OperandState]) -> None:
        """Go to the GEMM's first panels."""
        m.d.sync += [
            gemm.new_group.eq(1),
            # What follows from the plan, which has no clock to settle.
            gemm.split.eq(gemm.next_split),
            *(operand.some.eq(1) for operand in operands),
        ]
        if not self._config.compact:
            m.d.sync += gemm.parity.eq(~gemm.parity)
        for operand, size in zip(operands, (self.descriptor.m, self.descriptor.n), strict=True):
            many = ~is_at_most(size, operand.lanes)
            m.d.sync += [operand.many.eq(many), operand.restarts.eq(1), operand.left.eq(size)]

    def _keep(self, m: Module, domain: str, gemm: GemmState, operands: tuple[OperandState, OperandState]) -> None:
        """What holds for the whole GEMM, of its descriptor and its plan."""
        descriptor, plan = self.descriptor, self.plan
        m.d[domain] += [
            gemm.k.eq(descriptor.k),
            gemm.one_block.eq(is_at_most(descriptor.k, block_steps(self._config))),
            gemm.resident.eq(plan.resident),
            gemm.chunked.eq(plan.chunked),
            gemm.whole.eq(plan.whole),
            gemm.half.eq(plan.half),
            gemm.group_rows.eq(plan.group_rows),
            gemm.split_rows.eq(plan.split_rows),
        ]
        for operand, role, size in zip(operands, "ab", (descriptor.m, descriptor.n), strict=True):
            slot = plan.b_slot if operand.number else plan.a_slot
            m.d[domain] += [
                operand.many_at_first.eq(~is_at_most(size, operand.lanes)),
                operand.base.eq(descriptor[f"{role}_address"]),
                operand.stride.eq(descriptor[f"{role}_stride"]),
                operand.across.eq(descriptor[f"{role}_across_k"]),
                operand.size.eq(size),
            ]
            if self._config.compact:
                m.d[domain] += operand.slots[1].eq(slot)
                continue
            for p in (0, 1):
                with m.If(gemm.parity != p):
                    m.d[domain] += operand.slots[p].eq(slot)

    def _choose(
        self,
        m: Module,
        gemm: GemmState,
        operands: tuple[OperandState, OperandState],
        wanted: Signal,
        state: Signal,
    ) -> None:
        """Choose the next panel, or pair of panels; or the next group; or end the GEMM."""
        a, b = operands
        some_resident = Mux(gemm.resident, b.some, a.some)
        more_resident = gemm.group_goes_on & some_resident
        more_streamed = Mux(gemm.resident, a.some, b.some)

        want_resident, want_streamed = Signal(), Signal()
        with m.If(gemm.new_group):
            m.d.comb += [want_resident.eq(1), want_streamed.eq(1)]
            m.d.sync += [
                gemm.new_group.eq(0),
                gemm.group_left.eq(more_panels(gemm, gemm.split.all())),
                gemm.resident_next.eq(1),
            ]
        with m.Elif(gemm.chunked):
            m.d.comb += [want_resident.eq(more_streamed), want_streamed.eq(more_streamed)]
        with m.Elif(more_resident & (gemm.resident_next | ~more_streamed)):
            m.d.comb += want_resident.eq(1)
            m.d.sync += [gemm.group_left.eq(gemm.group_left - 1), gemm.resident_next.eq(0)]
        with m.Else():
            m.d.comb += want_streamed.eq(more_streamed)
            m.d.sync += gemm.resident_next.eq(1)

        m.d.sync += wanted.eq(Mux(gemm.resident, Cat(want_streamed, want_resident), Cat(want_resident, want_streamed)))
        with m.If(want_resident | want_streamed):
            m.d.sync += state.eq(1 << _State.PANEL)
        with m.Elif(some_resident):
            m.d.sync += [gemm.new_group.eq(1), state.eq(1 << _State.SETTLE)]
        with m.Else():
            m.d.sync += state.eq(1 << _State.IDLE)

    def _begin_panel(
        self, m: Module, gemm: GemmState, operand: OperandState, other: OperandState, begins: Value
    ) -> None:
        """Set an operand's next panel up, where one begins."""
        # In chunks nothing stays: the resident panel comes again with each streamed one.
        m.d.sync += operand.comes_again.eq((gemm.resident == operand.number) & gemm.chunked & other.many)
        with m.If(begins & ~operand.comes_again):
            m.d.sync += operand.left.eq(Mux(operand.many, operand.left_behind, 0))
        with m.If(begins):
            m.d.sync += [
                operand.active.eq(1),
                operand.count.eq(Mux(operand.many, operand.lanes, operand.left)),
                operand.last_row.eq(Mux(operand.many, operand.lanes - 1, operand.left - 1)),
                operand.again.eq(operand.comes_again),
                *operand.block.become(operand.panel),
                operand.k_left.eq(gemm.k),
                operand.last.eq(gemm.one_block),
                operand.first.eq(1),
                operand.fresh.eq(1),
                operand.chunk_block.eq(0),
            ]

    def _set_up(self, m: Module, gemm: GemmState, operand: OperandState, line: LineState) -> None:
        """Set up the lines of an operand's next block."""
        steps, last, ends_slot = block_steps(self._config), operand.last, self._ends_slot(gemm, operand)
        m.d.sync += [
            line.stride.eq(operand.stride),
            line.across.eq(operand.across),
            line.index.eq(0),
            line.last_index.eq(Mux(operand.across, Mux(last, operand.k_left - 1, steps - 1), operand.last_row)),
            # A block across K has one step only where it is the panel's last.
            line.is_last.eq(Mux(operand.across, last & (operand.k_left == 1), operand.last_row == 0)),
            line.elements.eq(Mux(operand.across, operand.count, Mux(last, operand.k_left, steps))),
            line.whole.eq(~operand.across & ~ends_slot),
            line.word.eq(operand.next_word),
            line.lane.eq(0),
            line.ends_panel.eq(last),
            line.stays.eq(0),
        ]
        with m.If(~line.stays):
            m.d.sync += line.address.become(operand.block)

    def _advance(self, m: Module, operands: tuple[OperandState, OperandState], line: LineState, state: Signal) -> None:
        """Go to the block's next line, or to the next block."""
        a, b = operands
        m.d.sync += [*line.address.add(line.stride), line.index.eq(line.index + 1)]
        m.d.sync += line.is_last.eq(line.index + 1 == line.last_index)
        with m.If(line.across):
            wrap = line.lane == Mux(line.operand, b.word_elements - 1, a.word_elements - 1)
            m.d.sync += [line.lane.eq(Mux(wrap, 0, line.lane + 1)), line.word.eq(line.word + wrap)]
        with m.If(line.is_last):
            for operand in operands:
                with m.If(line.operand == operand.number):
                    m.d.sync += operand.ended.eq(1)
                    with m.If(line.ends_panel):
                        m.d.sync += operand.active.eq(0)
            other = Mux(line.operand, a.active, b.active)
            m.d.sync += line.stays.eq(line.across & ~other)
            with m.If(other):
                m.d.sync += [line.operand.eq(~line.operand), state.eq(1 << _State.BLOCK)]
            with m.Else():
                m.d.sync += state.eq(Mux(line.ends_panel, 1 << _State.UNIT, 1 << _State.BLOCK))

    def _ends_slot(self, gemm: GemmState, operand: OperandState) -> Value:
        """Whether the next block is its slot's last.

        A slot holds all that its steps need, so its last block takes the word that an unaligned row runs into.
        """
        chunk_ends = operand.chunk_block.all() if len(operand.chunk_block) else 1
        return operand.last | (gemm.chunked & chunk_ends)

    def _move_on(self, m: Module, gemm: GemmState, operand: OperandState, line: LineState) -> None:
        """Note which block of a panel is next, and where it and the next panel lie: a clock late, which is soon enough.

        That is a clock after a block's lines began, and after the last of them was offered: the line's address is then
        that of what would follow.
        """
        steps, block, panel = block_steps(self._config), operand.block, operand.panel
        pulses = operand.restarts, operand.begun, operand.ended
        m.d.sync += [*(pulse.eq(0) for pulse in pulses), *block.settle(), *panel.settle()]
        with m.If(operand.begun):
            m.d.sync += [
                operand.word.eq(operand.next_word + operand.block_words),
                operand.chunk_block.eq(operand.chunk_block + 1),
                operand.fresh.eq(self._ends_slot(gemm, operand)),
                *block.add(steps * operand.bytes),
                operand.k_left.eq(operand.k_left - steps),
                operand.last.eq(is_at_most(operand.k_left, 2 * steps)),
            ]
        moves = operand.ended & operand.first & ~operand.again
        with m.If(operand.ended):
            m.d.sync += operand.first.eq(0)
        with m.If(operand.ended & operand.across):
            m.d.sync += block.become(line.address)
        with m.If(operand.restarts):
            m.d.sync += panel.become(operand.base)
        with m.Elif(moves & operand.across):
            m.d.sync += panel.add(operand.lanes * operand.bytes)
        with m.Elif(moves):
            m.d.sync += panel.become(line.address)

    def _offer(self, m: Module, line: LineState, operands: tuple[OperandState, OperandState]) -> None:
        """The present line: how many words it takes follows from where in its first word it begins."""
        beats: list[Value] = []
        offsets: list[Value] = []
        for operand in operands:
            shift = ceil_log2(operand.word_elements)
            inside = line.address.value[ceil_log2(operand.bytes) : ceil_log2(self._config.bus_bytes)]
            words = (inside + line.elements + (operand.word_elements - 1)) >> shift
            beats.append(Mux(line.whole, operand.block_words, words))
            offsets.append(inside)
        m.d.comb += [
            self.line.address.eq(line.address.value),
            self.line.beats.eq(Mux(line.operand, beats[1], beats[0])),
            self.line.ahead.eq(words_ahead(line.address.value, self._config.bus_bytes)),
            self.line.operand.eq(line.operand),
            self.line.across.eq(line.across),
            self.line.word.eq(line.word),
            self.line.bank.eq(line.index),
            self.line.lane.eq(line.lane),
            self.line.offset.eq(Mux(line.across, Mux(line.operand, offsets[1], offsets[0]), 0)),
            self.line.last.eq(line.is_last),
        ]
