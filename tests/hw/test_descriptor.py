"""The queue of GEMMs: order, depth, flush, and each check with the error code it raises."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.sim import Simulator

from halfulp.hw.config import ArrayConfig
from halfulp.hw.descriptor import DescriptorQueue, request_layout
from halfulp.hw.registers import ErrorCode

CONFIG = ArrayConfig(
    rows=2,
    columns=2,
    lanes=2,
    a_formats=("int16", "e4m3"),
    b_formats=("e4m3",),
    out_formats=("e4m3", "bfloat16", "float32"),
    accumulator="exact:100",
    roundings=("nearest_even", "stochastic"),
    buffer_depth=64,
)

GOOD = {
    "a_address": 0x1000,
    "b_address": 0x2001,
    "c_address": 0x3001,
    "a_stride": 14,
    "b_stride": 7,
    "c_stride": 3,
    "m": 3,
    "n": 3,
    "k": 7,
    "seed": 0xFEDCBA98_76543210,
}

REFUSED = [
    ({"m": 0}, ErrorCode.ZERO_SIZE),
    ({"n": 0}, ErrorCode.ZERO_SIZE),
    ({"k": 0}, ErrorCode.ZERO_SIZE),
    ({"k": 101}, ErrorCode.K_TOO_LARGE),
    ({"k": 0xFFFFFFFF}, ErrorCode.K_TOO_LARGE),
    ({"a_format": 2}, ErrorCode.UNSUPPORTED_FORMAT),
    ({"a_format": 8}, ErrorCode.UNSUPPORTED_FORMAT),
    ({"b_format": 1}, ErrorCode.UNSUPPORTED_FORMAT),
    ({"out_format": 3}, ErrorCode.UNSUPPORTED_FORMAT),
    ({"rounding_mode": 1}, ErrorCode.UNSUPPORTED_ROUNDING),
    ({"rounding_mode": 3, "random_bits": 4}, ErrorCode.UNSUPPORTED_ROUNDING),
    ({"rounding_mode": 4}, ErrorCode.UNSUPPORTED_ROUNDING),
    ({"rounding_mode": 2, "random_bits": 0}, ErrorCode.UNSUPPORTED_ROUNDING),
    ({"rounding_mode": 2, "random_bits": 17}, ErrorCode.UNSUPPORTED_ROUNDING),
    ({"rounding_mode": 2, "random_bits": 0x28}, ErrorCode.UNSUPPORTED_ROUNDING),
    ({"a_address": 0x1001}, ErrorCode.MISALIGNED),
    ({"a_stride": 13}, ErrorCode.MISALIGNED),
    ({"out_format": 1, "c_stride": 2}, ErrorCode.MISALIGNED),
    ({"out_format": 1, "c_address": 0x3002}, ErrorCode.MISALIGNED),
    ({"out_format": 2, "c_address": 0x3002, "c_stride": 4}, ErrorCode.MISALIGNED),
    ({"row_offset": 4}, ErrorCode.MISALIGNED),
    ({"column_offset": 0x8000_0001}, ErrorCode.MISALIGNED),
    ({"scale": 16385}, ErrorCode.SCALE_OUT_OF_RANGE),
    ({"scale": -16385 & 0xFFFFFFFF}, ErrorCode.SCALE_OUT_OF_RANGE),
    ({"scale": 0x80000000}, ErrorCode.SCALE_OUT_OF_RANGE),
    # The first that fails in the documented order is told.
    ({"m": 0, "k": 101, "scale": 16385}, ErrorCode.ZERO_SIZE),
    ({"a_address": 1, "scale": 16385}, ErrorCode.MISALIGNED),
]

PASSED = [
    {},
    {"k": 100},
    {"a_format": 1},
    {"rounding_mode": 2, "random_bits": 1},
    {"rounding_mode": 2, "random_bits": 16},
    {"random_bits": 255},
    {"out_format": 2, "c_address": 0x3004, "c_stride": 4},
    {"out_format": 1, "c_address": 0x3002, "c_stride": 2},
    {"row_offset": 8, "column_offset": 0xFFFF_FFF8},
    {"scale": 16384},
    {"scale": -16384 & 0xFFFFFFFF},
    {"a_across_k": 1, "b_across_k": 1, "overflow_ieee": 1},
]


def run(dut: DescriptorQueue, bench: Any) -> None:
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


async def push(ctx: Any, dut: DescriptorQueue, request: dict[str, int]) -> int:
    """Offer a request for one clock; return whether it was taken."""
    for name in request_layout(CONFIG).members:
        ctx.set(dut.push.payload[name], request.get(name, 0))
    ctx.set(dut.push.valid, 1)
    _, _, ready = await ctx.tick().sample(dut.push.ready)
    ctx.set(dut.push.valid, 0)
    return ready


@pytest.mark.parametrize(("change", "code"), REFUSED)
def test_what_is_wrong_is_refused_with_its_code(change: dict[str, int], code: ErrorCode) -> None:
    dut = DescriptorQueue(config=CONFIG)

    async def bench(ctx: Any) -> None:
        ctx.set(dut.descriptor.ready, 1)
        assert await push(ctx, dut, GOOD | change)
        refused = []
        for _ in range(8):
            assert ctx.get(dut.descriptor.valid) == 0
            if ctx.get(dut.refused):
                refused.append(ErrorCode(ctx.get(dut.error_code)))
            await ctx.tick()
        assert refused == [code]

    run(dut, bench)


@pytest.mark.parametrize("change", PASSED)
def test_what_is_right_passes_unchanged(change: dict[str, int]) -> None:
    dut = DescriptorQueue(config=CONFIG)
    request = GOOD | change

    async def bench(ctx: Any) -> None:
        assert await push(ctx, dut, request)
        await ctx.tick().repeat(dut.latency - 1)
        assert ctx.get(dut.descriptor.valid) == 1
        payload = ctx.get(dut.descriptor.payload)
        for name, value in request.items():
            field = dut.descriptor.payload.shape()[name]
            assert payload[name] & (1 << field.width) - 1 == value & (1 << field.width) - 1, name
        assert ctx.get(dut.refused) == 0

    run(dut, bench)


def test_what_a_register_could_not_hold_is_refused_before_all_else() -> None:
    narrow = CONFIG.replace(address_bits=20, size_bits=16)
    dut = DescriptorQueue(config=narrow)

    async def bench(ctx: Any) -> None:
        for code, request in ((ErrorCode.TOO_WIDE, {"too_wide": 1}), (ErrorCode.ZERO_SIZE, {})):
            for name, value in request.items():
                ctx.set(dut.push.payload[name], value)
            ctx.set(dut.push.valid, 1)
            await ctx.tick()
            ctx.set(dut.push.valid, 0)
            ctx.set(dut.push.payload.too_wide, 0)
            await ctx.tick().repeat(dut.latency - 1)
            assert (ctx.get(dut.refused), ctx.get(dut.error_code)) == (1, code)
            await ctx.tick()

    run(dut, bench)


def test_order_depth_and_refusals_in_between() -> None:
    dut = DescriptorQueue(config=CONFIG)
    seen: list[int] = []

    async def watch(ctx: Any) -> None:
        sampled = ctx.tick().sample(dut.descriptor.valid, dut.descriptor.ready, dut.descriptor.payload.m, dut.refused)
        async for _, _, valid, ready, m, refused in sampled:
            if valid and ready:
                seen.append(m)
            if refused:
                seen.append(0)

    async def bench(ctx: Any) -> None:
        taken = []
        for n in range(12):
            if await push(ctx, dut, GOOD | {"m": 0 if n % 3 == 1 else n + 1}):
                taken.append(n)
        # The queue's own places, the one that waits, checked, at its end, and none more.
        assert len(taken) == CONFIG.queue_depth + 1
        assert seen == []
        ctx.set(dut.descriptor.ready, 1)
        await ctx.tick().repeat(20)
        assert seen == [0 if n % 3 == 1 else n + 1 for n in taken]

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(watch, background=True)
    sim.add_testbench(bench)
    sim.run()


def test_flush_forgets_what_waits() -> None:
    dut = DescriptorQueue(config=CONFIG)

    async def bench(ctx: Any) -> None:
        for n in range(4):
            await push(ctx, dut, GOOD | {"m": n + 1})
        ctx.set(dut.flush, 1)
        await ctx.tick()
        assert ctx.get(dut.descriptor.valid) == 0
        await push(ctx, dut, GOOD | {"m": 99})
        ctx.set(dut.flush, 0)
        for _ in range(6):
            await ctx.tick()
            assert ctx.get(dut.descriptor.valid) == 0
        await push(ctx, dut, GOOD | {"m": 7})
        await ctx.tick().repeat(dut.latency)
        assert ctx.get(dut.descriptor.payload.m) == 7

    run(dut, bench)
