"""Registers in a memory: every word of the map, the descriptor that is read from it, and each of its checks."""

from __future__ import annotations

from typing import Any

import pytest

from halfulp.hw.register_file import configuration_words
from halfulp.hw.registers import REGISTERS, ErrorCode, register
from halfulp.hw.stored_registers import StoredRegisters

from .axi_models import AxiLiteInitiator, simulate_registers
from .test_descriptor import CONFIG, GOOD, PASSED, REFUSED

COMPACT = CONFIG.replace(compact=True, counters=False, queue_depth=1)
ENABLES = register("interrupt_enable")
WRITABLE = [r for r in REGISTERS if r.access == "rw"]


def words_of(request: dict[str, int]) -> dict[str, int]:
    """The registers that describe a request of `request_layout`."""
    words: dict[str, int] = {}
    for r in WRITABLE:
        if r.name.endswith(("_low", "_high")):
            field, half = r.name.rsplit("_", 1)
            words[r.name] = request.get(field, 0) >> (32 if half == "high" else 0) & 0xFFFF_FFFF
        elif r.name in ("layout", "formats", "rounding"):
            names = {f.name: f.name for f in r.fields} | {"mode": "rounding_mode"}
            if r.name == "formats":
                names = {f.name: f"{f.name}_format" for f in r.fields}
            words[r.name] = sum(request.get(names[f.name], 0) << f.lsb for f in r.fields)
        elif r.name != "interrupt_enable":
            words[r.name] = request.get(r.name, 0)
    return words


async def describe(ctx: Any, bus: AxiLiteInitiator, words: dict[str, int]) -> None:
    for name, word in words.items():
        await bus.write(ctx, register(name).offset, word)


async def start(ctx: Any, bus: AxiLiteInitiator) -> None:
    await bus.write(ctx, register("control").offset, 1)


@pytest.mark.parametrize("gap", [0, 3])
def test_every_address_reads_what_the_map_declares(seed: int, gap: int) -> None:
    words = configuration_words(COMPACT)
    names = {r.offset: r.name for r in REGISTERS}

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        for offset in (*range(0, 0x208, 4), 0x400, 0x504, 0xFFC):
            assert await bus.read(ctx, offset) == words.get(names.get(offset, ""), 0), hex(offset)

    simulate_registers(StoredRegisters(config=COMPACT), bench, seed=seed, gap=gap)


def test_rw_registers_keep_all_bits_by_strobe_and_others_none(rng, seed: int) -> None:
    words = configuration_words(COMPACT)

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        expected = dict.fromkeys((r.name for r in WRITABLE), 0)
        for _ in range(2):
            for offset in range(0, 0x200, 4):
                if offset == register("control").offset:
                    continue
                value, strobe = int(rng.integers(1 << 32)), int(rng.integers(16))
                await bus.write(ctx, offset, value, strobe)
                for r in WRITABLE:
                    if r.offset == offset:
                        written = sum(0xFF << 8 * byte for byte in range(4) if strobe >> byte & 1)
                        kept = 3 if r is ENABLES else 0xFFFF_FFFF
                        expected[r.name] = (expected[r.name] & ~written | value & written) & kept
            # 512 bytes on there is nothing.
            await bus.write(ctx, register("m").offset + 0x200, 0xFFFF_FFFF)
        for r in REGISTERS:
            assert await bus.read(ctx, r.offset) == (words | expected).get(r.name, 0), r.name

    simulate_registers(StoredRegisters(config=COMPACT), bench, seed=seed, gap=2)


def test_status_is_told_and_cleared() -> None:
    dut = StoredRegisters(config=COMPACT)

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        async def read(name: str) -> int:
            return await bus.read(ctx, register(name).offset)

        await bus.write(ctx, register("interrupt_enable").offset, 2)
        events = {"ended": 3, "error": 1, "error_code": 8, "failed": 1, "fail_address": 0x12_3456_789C, "busy": 1}
        for value in (1, 0):
            for name, event in events.items():
                ctx.set(dut.events[name], event * value if name != "busy" else 1)
            await ctx.tick()
        assert await read("status") == 0b111 | ErrorCode.WRITE_ERROR << 8
        assert await read("completed") == 3
        assert (await read("fail_address_low"), await read("fail_address_high")) == (0x3456_789C, 0x12)
        assert await read("cycles_low") == 0
        assert ctx.get(dut.interrupt) == 1
        await bus.write(ctx, register("control").offset, 2)
        assert (await read("status"), await read("fail_address_low"), ctx.get(dut.interrupt)) == (1, 0, 0)

    simulate_registers(dut, bench)


def test_each_gemm_is_read_and_held_against_the_rules() -> None:
    """The cases of the descriptor queue: the same are refused for the same reason, and the others offered whole."""
    dut = StoredRegisters(config=COMPACT)

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        for change, code in [*REFUSED, *((change, ErrorCode.NONE) for change in PASSED)]:
            request = GOOD | change
            await describe(ctx, bus, words_of(request))
            await start(ctx, bus)
            for _ in range(40):
                if ctx.get(dut.refused) or ctx.get(dut.descriptor.valid):
                    break
                await ctx.tick()
            assert ctx.get(dut.refused) == (code is not ErrorCode.NONE), change
            if ctx.get(dut.refused):
                assert ErrorCode(ctx.get(dut.error_code)) is code, change
                await ctx.tick()
            else:
                payload, shape = ctx.get(dut.descriptor.payload), dut.descriptor.payload.shape()
                for name, value in request.items():
                    mask = (1 << shape[name].width) - 1
                    assert payload[name] & mask == value & mask, (name, change)
                ctx.set(dut.flush, 1)
                await ctx.tick()
                ctx.set(dut.flush, 0)
            assert (ctx.get(dut.refused), ctx.get(dut.descriptor.valid), ctx.get(dut.ready)) == (0, 0, 1)

    simulate_registers(dut, bench)


@pytest.mark.parametrize(
    ("name", "width"), [("a_address_low", 20), ("c_address_high", 0), ("b_stride", 16), ("m", 16), ("k", 16)]
)
def test_more_bits_than_the_core_has_are_refused_before_all_else(name: str, width: int) -> None:
    dut = StoredRegisters(config=COMPACT.replace(address_bits=20, size_bits=16))

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        for bit in {width, 31}:
            await describe(ctx, bus, words_of(GOOD | {"n": 0}) | {name: 1 << bit})
            await start(ctx, bus)
            await ctx.tick().until(dut.refused)
            assert ErrorCode(ctx.get(dut.error_code)) is ErrorCode.TOO_WIDE
            await ctx.tick()

    simulate_registers(dut, bench)


def test_a_gemm_stands_until_it_has_ended(rng) -> None:
    """Neither another start nor other words of the next GEMM change it; reads in between are right."""
    dut = StoredRegisters(config=COMPACT)
    m = register("m").offset

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        await describe(ctx, bus, words_of(GOOD))
        for n in range(3):
            await bus.write(ctx, m, n + 10)
            assert ctx.get(dut.ready) == 1
            await start(ctx, bus)
            # Accepted while the words are read: answered behind the last of them.
            await bus.write(ctx, m, 99)
            assert await bus.read(ctx, m) == 99
            await ctx.tick().repeat(int(rng.integers(1, 30)))
            assert (ctx.get(dut.descriptor.valid), ctx.get(dut.ready)) == (1, 0)
            ctx.set(dut.descriptor.ready, 1)
            await ctx.tick()
            ctx.set(dut.descriptor.ready, 0)
            await start(ctx, bus)
            await ctx.tick().repeat(40)
            assert (ctx.get(dut.descriptor.valid), ctx.get(dut.ready)) == (0, 0)
            assert ctx.get(dut.descriptor.payload.m) == n + 10
            ctx.set(dut.done, 1)
            await ctx.tick()
            ctx.set(dut.done, 0)

    simulate_registers(dut, bench)


@pytest.mark.parametrize("clocks", range(6))
def test_a_read_that_begins_around_a_start_is_answered_and_changes_nothing(clocks: int) -> None:
    dut = StoredRegisters(config=COMPACT)

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        await describe(ctx, bus, words_of(GOOD))
        for name, value in {"awvalid": 1, "awaddr": register("control").offset, "wvalid": 1, "wdata": 1}.items():
            ctx.set(getattr(dut.bus, name), value)
        ctx.set(dut.bus.wstrb, 15)
        ctx.set(dut.bus.bready, 1)
        ctx.set(dut.bus.rready, 1)
        ctx.set(dut.bus.araddr, register("c_stride").offset)
        answers = []
        for clock in range(60):
            if clock == clocks:
                ctx.set(dut.bus.arvalid, 1)
            sample = await ctx.tick().sample(dut.bus.awready, dut.bus.arready, dut.bus.rvalid, dut.bus.rdata)
            written, asked, answered, word = sample[2:]
            if written:
                ctx.set(dut.bus.awvalid, 0)
                ctx.set(dut.bus.wvalid, 0)
            if asked:
                ctx.set(dut.bus.arvalid, 0)
            if answered:
                answers.append(word)
            if ctx.get(dut.descriptor.valid):
                break
        assert ctx.get(dut.descriptor.valid) == 1
        payload = ctx.get(dut.descriptor.payload)
        assert {name: payload[name] for name in GOOD} == GOOD
        if not answers:
            (word,) = await ctx.tick().sample(dut.bus.rdata).until(dut.bus.rvalid)
            answers.append(word)
        assert answers == [GOOD["c_stride"]]

    simulate_registers(dut, bench)


def test_a_gemm_is_offered_after_its_latency() -> None:
    for config in (COMPACT, COMPACT.replace(roundings="nearest_even")):
        dut = StoredRegisters(config=config)

        async def bench(ctx: Any, bus: AxiLiteInitiator, dut: StoredRegisters = dut) -> None:
            await describe(ctx, bus, words_of(GOOD))
            for channel in (dut.bus.awvalid, dut.bus.wvalid, dut.bus.bready):
                ctx.set(channel, 1)
            ctx.set(dut.bus.awaddr, register("control").offset)
            ctx.set(dut.bus.wdata, 1)
            ctx.set(dut.bus.wstrb, 15)
            await ctx.tick().until(dut.bus.awready)
            ctx.set(dut.bus.awvalid, 0)
            ctx.set(dut.bus.wvalid, 0)
            assert ctx.get(dut.start) == 1
            await ctx.tick().repeat(dut.latency - 1)
            assert ctx.get(dut.descriptor.valid) == 0
            await ctx.tick()
            assert ctx.get(dut.descriptor.valid) == 1

        simulate_registers(dut, bench)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counters": True}, "counters must be false with compact, not true"),
        ({"queue_depth": 2}, "queue_depth must be 1 with compact, not 2"),
        ({"compact": False, "reads_outstanding": 1}, "reads_outstanding must be a power of two from 2 to 64, not 1"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        COMPACT.replace(**changes)
    with pytest.raises(TypeError, match="compact must be true or false, not 1"):
        COMPACT.replace(compact=1)
