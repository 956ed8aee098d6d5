# amaranth: UnusedElaboratable=no
"""The whole core against the golden model: layouts, formats, rounding, edges, queueing, errors, resets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halfulp.hw.config import ArrayConfig
from halfulp.hw.core import Core
from halfulp.hw.registers import CORE_ID, ErrorCode, register
from halfulp.numerics.gemm import GemmSpec, golden_gemm

from .axi_models import DECERR, SLVERR
from .core_bench import BASE, CoreBench, error_code

FP8_2X3 = ArrayConfig(
    rows=2,
    columns=3,
    lanes=1,
    a_formats=("e4m3", "e5m2"),
    b_formats=("e4m3",),
    out_formats=("float32", "e4m3", "bfloat16"),
    accumulator="exact:256",
    buffer_depth=64,
    reads_outstanding=4,
)
INT_2X2 = ArrayConfig(
    rows=2,
    columns=2,
    lanes=2,
    a_formats=("int8",),
    b_formats=("int8",),
    out_formats=("int8", "float32"),
    accumulator="exact:1024",
    buffer_depth=64,
)
FP8 = GemmSpec("e4m3", "e4m3", "float32")
LAYOUTS = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("stall", "latency"), [(0.0, (1, 1)), (0.4, (1, 30))])
def test_every_layout_with_and_without_stalls(
    seed: int, layout: tuple[int, int], stall: float, latency: tuple[int, int]
) -> None:
    bench = CoreBench(FP8_2X3, seed=seed, stall=stall, latency=latency, lite_gap=2 if stall else 0)
    specs = [
        GemmSpec("e5m2", "e4m3", "e4m3", rounding="stochastic:7"),
        GemmSpec("e4m3", "e4m3", "bfloat16", rounding="toward_zero", scale=-3),
    ]
    shapes = [(3, 4, 19), (1, 1, 1)]
    jobs = [
        bench.job(*shape, spec, a_across_k=bool(layout[0]), b_across_k=bool(layout[1]), seed=seed)
        for shape, spec in zip(shapes, specs, strict=True)
    ]

    async def testbench(ctx: Any) -> None:
        assert await bench.read(ctx, "id") == CORE_ID
        for job in jobs:
            await bench.start(ctx, job)
        status = await bench.wait(ctx)
        assert error_code(status) is ErrorCode.NONE
        assert status["done"] == 1
        assert status["invalid"] == any(job.expected.invalid for job in jobs)
        assert status["overflow"] == any(job.expected.overflow for job in jobs)
        assert await bench.read(ctx, "completed") == len(jobs)

    before = bench.memory.data.copy()
    bench.run(testbench)
    for job in jobs:
        bench.check(job)
    assert bench.memory.outside == []
    # Nothing else was written.
    for job in jobs:
        m, n = job.expected.codes.shape
        size = job.spec.out.container_bytes
        for i in range(m):
            at = job.c_address - BASE + i * job.c_stride
            before[at : at + n * size] = bench.memory.data[at : at + n * size]
    assert np.array_equal(before, bench.memory.data)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_int8_with_k_beyond_the_buffers(seed: int, layout: tuple[int, int]) -> None:
    """Two panels of 300 bytes a row do not fit a bank of 512, so they come in chunks of 128 steps."""
    bench = CoreBench(INT_2X2, seed=seed)
    spec = GemmSpec("int8", "int8", "float32", rounding="nearest_even")
    job = bench.job(3, 1, 300, spec, a_across_k=bool(layout[0]), b_across_k=bool(layout[1]))

    async def testbench(ctx: Any) -> None:
        await bench.start(ctx, job)
        assert error_code(await bench.wait(ctx, 60000)) is ErrorCode.NONE

    bench.run(testbench)
    bench.check(job)


def test_parts_of_a_gemm_have_the_random_bits_of_the_whole(seed: int) -> None:
    """Four parts of C, each a GEMM of its own at its offsets, are the codes of one GEMM."""
    bench = CoreBench(INT_2X2, seed=seed)
    spec = GemmSpec("int8", "int8", "int8", scale=-9, rounding="stochastic:7")
    a, b = bench.codes(spec.a, (11, 20)), bench.codes(spec.b, (20, 13))
    whole = golden_gemm(a, b, spec, seed=seed).codes
    places = [(i, j) for i in (0, 8) for j in (0, 8)]
    parts = [(a[i : i + 8], b[:, j : j + 8]) for i, j in places]
    jobs = [
        bench.job(x.shape[0], y.shape[1], 20, spec, seed=seed, offsets=place, operands=(x, y))
        for place, (x, y) in zip(places, parts, strict=True)
    ]

    async def testbench(ctx: Any) -> None:
        for job in jobs:
            await bench.start(ctx, job)
        assert error_code(await bench.wait(ctx)) is ErrorCode.NONE

    bench.run(testbench)
    got = [bench.result(job) for job in jobs]
    assert np.array_equal(np.block([got[:2], got[2:]]), whole)


def test_counters_add_up(seed: int) -> None:
    bench = CoreBench(INT_2X2, seed=seed)
    job = bench.job(4, 4, 60, GemmSpec("int8", "int8", "int8", scale=-9, rounding="stochastic_floor:16"))

    async def testbench(ctx: Any) -> None:
        await bench.start(ctx, job)
        await bench.wait(ctx)
        cycles = await bench.read(ctx, "cycles")
        busy = await bench.read(ctx, "array_busy_cycles")
        stalls = await bench.read(ctx, "read_stall_cycles") + await bench.read(ctx, "write_stall_cycles")
        # Four tiles of K = 60 steps each; what is neither step nor stall is fill, drain and bus latency.
        assert busy == 4 * 60
        assert busy + stalls <= cycles < busy + stalls + 150

    bench.run(testbench)
    bench.check(job)


BAD_DESCRIPTORS = [
    ({"m": 0}, ErrorCode.ZERO_SIZE),
    ({"k": 257}, ErrorCode.K_TOO_LARGE),
    ({"formats": 3 << 16}, ErrorCode.UNSUPPORTED_FORMAT),
    ({"rounding": 2}, ErrorCode.UNSUPPORTED_ROUNDING),
    ({"c_stride": 30}, ErrorCode.MISALIGNED),
    ({"row_offset": 12}, ErrorCode.MISALIGNED),
    ({"scale": 20000}, ErrorCode.SCALE_OUT_OF_RANGE),
]


def test_refused_descriptors_cause_no_traffic_and_the_next_gemm_is_right(seed: int) -> None:
    bench = CoreBench(FP8_2X3, seed=seed)
    jobs = [bench.job(2, 3, 5, FP8) for _ in range(2)]

    async def testbench(ctx: Any) -> None:
        for count, (change, code) in enumerate(BAD_DESCRIPTORS, start=1):
            await bench.control(ctx, "clear")
            await bench.start(ctx, jobs[0], **change)
            status = await bench.wait(ctx)
            assert (status["error"], status["done"], error_code(status)) == (1, 1, code)
            assert await bench.read(ctx, "completed") == count
        assert bench.memory.reads == bench.memory.writes == []
        for job in jobs:
            await bench.start(ctx, job)
        await bench.wait(ctx)
        assert await bench.read(ctx, "completed") == len(BAD_DESCRIPTORS) + 2

    bench.run(testbench)
    for job in jobs:
        bench.check(job)


def test_a_start_beyond_the_queue_is_refused_and_counted(seed: int) -> None:
    bench = CoreBench(FP8_2X3, seed=seed, latency=(150, 150))
    job = bench.job(1, 1, 1, FP8)

    async def testbench(ctx: Any) -> None:
        starts = 0
        await bench.start(ctx, job)
        while not (await bench.status(ctx))["queue_full"]:
            starts += 1
            await bench.control(ctx, "start")
        assert starts >= FP8_2X3.queue_depth
        await bench.control(ctx, "start")
        status = await bench.status(ctx)
        assert (status["busy"], error_code(status)) == (1, ErrorCode.QUEUE_OVERFLOW)
        await bench.wait(ctx)
        assert await bench.read(ctx, "completed") == starts + 2

    bench.run(testbench)
    bench.check(job)


@pytest.mark.parametrize(("where", "response"), [("a", SLVERR), ("b", DECERR), ("c", SLVERR), ("c", DECERR)])
def test_bus_errors_stop_the_gemm_and_the_next_one_is_right(seed: int, where: str, response: int) -> None:
    bench = CoreBench(FP8_2X3, seed=seed, stall=0.2, latency=(1, 10))
    bad, queued, good = (bench.job(3, 4, 17, FP8) for _ in range(3))
    address = bad.registers[f"{where}_address_low"] | bad.registers[f"{where}_address_high"] << 32
    failing = address + 2 * bad.registers[f"{where}_stride"] + 4
    bench.memory.fail(failing, response)

    async def testbench(ctx: Any) -> None:
        await bench.start(ctx, bad)
        await bench.start(ctx, queued)
        status = await bench.wait(ctx)
        wanted = ErrorCode.WRITE_ERROR if where == "c" else ErrorCode.READ_ERROR
        assert (status["error"], error_code(status)) == (1, wanted)
        assert await bench.read(ctx, "completed") == 2
        told = await bench.read(ctx, "fail_address")
        bursts = bench.memory.writes if where == "c" else bench.memory.reads
        size = bench.config.bus_bytes
        assert (told, True) in [(at, at <= failing // size * size < at + beats * size) for at, beats in bursts]
        bench.memory.bad.clear()
        await bench.control(ctx, "clear")
        await bench.start(ctx, good)
        assert error_code(await bench.wait(ctx)) is ErrorCode.NONE
        assert await bench.read(ctx, "completed") == 3

    bench.run(testbench)
    bench.check(good)


def test_errors_of_what_a_reset_has_given_up_are_not_told(seed: int) -> None:
    bench = CoreBench(FP8_2X3, seed=seed, latency=(30, 40))
    dropped, good = bench.job(3, 4, 17, FP8), bench.job(2, 3, 5, FP8)
    address = dropped.registers["a_address_low"] | dropped.registers["a_address_high"] << 32
    for byte in range(17):
        bench.memory.fail(address + byte, 2)

    async def testbench(ctx: Any) -> None:
        await bench.start(ctx, dropped)
        while not bench.memory.reads:
            await ctx.tick()
        await bench.control(ctx, "reset")
        assert error_code(await bench.wait(ctx)) is ErrorCode.NONE
        bench.memory.bad.clear()
        await bench.start(ctx, good)
        assert error_code(await bench.wait(ctx)) is ErrorCode.NONE

    bench.run(testbench)
    bench.check(good)


@pytest.mark.parametrize("clocks", [0, 11, 60, 160])
def test_reset_at_any_time_leaves_the_core_ready(seed: int, clocks: int) -> None:
    bench = CoreBench(FP8_2X3, seed=seed, stall=0.3, latency=(1, 25))
    dropped = [bench.job(4, 4, 20, FP8) for _ in range(2)]
    good = bench.job(3, 4, 17, GemmSpec("e5m2", "e4m3", "e4m3", rounding="stochastic:3"), seed=seed)

    async def testbench(ctx: Any) -> None:
        for job in dropped:
            await bench.start(ctx, job)
        await ctx.tick().repeat(clocks + 1)
        await bench.control(ctx, "reset")
        status = await bench.wait(ctx)
        assert error_code(status) is ErrorCode.NONE
        assert await bench.read(ctx, "completed") == len(dropped)
        assert bench.memory.responses == len(bench.memory.writes)
        await bench.start(ctx, good)
        await bench.wait(ctx)
        assert await bench.read(ctx, "completed") == len(dropped) + 1

    bench.run(testbench)
    bench.check(good)


def test_interrupt_rises_when_a_gemm_ends(seed: int) -> None:
    bench = CoreBench(FP8_2X3, seed=seed)
    job = bench.job(2, 2, 2, FP8)

    async def testbench(ctx: Any) -> None:
        await bench.bus.write(ctx, register("interrupt_enable").offset, 1)
        await bench.start(ctx, job)
        assert ctx.get(bench.core.interrupt) == 0
        for _ in range(2000):
            await ctx.tick()
            if ctx.get(bench.core.interrupt):
                break
        else:
            pytest.fail("no interrupt")
        # All is in memory by then.
        bench.check(job)
        await bench.control(ctx, "clear")
        await ctx.tick()
        assert ctx.get(bench.core.interrupt) == 0

    bench.run(testbench)


def test_a_core_is_made_of_a_configuration() -> None:
    with pytest.raises(TypeError, match=r"config must be an ArrayConfig, not '8x8'"):
        Core(config="8x8")  # type: ignore[arg-type]
