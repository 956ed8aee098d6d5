"""Small GEMMs and their plans, as the planner makes them: what proofs of the loader and of the walk suppose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from amaranth.hdl import Mux, Signal, Value

from halfulp.hw.config import ArrayConfig
from halfulp.hw.schedule import GemmPlan

from .proofs import Bench

__all__ = ["MOST_IN_GROUP", "MOST_PANELS", "joined", "reference", "small_gemms"]

MOST_PANELS = 4
"""Of either operand."""

MOST_IN_GROUP = 4


def reference(config: ArrayConfig, *, resident: int, group: int, panels: tuple[int, int], k: int) -> GemmPlan:
    """The plan of a GEMM of so many panels of the resident and of the streamed operand, with groups of this size.

    In groups of one, K is cut in chunks.
    """
    rows, columns = panels[::-1] if resident else panels
    plan = GemmPlan(config=config, m=rows * config.rows, n=columns * config.columns, k=k)
    vars(plan).update(resident=resident, group=group, chunked=group == 1)
    return plan


def small_gemms(bench: Bench, config: ArrayConfig, descriptor: Any, plan: Any) -> tuple[Signal, list[Signal]]:
    """Suppose GEMMs of at most `MOST_PANELS` panels an operand; return the size of groups and the numbers of panels."""
    group, counts = Signal(range(MOST_IN_GROUP + 1)), [Signal(3, name=f"count_of_{role}") for role in "ab"]
    bench.free(descriptor, group, *counts, *(getattr(plan, name) for name in plan.signature.members))
    lanes = config.rows, config.columns
    group_rows = group * Mux(plan.resident, config.columns, config.rows)
    sizes: Sequence[Value] = (descriptor.m, descriptor.n)
    bench.suppose(
        (descriptor.k > 0) & (descriptor.k <= config.max_k),
        *((count > 0) & (count <= MOST_PANELS) for count in counts),
        *((size > (n - 1) * each) & (size <= n * each) for size, n, each in zip(sizes, counts, lanes, strict=True)),
        descriptor.out_format < len(config.out_formats),
        # As the planner makes them.
        (group > 0) & (group <= MOST_IN_GROUP),
        plan.chunked == (group == 1),
        plan.whole == group - 1,
        plan.half == group // 2,
        plan.group_rows == group_rows,
        plan.split_rows == group_rows + group_rows // 2,
    )
    return group, counts


def joined(values: Iterable[int], widths: Iterable[int]) -> int:
    """What `Cat` makes of values of these widths."""
    place = total = 0
    for value, width in zip(values, widths, strict=True):
        total |= value << place
        place += width
    return total
