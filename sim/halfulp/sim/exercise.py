"""GEMMs that show a compiler which ways through a core's simulation are taken often."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from halfulp.sim.cycle_count import RunningCore, count_cycles, dense_gemm
from halfulp.sim.device_memory import DeviceBuffer
from halfulp.sim.memory_timing import PAGE_BYTES

__all__ = ["CoreWithMemory", "exercise_core"]

STEPS = 256
"""K."""

TILES = 6
"""Of a side: more than the buffers hold beside each other, so that operands are read while others are used."""

TIMEOUT_S = 60.0


class CoreWithMemory(RunningCore, Protocol):
    """A simulated core, and memory for it."""

    def allocate(self, nbytes: int) -> DeviceBuffer:
        """Memory of `nbytes` bytes; MemoryError where there is none."""
        ...


def exercise_core(core: CoreWithMemory) -> None:
    """Run a GEMM of random operands in each layout: some tens of thousands of clocks.

    Parameters
    ----------
    core
        At rest, with 8 MiB of memory or more.

    Raises
    ------
    TimeoutError, RuntimeError, OSError
        Where the core does not end a GEMM, or breaks a rule of its buses.
    """
    config = core.config
    m, n = TILES * config.rows, TILES * config.columns
    memory = core.allocate(1 << 23)
    memory.array[:] = np.random.default_rng(0).integers(0, 256, memory.array.size, np.uint8)
    base, size = memory.address + -memory.address % PAGE_BYTES, config.out_formats[0].container_bytes
    for across_k in ((False, False), (False, True), (True, False), (True, True)):
        plan, c_address, _ = dense_gemm(config, m, STEPS, n, across_k=across_k, out_bytes=size, base=base)
        count_cycles(core, plan, c_address=c_address, c_stride=size * n, timeout_s=TIMEOUT_S)
