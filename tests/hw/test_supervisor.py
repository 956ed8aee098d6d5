"""The supervisor: every start ends once, and a flush lasts as long as something is under way."""

from __future__ import annotations

import random
from typing import Any

from amaranth.sim import Simulator

from halfulp.hw.config import ArrayConfig
from halfulp.hw.core import Supervisor

CONFIG = ArrayConfig(rows=2, columns=2, lanes=2, buffer_depth=64)


def run(dut: Supervisor, bench: Any) -> None:
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


async def step(ctx: Any, dut: Supervisor, **inputs: int) -> tuple[int, int, int]:
    """One clock with these inputs: flush, busy and retired in it."""
    for name in ("started", "ended", "stop", "idle"):
        ctx.set(getattr(dut, name), inputs.get(name, 0))
    _, _, flush, busy, retired = await ctx.tick().sample(dut.flush, dut.busy, dut.retired)
    return flush, busy, retired


def test_flush_waits_for_idle_and_for_the_way_through_the_array() -> None:
    dut = Supervisor(config=CONFIG)

    async def bench(ctx: Any) -> None:
        for _ in range(3):
            await step(ctx, dut, started=1, idle=0)
        assert await step(ctx, dut, idle=0) == (0, 1, 0)
        assert await step(ctx, dut, stop=1, idle=1) == (0, 1, 0)
        clocks = 0
        while True:
            flush, busy, retired = await step(ctx, dut, idle=1, started=clocks == 5)
            assert (flush, busy) == (1, 1)
            clocks += 1
            if retired:
                break
        assert retired == 4
        assert clocks == dut.flush_clocks + 1
        assert await step(ctx, dut, idle=1) == (0, 0, 0)

        await step(ctx, dut, stop=1)
        for _ in range(500):
            assert await step(ctx, dut) == (1, 1, 0)
        assert await step(ctx, dut, idle=1) == (1, 1, 0)
        assert await step(ctx, dut, idle=1) == (0, 0, 0)

    run(dut, bench)


def test_every_start_retires_once(seed: int) -> None:
    dut = Supervisor(config=CONFIG)
    rng = random.Random(seed)

    async def bench(ctx: Any) -> None:
        started = retired = flushed = 0
        for n in range(4000):
            under_way = started - retired
            start = int(rng.random() < 0.1)
            ended = rng.randint(0, min(2, under_way)) if rng.random() < 0.1 else 0
            stop, idle = int(rng.random() < 0.005), int(rng.random() < 0.1)
            if n >= 3500:
                start, stop, idle = 0, int(n == 3500), 1
            flush, busy, now = await step(ctx, dut, started=start, ended=ended, stop=stop, idle=idle)
            assert busy == (flush or under_way > 0)
            if not flush:
                assert now == ended
            # A flush ends with nothing under way, and what is started in its last clock is not forgotten.
            assert flush or not flushed or under_way == 0
            flushed = flush
            started, retired = started + start, retired + now
        assert started == retired > 0

    run(dut, bench)
