"""Dense GEMMs, and their clocks by the core's own counter, which the cycle model has to equal."""

from __future__ import annotations

import time

from halfulp.hw.config import ArrayConfig
from halfulp.hw.registers import register
from halfulp.hw.schedule import GemmPlan
from halfulp.sim.memory_timing import PAGE_BYTES
from halfulp.sim.rtl import RtlCore

__all__ = ["count_cycles", "dense_gemm"]


def dense_gemm(
    config: ArrayConfig, m: int, k: int, n: int, *, across_k: tuple[bool, bool], out_bytes: int, base: int
) -> tuple[GemmPlan, int, int]:
    """A GEMM without gaps between rows, each operand from a page's start on; address of C, and bytes of all three.

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
    a_pages, b_pages, c_pages = (-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes)
    plan = GemmPlan(
        config=config,
        m=m,
        n=n,
        k=k,
        a_address=base,
        b_address=base + a_pages,
        a_stride=(m if across_k[0] else k) * config.a_bytes,
        b_stride=(n if across_k[1] else k) * config.b_bytes,
        a_across_k=across_k[0],
        b_across_k=across_k[1],
    )
    return plan, base + a_pages + b_pages, a_pages + b_pages + c_pages


def count_cycles(
    core: RtlCore, plan: GemmPlan, *, out_format: int = 0, c_address: int, c_stride: int, timeout_s: float = 600.0
) -> int:
    """Run a GEMM on whatever is in memory, for its clocks.

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
        "rounding": 0,
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
    deadline = time.monotonic() + timeout_s
    while core.read(status) & 1:
        if not core.wait(1.0) and time.monotonic() > deadline:
            raise TimeoutError(f"{plan.m} x {plan.k} x {plan.n} did not end in {timeout_s:g} s")
    if core.read(status) & 0b110 != 0b010:
        raise RuntimeError(f"the core refused {plan.m} x {plan.k} x {plan.n}: status {core.read(status):#x}")
    low, high = (core.read(register(f"cycles_{half}").offset) for half in ("low", "high"))
    return high << 32 | low
