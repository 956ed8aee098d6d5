"""What the core works out about a GEMM before its first read: slot sizes, chunks, groups, the resident operand."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import descriptor_layout
from halfulp.hw.schedule import MAX_GROUP, chunk_steps

__all__ = ["PlanSignature", "Planner", "group_size", "times"]


def times(value: Value, factor: int) -> Value:
    """`value` × the constant `factor` ≥ 1 as shifts and adds, so that no multiplier is inferred."""
    shifts = [bit for bit in range(factor.bit_length()) if factor >> bit & 1]
    total: Value = value << shifts[0]
    for shift in shifts[1:]:
        total = total + (value << shift)
    return total


def group_size(plan: Any, left: Value) -> Value:
    """Panels of the next group when `left` rows of the resident operand remain, of which there may be fewer.

    The last two groups share what is left about evenly, so that neither streams the other operand for one panel.
    """
    full = plan.group_rows
    split = (left > full) & (left <= full + (full >> 1))
    return Mux(split, (plan.group >> 1) + 1, plan.group)


class PlanSignature(wiring.Signature):
    """Derived numbers of one GEMM, as `schedule.GemmPlan` defines them.

    a_slot, b_slot: words a slot; a_slack, b_slack: rows may begin within a bus word; chunked; group: most resident
    panels; group_rows: group × (R or C), rows of so many panels; resident: 0 A, 1 B.
    """

    def __init__(self, config: ArrayConfig) -> None:
        words = bits_for(config.buffer_depth)
        super().__init__(
            {
                "a_slot": Out(words),
                "b_slot": Out(words),
                "a_slack": Out(1),
                "b_slack": Out(1),
                "chunked": Out(1),
                "group": Out(bits_for(MAX_GROUP)),
                "group_rows": Out(bits_for(MAX_GROUP * max(config.rows, config.columns))),
                "resident": Out(1),
            }
        )


class Planner(wiring.Component):
    """Plans the GEMM at the head of the descriptor queue.

    `latency` clocks after a descriptor is offered `valid` rises, and the plan stands until `taken` is 1 for a clock:
    the clock in which the descriptor leaves its queue. No multiplier and no divider: group = floor(depth / slot) is
    found by comparing the slot with constants.

    Parameters
    ----------
    config
        The core.

    Members
    -------
    descriptor, offered
        Payload and valid of the queue's head.
    plan, valid, taken
        See above.
    """

    descriptor: Any
    offered: Signal
    plan: Any
    valid: Signal
    taken: Signal

    latency = 3

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "descriptor": In(descriptor_layout(config)),
                "offered": In(1),
                "plan": Out(PlanSignature(config)),
                "valid": Out(1),
                "taken": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build the three stages."""
        m = Module()
        config, descriptor, plan = self._config, self.descriptor, self.plan
        k = descriptor.k[: bits_for(config.max_k)]

        stage = Signal(2)
        raw_slots: list[Signal] = []
        slacks: list[Signal] = []
        operands = (
            (config.a_bytes, descriptor.a_address, descriptor.a_stride, descriptor.a_across_k),
            (config.b_bytes, descriptor.b_address, descriptor.b_stride, descriptor.b_across_k),
        )
        for role, (element_bytes, address, stride, across) in zip("ab", operands, strict=True):
            word_elements = config.bus_bytes // element_bytes
            inside = (1 << ceil_log2(config.bus_bytes)) - 1
            raw = Signal(range(config.max_k // word_elements + 3), name=f"{role}_raw_slot", reset_less=True)
            slack = Signal(name=f"{role}_slack", reset_less=True)
            unaligned = ~across & (((address | stride) & inside) != 0)
            m.d.sync += [
                slack.eq(unaligned),
                raw.eq((k + Mux(unaligned, 2 * word_elements - 2, word_elements - 1)) >> ceil_log2(word_elements)),
            ]
            raw_slots.append(raw)
            slacks.append(slack)

        # Rows per panel differ: ceil(M/R) <= ceil(N/C) is decided as M*C <= N*R, near enough.
        m_side = Signal(32 + bits_for(config.columns), reset_less=True)
        n_side = Signal(32 + bits_for(config.rows), reset_less=True)
        larger = Signal(max(len(raw) for raw in raw_slots), reset_less=True)
        m.d.sync += [
            m_side.eq(times(descriptor.m, config.columns)),
            n_side.eq(times(descriptor.n, config.rows)),
            larger.eq(Mux(raw_slots[0] > raw_slots[1], raw_slots[0], raw_slots[1])),
            plan.resident.eq(m_side > n_side),
        ]

        with m.If(stage == 2):
            m.d.sync += plan.chunked.eq(larger > config.buffer_depth // 2)
            for role, slot, raw, slack, element_bytes in zip(
                "ab", (plan.a_slot, plan.b_slot), raw_slots, slacks, (config.a_bytes, config.b_bytes), strict=True
            ):
                chunk_words = chunk_steps(config) * element_bytes // config.bus_bytes
                m.d.sync += [
                    slot.eq(Mux(larger > config.buffer_depth // 2, chunk_words + slack, raw)),
                    (plan.a_slack if role == "a" else plan.b_slack).eq(slack),
                ]
            self._group(m, larger)

        with m.If(self.taken):
            m.d.sync += [stage.eq(0), self.valid.eq(0)]
        with m.Elif(self.offered & ~self.valid):
            m.d.sync += [stage.eq(stage + 1), self.valid.eq(stage == 2)]
        return m

    def _group(self, m: Module, larger: Signal) -> None:
        """Register the group: the most slots of `larger` words that a bank holds; 1 where K is cut."""
        config, plan = self._config, self.plan
        sizes = [g for g in range(MAX_GROUP, 1, -1) if config.buffer_depth // g > 0]
        m.d.sync += plan.group.eq(1)
        group = Signal.like(plan.group)
        m.d.comb += group.eq(1)
        for number, size in enumerate(sizes):
            with (m.If if number == 0 else m.Elif)(larger <= config.buffer_depth // size):
                m.d.comb += group.eq(size)
        rows = Signal.like(plan.group_rows)
        with m.Switch(group):
            for size in [*sizes, 1]:
                with m.Case(size):
                    # `resident` is registered in the same clock as `group`: decide from its source.
                    m.d.comb += rows.eq(Mux(plan.resident, size * config.columns, size * config.rows))
        m.d.sync += [plan.group.eq(group), plan.group_rows.eq(rows)]
