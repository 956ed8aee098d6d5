"""The writer: memory after it equals what the groups said, on a bus that checks every rule; errors and flushes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from halfulp.hw.config import ArrayConfig
from halfulp.hw.writer import Writer

from .axi_models import AxiMemory

CONFIG = ArrayConfig(rows=2, columns=8, lanes=4, buffer_depth=64)
BASE = 0x7_FFFF_0000
SIZE = 0x20000


class Matrix:
    """Results [M, N] of random codes, cut into tiles of R x C rows as the drain delivers them."""

    def __init__(self, config: ArrayConfig, rng: random.Random, *, address: int, stride: int, log2: int) -> None:
        self.config, self.log2, self.address, self.stride = config, log2, address, stride
        self.m, self.n = rng.randint(1, 5), rng.randint(1, 3 * config.columns)
        self.codes = [[rng.getrandbits(8 << log2) for _ in range(self.n)] for _ in range(self.m)]

    def groups(self) -> list[dict[str, Any]]:
        config, groups = self.config, []
        for i0 in range(0, self.m, config.rows):
            for j0 in range(0, self.n, config.columns):
                for i in range(i0, min(i0 + config.rows, self.m)):
                    end = min(j0 + config.columns, self.n)
                    for j in range(j0, end, config.lanes):
                        count = min(config.lanes, end - j)
                        groups.append(
                            {
                                "codes": self.codes[i][j : j + count] + [0] * (config.lanes - count),
                                "count": count,
                                "bytes_log2": self.log2,
                                "address": self.address + i * self.stride + (j << self.log2),
                                "last_of_row": j + count == end,
                                "last_of_gemm": 0,
                            }
                        )
        groups[-1]["last_of_gemm"] = 1
        return groups

    def place(self, memory: np.ndarray) -> None:
        for i, row in enumerate(self.codes):
            for j, code in enumerate(row):
                at = self.address - BASE + i * self.stride + (j << self.log2)
                memory[at : at + (1 << self.log2)] = list(code.to_bytes(1 << self.log2, "little"))


class Bench:
    """A writer on a memory, fed with groups; records what it reports."""

    def __init__(self, config: ArrayConfig, seed: int, *, stall: float = 0.0, latency: tuple[int, int] = (1, 1)):
        self.dut = Writer(config=config)
        self.memory = AxiMemory(
            size=SIZE, base=BASE, bus_bytes=config.bus_bytes, seed=seed, stall=stall, latency=latency
        )
        self.memory.data[:] = 0xA5
        self.before = self.memory.data.copy()
        self.done = 0
        self.errors: list[int] = []
        self.clocks = 0
        self._random = random.Random(seed)

    async def watch(self, ctx: Any) -> None:
        dut = self.dut
        async for _, _, done, error, at in ctx.tick().sample(dut.done, dut.error, dut.error_address):
            self.clocks += 1
            self.done += done
            if error:
                self.errors.append(at)

    async def feed(self, ctx: Any, groups: list[dict[str, Any]], *, gaps: float = 0.0) -> None:
        stream = self.dut.groups
        for group in groups:
            while self._random.random() < gaps:
                await ctx.tick()
            ctx.set(stream.payload, group)
            ctx.set(stream.valid, 1)
            for _ in range(2000):
                _, _, ready = await ctx.tick().sample(stream.ready)
                if ready:
                    break
            else:
                raise AssertionError("the writer never takes a group")
            ctx.set(stream.valid, 0)

    async def wait_idle(self, ctx: Any, limit: int = 3000) -> None:
        for _ in range(limit):
            if ctx.get(self.dut.idle):
                return
            await ctx.tick()
        raise AssertionError("the writer never becomes idle")

    def run(self, testbench: Any) -> None:
        sim = Simulator(self.dut)
        sim.add_clock(1e-6)

        async def serve(ctx: Any) -> None:
            await self.memory.serve_writes(ctx, self.dut.axi)

        sim.add_testbench(serve, background=True)
        sim.add_testbench(self.watch, background=True)
        sim.add_testbench(testbench)
        sim.run()


@pytest.mark.parametrize(("stall", "latency"), [(0.0, (1, 1)), (0.5, (1, 20)), (0.1, (60, 90))])
@pytest.mark.parametrize(("lanes", "bus_width"), [(1, 64), (4, 64), (8, 128), (4, 128), (2, 64)])
def test_memory_holds_all_codes_and_nothing_else(
    seed: int, lanes: int, bus_width: int, stall: float, latency: tuple[int, int]
) -> None:
    config = CONFIG.replace(lanes=lanes, bus_width=bus_width)
    bench = Bench(config, seed, stall=stall, latency=latency)
    rng = random.Random(seed)
    expected = bench.before

    async def testbench(ctx: Any) -> None:
        at = 0x20
        for n in range(9):
            log2 = n % 3
            # Every second matrix lies around a multiple of 4 KiB; strides leave gaps of any size.
            row = (3 * config.columns) << log2
            stride = row + (rng.randrange(0, 40) << log2)
            at = (at + (rng.randrange(1, 20) << log2) + 3) >> log2 << log2
            if n % 2:
                at = (at // 4096 + 1) * 4096 - (rng.randrange(1, 12) << log2)
            matrix = Matrix(config, rng, address=BASE + at, stride=stride, log2=log2)
            matrix.place(expected)
            await bench.feed(ctx, matrix.groups(), gaps=rng.choice([0.0, 0.3]))
            at += stride * matrix.m
        await bench.wait_idle(ctx)

    bench.run(testbench)
    assert bench.done == 9
    assert bench.errors == []
    assert bench.memory.responses == len(bench.memory.writes)
    assert np.array_equal(bench.memory.data, expected)


def test_done_waits_for_every_response(seed: int) -> None:
    bench = Bench(CONFIG, seed)
    rng = random.Random(seed)

    async def testbench(ctx: Any) -> None:
        bench.memory.hold_responses = True
        for n in range(2):
            matrix = Matrix(CONFIG, rng, address=BASE + 0x100 + 0x800 * n, stride=64, log2=0)
            await bench.feed(ctx, matrix.groups())
        await ctx.tick().repeat(100)
        assert bench.done == 0
        assert not ctx.get(bench.dut.idle)
        bench.memory.hold_responses = False
        await bench.wait_idle(ctx)
        await ctx.tick()
        assert bench.done == 2

    bench.run(testbench)


@pytest.mark.parametrize(("log2", "groups_a_clock"), [(0, 1.0), (1, 1.0), (2, 0.5)])
def test_full_rate_on_a_free_bus(seed: int, log2: int, groups_a_clock: float) -> None:
    """Aligned rows leave at a bus word a clock, or at a group a clock where one is narrower than a word."""
    config = CONFIG.replace(columns=64, rows=1)
    bench = Bench(config, seed)
    groups = [
        {
            "codes": [1, 2, 3, 4],
            "count": 4,
            "bytes_log2": log2,
            "address": BASE + 0x400 * (n // 16) + ((n % 16) * 4 << log2),
            "last_of_row": n % 16 == 15,
            "last_of_gemm": n == 127,
        }
        for n in range(128)
    ]

    async def testbench(ctx: Any) -> None:
        await bench.feed(ctx, groups)
        await bench.wait_idle(ctx)

    bench.run(testbench)
    assert bench.done == 1
    assert bench.clocks <= 128 / groups_a_clock + 40


def test_narrow_groups_off_alignment_keep_the_rate(seed: int) -> None:
    """A group that straddles two bus words still takes one clock: its second word is kept for the next group."""
    config = CONFIG.replace(columns=64, rows=1)
    bench = Bench(config, seed)
    groups = [
        {
            "codes": [n & 0xFF, 2, 3, 4],
            "count": 4,
            "bytes_log2": 0,
            "address": BASE + 6 + 4 * n,
            "last_of_row": n == 63,
            "last_of_gemm": n == 63,
        }
        for n in range(64)
    ]

    async def testbench(ctx: Any) -> None:
        await bench.feed(ctx, groups)
        await bench.wait_idle(ctx)

    bench.run(testbench)
    assert bench.clocks <= 64 + 30
    assert [int(b) for b in bench.memory.data[6:262:4]] == [n & 0xFF for n in range(64)]
    assert bench.memory.data[5] == 0xA5
    assert bench.memory.data[262] == 0xA5


@pytest.mark.parametrize("where", ["first", "last"])
def test_error_response_gives_the_address_of_its_burst(seed: int, where: str) -> None:
    bench = Bench(CONFIG, seed, stall=0.3, latency=(1, 9))
    rows = [
        {
            "codes": [n, 0, 0, 0],
            "count": 4,
            "bytes_log2": 2,
            "address": BASE + 0x100 * n,
            "last_of_row": 1,
            "last_of_gemm": n == 5,
        }
        for n in range(6)
    ]
    failing = {"first": 0, "last": 5}[where]
    bench.memory.fail(BASE + 0x100 * failing + 8)

    async def testbench(ctx: Any) -> None:
        await bench.feed(ctx, rows)
        await bench.wait_idle(ctx)

    bench.run(testbench)
    assert bench.errors == [BASE + 0x100 * failing]
    # A burst that fails does not report its GEMM as done.
    assert bench.done == (0 if where == "last" else 1)


@pytest.mark.parametrize("clocks", [*range(1, 40, 3), 60, 100])
def test_flush_at_any_time_keeps_the_bus_whole_and_the_next_gemm_right(seed: int, clocks: int) -> None:
    bench = Bench(CONFIG.replace(columns=32), seed, stall=0.4, latency=(1, 12))
    rng = random.Random(seed)
    lost = Matrix(CONFIG.replace(columns=32), rng, address=BASE + 0x1FF9, stride=96, log2=0)
    kept = Matrix(CONFIG.replace(columns=32), rng, address=BASE + 0x2FF9, stride=96, log2=0)
    written = 0

    async def testbench(ctx: Any) -> None:
        nonlocal written
        groups = lost.groups() * 4
        # The groups come as fast as they are taken, up to the clock of the flush.
        for _ in range(clocks):
            ctx.set(bench.dut.groups.valid, 1)
            ctx.set(bench.dut.groups.payload, groups[0])
            _, _, ready = await ctx.tick().sample(bench.dut.groups.ready)
            if ready and len(groups) > 1:
                groups.pop(0)
        ctx.set(bench.dut.groups.valid, 0)
        ctx.set(bench.dut.flush, 1)
        done = bench.done
        await ctx.tick().repeat(2)
        await bench.wait_idle(ctx)
        await ctx.tick().repeat(3)
        assert bench.done <= done + 1
        assert bench.memory.responses == len(bench.memory.writes)
        written = len(bench.memory.writes)
        ctx.set(bench.dut.flush, 0)
        done = bench.done
        await bench.feed(ctx, kept.groups())
        await bench.wait_idle(ctx)
        await ctx.tick()
        assert bench.done == done + 1

    bench.run(testbench)
    assert bench.errors == []
    # Nothing but what the groups said was written, whatever was cut off.
    places = bench.before.copy()
    lost.place(places)
    region = slice(0, 0x2F00)
    actual = bench.memory.data[region]
    assert np.all((actual == bench.before[region]) | (actual == places[region]))
    expected = bench.before.copy()
    kept.place(expected)
    assert np.array_equal(bench.memory.data[0x2F00:], expected[0x2F00:])
    assert len(bench.memory.writes) > written
