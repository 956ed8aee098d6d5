"""Registers: every address of the map, strobes, reserved bits, actions, sticky status, counters, interrupt."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from halfulp.hw.config import ArrayConfig
from halfulp.hw.format_words import format_word
from halfulp.hw.register_file import RegisterFile, configuration_words, settings_layout, wide_counter
from halfulp.hw.registers import CORE_ID, REGISTERS, ErrorCode, register

from .axi_models import AxiLiteInitiator, simulate_registers

CONFIG = ArrayConfig(rows=2, columns=6, lanes=2, buffer_depth=64)


def mask(name: str) -> int:
    fields = register(name).fields
    return sum(((1 << f.width) - 1) << f.lsb for f in fields) if fields else 0xFFFFFFFF


@pytest.mark.parametrize("gap", [0, 3])
def test_every_address_reads_what_the_map_declares(seed: int, gap: int) -> None:
    words = configuration_words(CONFIG)
    names = {r.offset: r.name for r in REGISTERS}

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        for offset in range(0, 0x200, 4):
            assert await bus.read(ctx, offset) == words.get(names.get(offset, ""), 0), hex(offset)
        assert await bus.read(ctx, 0xFFC) == 0

    simulate_registers(RegisterFile(config=CONFIG), bench, seed=seed, gap=gap)
    assert words["id"] == CORE_ID
    assert words["config_array"] == 6 << 16 | 2
    assert words["config_a_format1"] == format_word(CONFIG.a_formats[1])


def test_rw_registers_keep_declared_bits_by_strobe(rng, seed: int) -> None:
    dut = RegisterFile(config=CONFIG)
    writable = [r for r in REGISTERS if r.access == "rw"]

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        expected = dict.fromkeys((r.name for r in writable), 0)
        for _ in range(3):
            for r in writable:
                value, strobe = int(rng.integers(1 << 32)), int(rng.integers(16))
                bytes_written = sum(0xFF << 8 * b for b in range(4) if strobe >> b & 1)
                await bus.write(ctx, r.offset, value, strobe)
                kept = expected[r.name] & ~bytes_written
                expected[r.name] = (kept | value & bytes_written) & mask(r.name)
            for r in writable:
                assert await bus.read(ctx, r.offset) == expected[r.name], r.name
        assert ctx.get(dut.settings.m) == expected["m"]
        out = register("formats").field("out")
        assert ctx.get(dut.settings.formats.out) == expected["formats"] >> out.lsb & 0xFF

    simulate_registers(dut, bench, seed=seed, gap=2)


def test_a_narrow_core_keeps_its_bits_and_notes_what_it_loses(seed: int) -> None:
    config = CONFIG.replace(address_bits=36, size_bits=20, roundings="nearest_even")
    dut = RegisterFile(config=config)

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        async def write(name: str, value: int, strobe: int = 15) -> tuple[int, int]:
            await bus.write(ctx, register(name).offset, value, strobe)
            return await bus.read(ctx, register(name).offset), ctx.get(dut.settings.too_wide)

        assert await write("m", 0xF_FFFF) == (0xF_FFFF, 0)
        assert await write("m", 0x10_0000) == (0, 1)
        assert await write("m", 5, strobe=1) == (5, 1)
        assert await write("m", 6, strobe=12) == (5, 0)
        assert await write("a_address_low", 0xFFFF_FFFF) == (0xFFFF_FFFF, 0)
        assert await write("a_address_high", 0xF) == (0xF, 0)
        assert await write("a_address_high", 0x18) == (8, 1)
        assert await write("c_stride", 1 << 31) == (0, 1)
        assert await write("a_address_high", 0) == (0, 1)
        assert await write("c_stride", 8) == (8, 0)
        assert await write("seed_low", 0xFFFF_FFFF) == (0, 0)
        assert await write("row_offset", 8) == (0, 0)

    simulate_registers(dut, bench, seed=seed)
    assert "too_wide" not in settings_layout(CONFIG).members


def test_read_only_registers_ignore_writes(seed: int) -> None:
    words = configuration_words(CONFIG)

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        for r in REGISTERS:
            if r.access == "ro":
                await bus.write(ctx, r.offset, 0xFFFFFFFF)
                assert await bus.read(ctx, r.offset) == words.get(r.name, 0), r.name

    simulate_registers(RegisterFile(config=CONFIG), bench)


def test_an_access_waits_until_the_response_of_the_one_before_is_taken() -> None:
    dut = RegisterFile(config=CONFIG)
    bus = dut.bus
    m, n = register("m").offset, register("n").offset

    async def bench(ctx: Any, initiator: AxiLiteInitiator) -> None:
        await initiator.write(ctx, m, 11)
        await initiator.write(ctx, n, 22)
        # Two reads are offered before any response is taken.
        ctx.set(bus.arvalid, 1)
        for address in (m, n):
            ctx.set(bus.araddr, address)
            for _ in range(10):
                _, _, ready = await ctx.tick().sample(bus.arready)
                if ready:
                    break
        ctx.set(bus.arvalid, 0)
        await ctx.tick().repeat(3)
        ctx.set(bus.rready, 1)
        answers = []
        for _ in range(10):
            _, _, valid, value = await ctx.tick().sample(bus.rvalid, bus.rdata)
            if valid:
                answers.append(value)
        assert answers == [11, 22]
        # The same with two writes.
        ctx.set(bus.awvalid, 1)
        ctx.set(bus.wvalid, 1)
        ctx.set(bus.wstrb, 0xF)
        for address, value in ((m, 33), (n, 44)):
            ctx.set(bus.awaddr, address)
            ctx.set(bus.wdata, value)
            for _ in range(10):
                _, _, ready = await ctx.tick().sample(bus.awready & bus.wready)
                if ready:
                    break
        ctx.set(bus.awvalid, 0)
        ctx.set(bus.wvalid, 0)
        await ctx.tick().repeat(5)
        assert (ctx.get(dut.settings.m), ctx.get(dut.settings.n)) == (33, 22)
        ctx.set(bus.bready, 1)
        responses = 0
        for _ in range(10):
            _, _, valid = await ctx.tick().sample(bus.bvalid)
            responses += valid
        assert responses == 2
        assert ctx.get(dut.settings.n) == 44

    simulate_registers(dut, bench)


def test_actions_last_one_clock_and_obey_their_strobe() -> None:
    dut = RegisterFile(config=CONFIG)
    seen: list[tuple[int, int]] = []

    async def watch(ctx: Any) -> None:
        async for _, _, start, reset in ctx.tick().sample(dut.start, dut.reset):
            if start or reset:
                seen.append((start, reset))

    async def testbench(ctx: Any) -> None:
        bus = AxiLiteInitiator(dut.bus)
        control = register("control").offset
        await bus.write(ctx, control, 0b001)
        await bus.write(ctx, control, 0b100)
        await bus.write(ctx, control, 0b101, strobe=0b1110)
        await bus.write(ctx, control, 0b101)
        await bus.write(ctx, control, 0b010)
        assert await bus.read(ctx, control) == 0

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(watch, background=True)
    sim.add_testbench(testbench)
    sim.run()
    assert seen == [(1, 0), (0, 1), (1, 1)]


def test_sticky_status_keeps_the_first_error_until_cleared() -> None:
    dut = RegisterFile(config=CONFIG)
    status, control = register("status").offset, register("control").offset

    async def pulse(ctx: Any, **events: int) -> None:
        for name, value in events.items():
            ctx.set(dut.events[name], value)
        await ctx.tick()
        for name in events:
            ctx.set(dut.events[name], 0)

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        await pulse(ctx, invalid=1)
        assert await bus.read(ctx, status) == 0b01000
        await pulse(ctx, overflow=1)
        assert await bus.read(ctx, status) == 0b11000
        await pulse(ctx, ended=1, error=1, error_code=ErrorCode.K_TOO_LARGE)
        await pulse(ctx, error=1, error_code=ErrorCode.READ_ERROR, failed=1, fail_address=0x12345678_9ABCDEF0)
        await pulse(ctx, error=1, error_code=ErrorCode.WRITE_ERROR, failed=1, fail_address=0x10)
        assert await bus.read(ctx, status) == 0b11110 | ErrorCode.K_TOO_LARGE << 8
        assert await bus.read(ctx, register("fail_address_low").offset) == 0x9ABCDEF0
        assert await bus.read(ctx, register("fail_address_high").offset) == 0x12345678
        await pulse(ctx, ended=5)
        assert await bus.read(ctx, register("completed").offset) == 6

        await bus.write(ctx, control, 0b010)
        assert await bus.read(ctx, status) == 0
        assert await bus.read(ctx, register("fail_address_low").offset) == 0
        assert await bus.read(ctx, register("completed").offset) == 6

        ctx.set(dut.events.busy, 1)
        ctx.set(dut.events.queue_full, 1)
        assert await bus.read(ctx, status) == 0b100001

    simulate_registers(dut, bench)


def test_event_in_the_clock_of_a_clear_is_kept() -> None:
    """An event in each clock around a clear: the flags, the code and the address are kept or cleared together."""
    names = ("ended", "error", "invalid", "overflow", "failed")
    kept = []
    for moment in range(8):
        dut = RegisterFile(config=CONFIG)

        async def happen(ctx: Any, dut: RegisterFile = dut, moment: int = moment) -> None:
            # Something had happened before.
            for clocks, code, address in ((1, 1, 0x10), (3 + moment, 9, 0x40)):
                await ctx.tick().repeat(clocks)
                for name in names:
                    ctx.set(dut.events[name], 1)
                ctx.set(dut.events.error_code, code)
                ctx.set(dut.events.fail_address, address)
                await ctx.tick()
                for name in names:
                    ctx.set(dut.events[name], 0)

        async def clear(ctx: Any, dut: RegisterFile = dut) -> None:
            bus = AxiLiteInitiator(dut.bus)
            await ctx.tick().repeat(5)
            await bus.write(ctx, register("control").offset, 0b010)
            await ctx.tick().repeat(8)
            status = await bus.read(ctx, register("status").offset)
            address = await bus.read(ctx, register("fail_address_low").offset)
            assert (status, address) in [(0, 0), (0b11110 | 9 << 8, 0x40)]
            kept.append(address == 0x40)

        sim = Simulator(dut)
        sim.add_clock(1e-6)
        sim.add_testbench(happen)
        sim.add_testbench(clear)
        sim.run()
    assert kept == sorted(kept)
    assert {True, False} == set(kept)


def test_counters_count_clocks_of_their_own_event() -> None:
    dut = RegisterFile(config=CONFIG)
    counters = {
        "cycles": "busy",
        "array_busy_cycles": "array_busy",
        "read_stall_cycles": "read_stall",
        "write_stall_cycles": "write_stall",
    }

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        for clocks, (name, event) in enumerate(counters.items(), start=3):
            ctx.set(dut.events[event], 1)
            await ctx.tick().repeat(clocks)
            ctx.set(dut.events[event], 0)
            assert await bus.read(ctx, register(f"{name}_low").offset) == clocks
            assert await bus.read(ctx, register(f"{name}_high").offset) == 0
        await bus.write(ctx, register("control").offset, 0b010)
        for name in counters:
            assert await bus.read(ctx, register(f"{name}_low").offset) == 0

    simulate_registers(dut, bench)


def test_a_core_without_counters_reads_zeros() -> None:
    dut = RegisterFile(config=CONFIG.replace(counters=False))

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        for event in ("busy", "array_busy", "read_stall", "write_stall"):
            ctx.set(dut.events[event], 1)
        for r in REGISTERS:
            if "cycles" in r.name:
                assert await bus.read(ctx, r.offset) == 0, r.name
        assert await bus.read(ctx, register("status").offset) == 1

    simulate_registers(dut, bench)


def test_wide_counter_carries_into_its_high_half() -> None:
    m = Module()
    event, clear = Signal(init=1), Signal()
    low, high = wide_counter(m, "clocks", event, clear, low_width=3, high_width=3)
    seen = []

    async def testbench(ctx: Any) -> None:
        for _ in range(70):
            seen.append(ctx.get(high) << 3 | ctx.get(low))
            await ctx.tick()
        ctx.set(event, 0)
        await ctx.tick().repeat(2)
        seen.append(ctx.get(high) << 3 | ctx.get(low))
        # An event in the clock of a clear is the first one counted after it.
        for happens in (1, 0):
            ctx.set(event, happens)
            ctx.set(clear, 1)
            await ctx.tick()
            ctx.set(event, 0)
            ctx.set(clear, 0)
            await ctx.tick().repeat(2)
            assert (ctx.get(high), ctx.get(low)) == (0, happens)

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
    # The high half follows one clock after the low half has wrapped.
    assert all(value % 64 == n % 64 for n, value in enumerate(seen[:70]) if n % 8)
    assert seen[70] == 70 % 64


@pytest.mark.parametrize(("event", "bit"), [("ended", 0), ("error", 1)])
def test_interrupt_follows_its_enabled_cause(event: str, bit: int) -> None:
    dut = RegisterFile(config=CONFIG)
    enable, control = register("interrupt_enable").offset, register("control").offset

    async def bench(ctx: Any, bus: AxiLiteInitiator) -> None:
        await bus.write(ctx, enable, 2 >> bit)
        ctx.set(dut.events[event], 1)
        await ctx.tick()
        ctx.set(dut.events[event], 0)
        await ctx.tick().repeat(3)
        assert ctx.get(dut.interrupt) == 0
        await bus.write(ctx, enable, 1 << bit)
        await ctx.tick()
        assert ctx.get(dut.interrupt) == 1
        await bus.write(ctx, control, 0b010)
        await ctx.tick()
        assert ctx.get(dut.interrupt) == 0

    simulate_registers(dut, bench)


def test_a_configuration_word_too_wide_is_refused() -> None:
    from halfulp.hw.register_file import _pack

    with pytest.raises(ValueError, match=r"config_formats.a is 4 bits wide: 16 does not fit"):
        _pack("config_formats", a=16)
