"""Where loads keep the bus busy, only their words count, and not how pages' ends cut them into bursts."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from halfulp.hw.config import BURST_BEATS, ArrayConfig
from halfulp.hw.schedule import GemmPlan
from halfulp.sim.cycle_count import dense_gemm
from halfulp.sim.gemm_clocks import GemmClocks
from halfulp.sim.memory_timing import MemoryTiming
from halfulp.sim.traffic import words_read

SMALL_BUFFERS = [
    ArrayConfig(rows=16, columns=16, buffer_depth=128),
    ArrayConfig(rows=8, columns=8, buffer_depth=128, a_formats=("int8",), b_formats=("int8",)),
    ArrayConfig(rows=6, columns=8, buffer_depth=256, reads_outstanding=8),
    ArrayConfig(rows=9, columns=4, buffer_depth=128, bus_width=32),
    ArrayConfig(rows=1, columns=32, buffer_depth=128, bus_width=128, reads_outstanding=32),
    ArrayConfig(rows=4, columns=16, buffer_depth=128, a_formats=("int12",)),
    ArrayConfig(rows=8, columns=16, buffer_depth=128, interleave=2, accumulator="e6m5"),
]


def chunked_gemm(rng: np.random.Generator, config: ArrayConfig) -> GemmPlan:
    """A GEMM of a few tiles, which lies anywhere, and whose K is cut in chunks."""

    def panels(lanes: int) -> int:
        return int(rng.integers(1, 7)) * lanes - int(rng.choice((0, 0, lanes // 2, rng.integers(lanes))))

    def apart(size: int) -> int:
        return size * int(rng.choice((0, 0, 0, 1, 8, rng.integers(100), rng.integers(4096))))

    whole = config.buffer_depth // 2 * config.bus_bytes // max(config.a_bytes, config.b_bytes)
    k = whole + int(rng.choice((1, 8, whole // 2, whole, rng.integers(1, 2 * whole))))
    across_k = bool(rng.integers(2)), bool(rng.integers(2))
    plan = dense_gemm(config, panels(config.rows), k, panels(config.columns), across_k=across_k, out_bytes=4, base=0)[0]
    return replace(
        plan,
        a_address=plan.a_address + apart(config.a_bytes),
        b_address=plan.b_address + apart(config.b_bytes),
        a_stride=plan.a_stride + apart(config.a_bytes),
        b_stride=plan.b_stride + apart(config.b_bytes),
    )


def test_a_bus_that_is_busy_with_loads_tells_the_end(rng: np.random.Generator, request: pytest.FixtureRequest):
    """Of loads that take longer than steps only the first and last tiles' are followed, however they are cut."""
    count = 50_000 if request.config.option.fuzz else 1000
    passed = 0
    for _ in range(count):
        config = SMALL_BUFFERS[int(rng.integers(len(SMALL_BUFFERS)))]
        plan = chunked_gemm(rng, config)
        assert plan.chunked
        memory = MemoryTiming(
            read_latency=int(rng.choice((1, 1, 2, 5, rng.integers(1, 60)))),
            bandwidth=float(rng.choice((1, 1, 0.5, 0.3, rng.uniform(0.1, 1)))),
            outstanding=int(rng.choice((4, 8, 32))),
        )
        clocks = GemmClocks(plan, memory, 4, 0, plan.n * 4)
        walked, told = clocks.walk(shortcuts=False), clocks.walk()
        assert told.answered == walked.answered, (plan, memory)
        passed += told.read < walked.read
    assert passed > count // 5


def test_on_a_slow_bus_groups_are_alike_wherever_pages_cut_their_lines(
    rng: np.random.Generator, request: pytest.FixtureRequest
):
    """A bus word takes longer than a request, so that only words count: a few groups are followed, in this state."""
    count = 5000 if request.config.option.fuzz else 100
    passed = 0
    for _ in range(count):
        config = SMALL_BUFFERS[int(rng.integers(len(SMALL_BUFFERS)))]
        blocks = int(rng.integers(2, config.buffer_depth // 2 // BURST_BEATS + 1))
        k = blocks * BURST_BEATS * config.bus_bytes // max(config.a_bytes, config.b_bytes) - int(rng.integers(2))
        m, n = (int(rng.integers(12, 40)) * lanes + 8 * int(rng.integers(2)) for lanes in (config.rows, config.columns))
        across_k = bool(rng.integers(2)), bool(rng.integers(2))
        plan = dense_gemm(config, m, k, n, across_k=across_k, out_bytes=2, base=0)[0]
        plan = replace(plan, a_stride=plan.a_stride + 8 * int(rng.integers(100)))
        memory = MemoryTiming(read_latency=int(rng.integers(1, 12)), bandwidth=float(rng.uniform(0.1, 0.5)))
        clocks = GemmClocks(plan, memory, 2, 0, plan.n * 2)
        walked, told = clocks.walk(shortcuts=False), clocks.walk()
        assert told.answered == walked.answered, (plan, memory)
        passed += told.read < walked.read // 2
    assert passed > count // 10
    # No panels of this one are cut alike.
    plan = dense_gemm(ArrayConfig(rows=16, columns=16), 1000, 1000, 1000, across_k=(True, True), out_bytes=4, base=0)[0]
    clocks = GemmClocks(plan, MemoryTiming(bandwidth=0.3), 4, 0, 4000)
    walked, told = clocks.walk(shortcuts=False), clocks.walk()
    assert told.answered == walked.answered
    assert told.read < walked.read // 3


@pytest.mark.parametrize("size", [8, 16])
def test_of_a_weight_gradient_few_loads_are_followed(size: int):
    """Both operands lie across K, which is cut in chunks: thousands of words are followed, not millions."""
    config = ArrayConfig(rows=size, columns=size)
    for across_k, bandwidth in itertools.product(((True, True), (False, True)), (1.0, 0.3)):
        plan = dense_gemm(config, 1000, 4096, 1000, across_k=across_k, out_bytes=4, base=0)[0]
        told = GemmClocks(plan, MemoryTiming(bandwidth=bandwidth), 4, 0, 4000).walk()
        assert told.read < words_read(plan) // 100
