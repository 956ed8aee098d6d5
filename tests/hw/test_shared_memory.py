# amaranth: UnusedElaboratable=no
"""The memory on the chip: bursts and single bytes at once, stalls, and what lies beyond its end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from halfulp.hw.shared_memory import SharedMemory

BYTES = 192  # 24 words: no power of two, and its end is inside a page


async def write_burst(ctx: Any, axi: Any, address: int, words: list[int], strobes: int, rng: Any) -> int:
    """Write words; return the response."""
    ctx.set(axi.awaddr, address)
    ctx.set(axi.awlen, len(words) - 1)
    ctx.set(axi.awvalid, 1)
    await ctx.tick().until(axi.awready)
    ctx.set(axi.awvalid, 0)
    for number, word in enumerate(words):
        await ctx.tick().repeat(int(rng.integers(0, 3)) + 1)
        ctx.set(axi.wdata, word)
        ctx.set(axi.wstrb, strobes)
        ctx.set(axi.wlast, number == len(words) - 1)
        ctx.set(axi.wvalid, 1)
        await ctx.tick().until(axi.wready)
        ctx.set(axi.wvalid, 0)
    ctx.set(axi.bready, 1)
    (response,) = await ctx.tick().sample(axi.bresp).until(axi.bvalid)
    ctx.set(axi.bready, 0)
    return response


async def read_burst(ctx: Any, axi: Any, address: int, beats: int, rng: Any) -> list[tuple[int, int]]:
    """Read words; return each with its response."""
    ctx.set(axi.araddr, address)
    ctx.set(axi.arlen, beats - 1)
    ctx.set(axi.arvalid, 1)
    await ctx.tick().until(axi.arready)
    ctx.set(axi.arvalid, 0)
    got = []
    for number in range(beats):
        ctx.set(axi.rready, 0)
        await ctx.tick().repeat(int(rng.integers(0, 3)) + 1)
        ctx.set(axi.rready, 1)
        data, response, last = await ctx.tick().sample(axi.rdata, axi.rresp, axi.rlast).until(axi.rvalid)
        assert last == (number == beats - 1)
        got.append((data, response))
    ctx.set(axi.rready, 0)
    return got


def test_bursts_and_bytes_at_once(rng: np.random.Generator) -> None:
    """Both ports work on halves of their own, at once; each finds what it wrote, and nothing is answered twice."""
    dut = SharedMemory(memory_bytes=BYTES, bus_width=64)
    ended = False

    async def bursts(ctx: Any) -> None:
        nonlocal ended
        memory = np.zeros((8, 8), np.uint8)
        for number in range(20):
            words, strobes = rng.integers(0, 256, (8, 8), np.uint8), int(rng.integers(256)) if number else 0xFF
            written = [strobes >> lane & 1 == 1 for lane in range(8)]
            memory[:, written] = words[:, written]
            assert await write_burst(ctx, dut.axi_write, 0, words.view("<u8")[:, 0].tolist(), strobes, rng) == 0
            assert await read_burst(ctx, dut.axi_read, 0, 8, rng) == [(word, 0) for word in memory.view("<u8")[:, 0]]
        ended = True

    async def bytes_of_the_link(ctx: Any) -> None:
        port, noise = dut.bytes, np.random.default_rng(1)
        while not ended:
            address, value = int(noise.integers(64, BYTES)), int(noise.integers(256))
            ctx.set(port.address, address)
            ctx.set(port.write_data, value)
            ctx.set(port.write, 1)
            await ctx.tick()
            ctx.set(port.write, 0)
            ctx.set(port.read, 1)
            await ctx.tick().until(port.ready)
            ctx.set(port.read, 0)
            assert ctx.get(port.read_data) == value

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bursts)
    sim.add_testbench(bytes_of_the_link)
    sim.run()


def test_beats_beyond_the_end_are_refused_and_write_nothing(rng: np.random.Generator) -> None:
    dut = SharedMemory(memory_bytes=BYTES, bus_width=64)

    async def bench(ctx: Any) -> None:
        words = [int(x) for x in rng.integers(0, 1 << 63, 24)]
        assert await write_burst(ctx, dut.axi_write, 0, words, 0xFF, rng) == 0
        assert await write_burst(ctx, dut.axi_write, BYTES - 8, [1, 2, 3], 0xFF, rng) == 3
        assert await write_burst(ctx, dut.axi_write, 1 << 40, [4], 0xFF, rng) == 3
        assert await write_burst(ctx, dut.axi_write, 8, [0], 0x0F, rng) == 0
        words[-1], words[1] = 1, words[1] >> 32 << 32
        assert await read_burst(ctx, dut.axi_read, 0, 24, rng) == [(word, 0) for word in words]
        responses = [response for _, response in await read_burst(ctx, dut.axi_read, BYTES - 16, 4, rng)]
        assert responses == [0, 0, 3, 3]
        assert (await read_burst(ctx, dut.axi_read, 1 << 63, 1, rng))[0][1] == 3

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (100, ValueError), (1 << 32, ValueError), (64.0, TypeError)]
)
def test_sizes_that_cannot_be(size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"memory_bytes must be .*, not {size}"):
        SharedMemory(memory_bytes=size, bus_width=64)
