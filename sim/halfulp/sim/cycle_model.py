"""How many clocks a core takes for a GEMM, without simulating it: equal to the core's own counter, where it has one.

The model follows what the blocks say of their clocks, event by event instead of clock by clock: bursts of operands
from the loader over the bus into the buffers (`load_model`), tiles through the array (`gemm_walk`), groups of results
through the drain and in bursts into memory (`drain_model`). That is compiled (`walk_code`), so that an event takes
nanoseconds. And most are not followed: a tile that finds drain and writer as one like it did before is looked up
(`drain_table`), a column of tiles, or a group of columns, that begins in a state in which one began before takes as
long again (`gemm_repeats`), and where tiles wait for nothing only their number counts, however uneven a GEMM is: loads
to come are sure to be in time where the longest ones would be (`load_lead`), and results where those that are cut into
the most bursts would be (`walk_bounds`); where results, or loads of a K that is cut in chunks, keep the bus busy, only
their words' number does (`bus_bound`, `read_bound`). What is moved is known by arithmetic (`traffic`).

Clocks are counted from the one in which the GEMM is started on a core at rest. The memory is that of
`halfulp.sim.rtl.RtlCore`, without its random pauses. Without llvmlite the model gives the same, a hundred times slower.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache

from halfulp.hw.schedule import GemmPlan
from halfulp.sim.gemm_clocks import GemmClocks, forget_starts
from halfulp.sim.memory_timing import MemoryTiming
from halfulp.sim.traffic import words_read, words_written

__all__ = ["GemmCycles", "forget", "predict", "roofline", "walk_gemm"]

TOLD_LATENCY = 1
"""Clocks from the last answer of the memory to the one in which the core counts the GEMM as ended."""

_LOCK = threading.Lock()
"""Of what is remembered of cores and memories, for programs with threads."""


@dataclass(frozen=True, kw_only=True)
class GemmCycles:
    """What a GEMM costs on a core.

    cycles: those in which the core is busy, which its counter shows; read_bytes, written_bytes: bus words that moved,
    in bytes; macs: M·N·K, scales not counted; elements: multiply-accumulates that the array can do a clock.
    """

    cycles: int
    read_bytes: int
    written_bytes: int
    macs: int
    elements: int

    @property
    def macs_per_cycle(self) -> float:
        """Multiply-accumulates a clock."""
        return self.macs / self.cycles

    @property
    def utilisation(self) -> float:
        """The same, of what the array can do."""
        return self.macs_per_cycle / self.elements

    def seconds(self, clock_hz: float) -> float:
        """The time at a clock of so many Hz."""
        return self.cycles / clock_hz

    def macs_per_second(self, clock_hz: float) -> float:
        """Multiply-accumulates a second at a clock of so many Hz."""
        return self.macs / self.seconds(clock_hz)


def roofline(plan: GemmPlan, *, out_bytes: int = 4, bandwidth: float = 1.0) -> float:
    """Most multiply-accumulates a clock: the array's, or what the bus allows if each operand is read only once.

    Parameters
    ----------
    plan
        The GEMM.
    out_bytes
        Bytes a result.
    bandwidth
        Bus words a clock in each direction.
    """
    config = plan.config
    read = (plan.m * config.a_bytes + plan.n * config.b_bytes) * plan.k
    words = max(read, plan.m * plan.n * out_bytes) / config.bus_bytes
    steps = config.rows * config.columns / config.interleave
    # Scales of blocks are steps of their own, and containers in memory.
    return min(steps, plan.m * plan.n * plan.k * bandwidth / words) * _elements(plan) / plan.k


def _elements(plan: GemmPlan) -> int:
    """Elements of K: what is left without the scales of blocks."""
    block = plan.config.block
    return plan.k - -(-plan.k // (block + 1)) if block else plan.k


@lru_cache(maxsize=4096)
def predict(
    plan: GemmPlan,
    *,
    out_bytes: int = 4,
    c_address: int = 0,
    c_stride: int | None = None,
    memory: MemoryTiming = MemoryTiming(),  # noqa: B008  (immutable)
) -> GemmCycles:
    """The clocks of a GEMM on a core at rest, and what it moves.

    Parameters
    ----------
    plan
        The GEMM: core, sizes, addresses, strides and layouts.
    out_bytes
        Bytes a result: 1, 2 or 4.
    c_address, c_stride
        Where C lies, and bytes from a row of it to the next; None where there is nothing between rows.
    memory
        The memory.

    Raises
    ------
    ValueError
        For what no GEMM can be.
    """
    if out_bytes not in (1, 2, 4):
        raise ValueError(f"out_bytes must be 1, 2 or 4, not {out_bytes!r}")
    for name in ("m", "n", "k"):
        if getattr(plan, name) < 1:
            raise ValueError(f"{name} must be 1 or more, not {getattr(plan, name)!r}")
    if plan.config.block and plan.k % (plan.config.block + 1) == 1:
        raise ValueError(f"k counts scales and elements: {plan.k} ends in a scale, of blocks of {plan.config.block}")
    stride = plan.n * out_bytes if c_stride is None else c_stride
    with _LOCK:
        return walk_gemm(plan, memory, out_bytes, c_address, stride)


def forget() -> None:
    """Forget what is remembered of GEMMs, cores and memories: for those who measure what a question takes."""
    with _LOCK:
        predict.cache_clear()
        forget_starts()


def walk_gemm(
    plan: GemmPlan, memory: MemoryTiming, out_bytes: int, c_address: int, c_stride: int, *, shortcuts: bool = True
) -> GemmCycles:
    """What `predict` gives, not remembered; without `shortcuts` tile by tile and line by line, for comparison."""
    walked = GemmClocks(plan, memory, out_bytes, c_address, c_stride).walk(shortcuts=shortcuts)
    config = plan.config
    read, written = walked.read, walked.written
    if shortcuts:
        read = words_read(plan)
        written = words_written(plan, out_bytes=out_bytes, c_address=c_address, c_stride=c_stride)
    return GemmCycles(
        cycles=walked.answered + TOLD_LATENCY,
        read_bytes=read * config.bus_bytes,
        written_bytes=written * config.bus_bytes,
        macs=plan.m * plan.n * _elements(plan),
        elements=config.rows * config.columns // config.interleave,
    )
