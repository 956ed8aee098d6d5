"""What the core works out about a GEMM before its first read: slot sizes, chunks, groups, the resident operand."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import descriptor_layout
from halfulp.hw.schedule import MAX_GROUP, chunk_steps

__all__ = ["PlanSignature", "Planner", "is_at_most", "more_panels", "split_conditions", "times"]


def times(value: Value, factor: int) -> Value:
    """`value` × the constant `factor` ≥ 1 as shifts and adds, so that no multiplier is inferred."""
    shifts = [bit for bit in range(factor.bit_length()) if factor >> bit & 1]
    total: Value = value << shifts[0]
    for shift in shifts[1:]:
        total = total + (value << shift)
    return total


def is_at_most(value: Value, limit: int) -> Value:
    """`value` ≤ the constant `limit` ≥ 0, by a comparison no longer than `limit`: of the bits above none may be 1."""
    bits = bits_for(limit)
    return ~value[bits:].any() & (value[:bits] <= limit)


def split_conditions(gemm: Any, left: Value) -> Value:
    """Two bits, both 1 where the next two groups share the `left` rows that remain of the resident operand.

    They do so, about evenly, where these are more than one group's and at most one and a half: neither group should
    stream the other operand for one panel. `gemm` has the plan's `group_rows` and `split_rows`.
    """
    bits = len(gemm.split_rows)
    return Cat(left[:bits] > gemm.group_rows, ~left[bits:].any() & (left[:bits] <= gemm.split_rows))


def more_panels(gemm: Any, split: Value) -> Value:
    """Panels of the next group behind its first, of which there may be fewer; `gemm` has the plan's `whole`, `half`."""
    return Mux(split, gemm.half, gemm.whole)


class PlanSignature(wiring.Signature):
    """Derived numbers of one GEMM, as `schedule.GemmPlan` defines them.

    a_slot, b_slot: words a slot; a_slack, b_slack: rows may begin within a bus word; chunked; whole: most resident
    panels behind a group's first, `group` - 1; half: the same where two groups share the rest, `group` div 2;
    group_rows, split_rows: rows of `group` panels, R or C each, and of one and a half times as many; resident: 0 A,
    1 B.
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
                "whole": Out(bits_for(MAX_GROUP)),
                "half": Out(bits_for(MAX_GROUP)),
                "group_rows": Out(bits_for(MAX_GROUP * max(config.rows, config.columns))),
                "split_rows": Out(bits_for(MAX_GROUP * max(config.rows, config.columns) * 3 // 2)),
                "resident": Out(1),
            }
        )


class Planner(wiring.Component):
    """Plans the GEMM at the head of the descriptor queue.

    `latency` clocks after a descriptor is offered `valid` rises, and the plan stands until `taken` is 1 for a clock:
    the clock in which the descriptor leaves its queue. No multiplier and no divider: floor(depth / slot) is
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

        # The slots of which `size` fit in a bank, for each size of a group. Two must fit, or K is cut.
        sizes = range(MAX_GROUP, 1, -1)
        fits = Signal(len(sizes), reset_less=True)
        m.d.sync += fits.eq(Cat(*(_fit(raw_slots, config.buffer_depth // size) for size in sizes)))
        # Rows per panel differ: ceil(M/R) <= ceil(N/C) is decided as M·C <= N·R, near enough.
        m_side = Signal(config.size_bits + bits_for(config.columns), reset_less=True)
        n_side = Signal(config.size_bits + bits_for(config.rows), reset_less=True)
        m.d.sync += [
            m_side.eq(times(descriptor.m, config.columns)),
            n_side.eq(times(descriptor.n, config.rows)),
            plan.resident.eq(m_side > n_side),
        ]

        with m.If(stage == 2):
            chunked = ~fits[-1]
            m.d.sync += [plan.chunked.eq(chunked), plan.a_slack.eq(slacks[0]), plan.b_slack.eq(slacks[1])]
            for slot, raw, slack, element_bytes in zip(
                (plan.a_slot, plan.b_slot), raw_slots, slacks, (config.a_bytes, config.b_bytes), strict=True
            ):
                chunk_words = chunk_steps(config) * element_bytes // config.bus_bytes
                m.d.sync += slot.eq(Mux(chunked, chunk_words + slack, raw))
            # One panel, where even two do not fit.
            m.d.sync += self._group(1)
            for number, size in enumerate(sizes):
                with (m.If if number == 0 else m.Elif)(fits[number]):
                    m.d.sync += self._group(size)

        with m.If(self.taken):
            m.d.sync += [stage.eq(0), self.valid.eq(0)]
        with m.Elif(self.offered & ~self.valid):
            m.d.sync += [stage.eq(stage + 1), self.valid.eq(stage == 2)]
        return m

    def _group(self, size: int) -> list[Any]:
        """Say that groups are of `size` panels."""
        plan = self.plan
        rows = [size * lanes for lanes in (self._config.rows, self._config.columns)]
        return [
            plan.whole.eq(size - 1),
            plan.half.eq(size // 2),
            plan.group_rows.eq(Mux(plan.resident, rows[1], rows[0])),
            plan.split_rows.eq(Mux(plan.resident, rows[1] + rows[1] // 2, rows[0] + rows[0] // 2)),
        ]


def _fit(slots: list[Signal], words: int) -> Value:
    return (slots[0] <= words) & (slots[1] <= words)
