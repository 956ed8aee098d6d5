# amaranth: UnusedElaboratable=no
"""Cores cut down for small parts, narrow in addresses, sizes and bus, are equal to the golden model."""

from __future__ import annotations

from typing import Any

import pytest

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import descriptor_layout
from halfulp.hw.registers import ErrorCode
from halfulp.hw.serial_top import SerialTop
from halfulp.numerics.gemm import GemmSpec

from .core_bench import CoreBench, error_code

INT8_2X2 = ArrayConfig(
    rows=2,
    columns=2,
    lanes=1,
    a_formats="int8",
    b_formats="int8",
    out_formats="int8",
    accumulator="exact:512",
    roundings="nearest_even",
    bus_width=32,
    buffer_depth=64,
    queue_depth=1,
    reads_outstanding=2,
    address_bits=13,
    size_bits=12,
)
INT4_1X2 = INT8_2X2.replace(
    rows=1, lanes=2, a_formats="int4", b_formats="int4", out_formats=("int8", "float32"), size_bits=10
)
COMPACT = INT8_2X2.replace(counters=False, compact=True, address_bits=48)
STOCHASTIC = INT8_2X2.replace(
    a_formats="e4m3", b_formats="e4m3", out_formats=("bfloat16", "e4m3"), roundings="stochastic", accumulator="exact:64"
)


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        (INT8_2X2, (0, 1)),
        (INT4_1X2, (0, 0)),
        (STOCHASTIC, (1, 0)),
        (COMPACT, (0, 1)),
        (STOCHASTIC.replace(compact=True, counters=False, reads_outstanding=1), (1, 0)),
    ],
    ids=["int8 2x2", "int4 1x2", "e4m3 2x2 at random", "compact", "compact, at random"],
)
def test_gemms_up_to_the_last_address(seed: int, config: ArrayConfig, layout: tuple[int, int]) -> None:
    """Operands in chunks and whole, one GEMM right behind the other, in the upper half of what addresses reach."""
    bench = CoreBench(config, seed=seed, stall=0.1, latency=(1, 4), base=0x1000, size=0x1000)
    rounding = f"{config.roundings[0]}:9" if config.draws_random_bits else config.roundings[0]
    a, b = config.a_formats[0], config.b_formats[0]
    shapes = [(3, 5, 11), (1, 1, 1), (3, 1, min(config.max_k, 150))]
    jobs = [
        bench.job(
            *shape,
            GemmSpec(a, b, config.out_formats[n % len(config.out_formats)], rounding=rounding, scale=-2 * n),
            a_across_k=bool(layout[0]),
            b_across_k=bool(layout[1]),
            seed=seed,
            offsets=(8, 1 << 20) if config.draws_random_bits else (0, 0),
        )
        for n, shape in enumerate(shapes)
    ]

    async def testbench(ctx: Any) -> None:
        for job in jobs:
            while (await bench.status(ctx))["queue_full"]:
                pass
            await bench.start(ctx, job)
        assert error_code(await bench.wait(ctx)) is ErrorCode.NONE

    bench.run(testbench)
    for job in jobs:
        bench.check(job)
    assert bench.memory.outside == []


@pytest.mark.parametrize("name", ["c_address_high", "n"])
def test_more_bits_than_the_core_has_are_refused_without_traffic(seed: int, name: str) -> None:
    bench = CoreBench(INT8_2X2, seed=seed, base=0x1000, size=0x1000)
    job = bench.job(2, 1, 3, GemmSpec("int8", "int8", "int8", rounding="nearest_even"))
    before = bench.memory.data.copy()

    async def testbench(ctx: Any) -> None:
        await bench.start(ctx, job, **{name: job.registers[name] | 1 << 31})
        assert error_code(await bench.wait(ctx)) is ErrorCode.TOO_WIDE
        assert (bench.memory.data == before).all()
        await bench.control(ctx, "clear")
        await bench.start(ctx, job)
        assert error_code(await bench.wait(ctx)) is ErrorCode.NONE

    bench.run(testbench)
    bench.check(job)


def test_what_no_result_depends_on_takes_no_bits() -> None:
    narrow, wide = descriptor_layout(INT8_2X2), descriptor_layout(INT8_2X2.replace(roundings="stochastic"))
    assert (narrow["seed"].width, narrow["row_offset"].width) == (0, 0)
    assert (wide["seed"].width, wide["row_offset"].width) == (64, 32)
    assert (narrow["a_address"].width, narrow["m"].width) == (13, 12)


def test_a_serial_core_reaches_all_of_its_memory() -> None:
    with pytest.raises(ValueError, match="address_bits = 13 reach 8192 bytes of memory, not 8256"):
        SerialTop(config=INT8_2X2, clock_frequency=12e6, baud=1e6, memory_bytes=8256)
