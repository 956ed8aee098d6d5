"""GEMMs that show a compiler which ways through a core's simulation are taken often."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from halfulp.hw.config import ArrayConfig
from halfulp.sim.cycle_count import count_cycles, dense_gemm
from halfulp.sim.rtl import RtlCore

__all__ = ["exercise_core"]

STEPS = 256
TILES = 6
"""Of a side: more than the buffers hold beside each other, so that operands are read while others are used."""

TIMEOUT_S = 60.0


def exercise_core(config: ArrayConfig, library: Path) -> None:
    """Run a GEMM of random operands in each layout on this build of the core: some tens of thousands of clocks.

    Raises
    ------
    TimeoutError, RuntimeError, OSError
        Where the core does not end a GEMM, or breaks a rule of its buses.
    """
    m, n = TILES * config.rows, TILES * config.columns
    with RtlCore(config, memory_bytes=1 << 24, library=library) as core:
        memory = core.allocate(1 << 23)
        memory.array[:] = np.random.default_rng(0).integers(0, 256, memory.array.size, np.uint8)
        base = memory.address + -memory.address % 4096
        for across_k in ((False, False), (False, True), (True, False), (True, True)):
            plan, c_address, _ = dense_gemm(config, m, STEPS, n, across_k=across_k, out_bytes=4, base=base)
            count_cycles(core, plan, c_address=c_address, c_stride=4 * n, timeout_s=TIMEOUT_S)
