"""The planner finds what `GemmPlan` computes, for operands of every size and alignment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, unsigned
from amaranth.sim import Simulator

from halfulp.hw.config import ArrayConfig
from halfulp.hw.planner import Planner, times
from halfulp.hw.schedule import GemmPlan

CONFIGS = [
    ArrayConfig(rows=8, columns=8),
    ArrayConfig(rows=12, columns=6, lanes=2, buffer_depth=64, bus_width=128),
    ArrayConfig(rows=3, columns=7, lanes=1, a_formats=("int16",), b_formats=("int8",), accumulator="exact:9"),
    ArrayConfig(rows=1, columns=5, lanes=1, a_formats=("int8",), b_formats=("int16",), accumulator="exact:4096"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.rows}x{config.columns}")
def test_planner_equals_plan(rng: np.random.Generator, config: ArrayConfig) -> None:
    planner = Planner(config=config)
    word = config.bus_bytes
    edges = [1, 2, word, 16 * word, config.buffer_depth // 2 * word // config.a_bytes, config.max_k]
    plans = []
    for _ in range(150):
        k = int(rng.choice(edges)) + int(rng.integers(-2, 3)) if rng.random() < 0.5 else int(2 ** rng.uniform(0, 13))
        k = min(max(k, 1), config.max_k)
        m, n = (int(2 ** rng.uniform(0, 31.9)) if rng.random() < 0.2 else int(rng.integers(1, 300)) for _ in "mn")
        unit = word if rng.random() < 0.5 else 4
        plan = GemmPlan(
            config=config,
            m=m,
            n=n,
            k=k,
            a_address=int(rng.integers(0, 1 << 40)) * unit,
            b_address=int(rng.integers(0, 1 << 40)) * unit,
            a_stride=int(rng.integers(0, 1 << 20)) * unit,
            b_stride=int(rng.integers(0, 1 << 20)) * unit,
            a_across_k=bool(rng.integers(2)),
            b_across_k=bool(rng.integers(2)),
        )
        plans.append(plan)

    async def bench(ctx: Any) -> None:
        ctx.set(planner.offered, 1)
        for plan in plans:
            for name in ("m", "n", "k", "a_address", "b_address", "a_stride", "b_stride", "a_across_k", "b_across_k"):
                ctx.set(planner.descriptor[name], int(getattr(plan, name)))
            await ctx.tick().repeat(Planner.latency - 1)
            assert not ctx.get(planner.valid)
            await ctx.tick()
            assert ctx.get(planner.valid)
            assert (ctx.get(planner.plan.a_slot), ctx.get(planner.plan.b_slot)) == plan.slot_words
            assert [ctx.get(planner.plan.a_slack), ctx.get(planner.plan.b_slack)] == [
                int(operand.slack > 0) for operand in plan.operands
            ]
            assert ctx.get(planner.plan.chunked) == plan.chunked
            assert ctx.get(planner.plan.whole) == plan.group - 1
            assert ctx.get(planner.plan.half) == plan.group // 2
            assert ctx.get(planner.plan.resident) == plan.resident
            rows = plan.group * plan.operands[plan.resident].lanes
            assert (ctx.get(planner.plan.group_rows), ctx.get(planner.plan.split_rows)) == (rows, rows + rows // 2)
            ctx.set(planner.taken, 1)
            await ctx.tick()
            ctx.set(planner.taken, 0)

    simulator = Simulator(planner)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    # A K of at most 9 always fits sixteen times.
    assert config.max_k == 9 or len({plan.group for plan in plans}) > 3
    assert config.max_k == 9 or {plan.chunked for plan in plans} == {False, True}


def test_times_is_a_product() -> None:
    value = Signal(9)
    factors = range(1, 65)
    products = [times(value, factor) for factor in factors]
    results = [Signal(unsigned(9 + 7)) for _ in factors]

    async def bench(ctx: Any) -> None:
        for number in (0, 1, 255, 511):
            ctx.set(value, number)
            for factor, product in zip(factors, products, strict=True):
                assert ctx.get(product) == number * factor

    m = Module()
    m.d.comb += [result.eq(product) for result, product in zip(results, products, strict=True)]
    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
