"""Dense GEMMs, and their clocks on a simulated core, which the cycle model has to equal."""

from __future__ import annotations

from typing import Protocol

from halfulp.hw.config import ArrayConfig
from halfulp.hw.registers import register
from halfulp.hw.schedule import GemmPlan
from halfulp.numerics.rounding import KINDS
from halfulp.sim.memory_timing import PAGE_BYTES

__all__ = ["RunningCore", "count_cycles", "dense_gemm"]

FEW_PAGES_BITS = 16
"""Cores with fewer address bits have memories of so few pages that no matrix has one to itself."""

INTERRUPT_LATENCY = 2
"""Clocks from the first in which a core is no longer busy to the interrupt: it is registered, and its cause was."""


class RunningCore(Protocol):
    """What counting needs of a simulated core; `halfulp.sim.rtl.RtlCore` is one."""

    @property
    def config(self) -> ArrayConfig:
        """The core's configuration."""
        ...

    @property
    def cycles(self) -> int:
        """Clocks that have gone by."""
        ...

    def read(self, offset: int) -> int:
        """Read the 32-bit register at byte `offset`."""
        ...

    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at byte `offset`."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Run until the interrupt line is high, or the time is over; return whether it is high."""
        ...


def dense_gemm(
    config: ArrayConfig, m: int, k: int, n: int, *, across_k: tuple[bool, bool], out_bytes: int, base: int
) -> tuple[GemmPlan, int, int]:
    """A GEMM without gaps between rows; address of C, and bytes of all three.

    Each matrix begins a page, or where a core's addresses reach few of them, at a multiple of 64 bytes.

    Parameters
    ----------
    k
        Elements; of block-scaled operands, each block's scale lies before them.
    across_k
        Whether A, and B, lie across K.
    out_bytes
        Bytes a result.
    base
        Address of A, a multiple of 4096.
    """
    k = config.steps(k)
    sizes = m * k * config.a_bytes, k * n * config.b_bytes, m * n * out_bytes
    unit = PAGE_BYTES if config.address_bits >= FEW_PAGES_BITS else 64
    a_room, b_room, c_room = (-(-size // unit) * unit for size in sizes)
    plan = GemmPlan(
        config=config,
        m=m,
        n=n,
        k=k,
        a_address=base,
        b_address=base + a_room,
        a_stride=(m if across_k[0] else k) * config.a_bytes,
        b_stride=(n if across_k[1] else k) * config.b_bytes,
        a_across_k=across_k[0],
        b_across_k=across_k[1],
    )
    return plan, base + a_room + b_room, a_room + b_room + c_room


def count_cycles(
    core: RunningCore, plan: GemmPlan, *, out_format: int = 0, c_address: int, c_stride: int, timeout_s: float = 600.0
) -> int:
    """Run a GEMM on whatever is in memory, for its clocks: those in which the core is busy with it.

    By the core's counter; of a core that has none, from the clock behind the start's, which is the first in which the
    start's write has been answered, to the interrupt, less what this comes later.

    Parameters
    ----------
    core
        At rest.
    plan
        The GEMM, in the core's memory.
    out_format
        Number of the output format.
    c_address, c_stride
        Where C goes.
    timeout_s
        TimeoutError after so many seconds.
    """
    values = {
        "m": plan.m,
        "n": plan.n,
        "k": plan.k,
        "a_stride": plan.a_stride,
        "b_stride": plan.b_stride,
        "c_stride": c_stride,
        "layout": plan.a_across_k | plan.b_across_k << 1,
        "formats": out_format << 16,
        "rounding": KINDS.index(core.config.roundings[0]) | 1 << register("rounding").field("random_bits").lsb,
        "scale": 0,
        "interrupt_enable": 0b11,
    }
    for name, address in (("a", plan.a_address), ("b", plan.b_address), ("c", c_address)):
        values[f"{name}_address_low"], values[f"{name}_address_high"] = address & 0xFFFF_FFFF, address >> 32
    status, control = register("status").offset, register("control")
    core.write(control.offset, 1 << control.field("clear").lsb)
    for name, value in values.items():
        core.write(register(name).offset, value)
    core.write(control.offset, 1 << control.field("start").lsb)
    begun = core.cycles
    if not core.wait(timeout_s):
        raise TimeoutError(f"{plan.m} x {plan.k} x {plan.n} did not end in {timeout_s:g} s")
    ended = core.cycles
    if core.read(status) & 0b110 != 0b010:
        raise RuntimeError(f"the core refused {plan.m} x {plan.k} x {plan.n}: status {core.read(status):#x}")
    if not core.config.counters:
        return ended - begun - INTERRUPT_LATENCY
    low, high = (core.read(register(f"cycles_{half}").offset) for half in ("low", "high"))
    return high << 32 | low
