"""The serial line at bit level: rates that do not divide the clock, rates that are off, glitches, false stop bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from halfulp.hw.uart import BitRate, UartReceiver, UartTransmitter

CLOCK = 25e6
BYTES = [0x00, 0xFF, 0x55, 0xAA, 0x01, 0x80, 0xA5]


def receive(rate: BitRate, wave: list[tuple[int, float]]) -> list[int]:
    """The bytes that a receiver makes of a line that holds these levels for so many seconds each."""
    dut = UartReceiver(rate=rate)
    got: list[int] = []

    async def drive(ctx: Any) -> None:
        for level, seconds in [(1, 1e-6), *wave, (1, 20 / rate.baud)]:
            ctx.set(dut.line, level)
            await ctx.delay(seconds)

    async def watch(ctx: Any) -> None:
        async for _, _, valid, byte in ctx.tick().sample(dut.valid, dut.byte):
            if valid:
                got.append(byte)

    sim = Simulator(dut)
    sim.add_clock(1 / rate.clock_frequency)
    sim.add_testbench(drive)
    sim.add_testbench(watch, background=True)
    sim.run()
    return got


def wave_of(data: list[int], baud: float) -> list[tuple[int, float]]:
    return [(bit, 1 / baud) for byte in data for bit in (0, *(byte >> n & 1 for n in range(8)), 1)]


@pytest.mark.parametrize("baud", [3e6, 6e6, 115_200 * 8])
@pytest.mark.parametrize("error", [-0.03, 0, 0.03])
def test_bytes_without_a_pause_are_received(baud: float, error: float) -> None:
    """8.33, 4.17 and 27.1 clocks a bit; the sender's rate off by 3 % too (1 % where samples are few)."""
    off = error / 3 if baud == 6e6 else error
    assert receive(BitRate(clock_frequency=CLOCK, baud=baud), wave_of(BYTES * 2, baud * (1 + off))) == BYTES * 2


def test_any_phase_to_the_clock(rng: np.random.Generator) -> None:
    rate = BitRate(clock_frequency=12e6, baud=3e6)
    data = [int(x) for x in rng.integers(0, 256, 40)]
    wave = []
    for byte in data:
        wave += [*wave_of([byte], rate.baud), (1, float(rng.random()) / rate.baud)]
    assert receive(rate, wave) == data


def test_glitches_and_missing_stop_bits_give_no_byte() -> None:
    rate = BitRate(clock_frequency=CLOCK, baud=1e6)
    bit = 1 / rate.baud
    assert receive(rate, [(0, 0.3 * bit), (1, 12 * bit), *wave_of([0x5A], rate.baud)]) == [0x5A]
    broken = [*wave_of([0x0F], rate.baud)[:-1], (0, bit), (1, 12 * bit)]
    assert receive(rate, [*broken, *wave_of([0x5A], rate.baud)]) == [0x5A]


@pytest.mark.parametrize("baud", [3e6, 6.25e6])
def test_what_is_sent_is_received_and_takes_ten_bits(baud: float) -> None:
    rate = BitRate(clock_frequency=CLOCK, baud=baud)
    m = Module()
    m.submodules.sender = sender = UartTransmitter(rate=rate)
    m.submodules.receiver = receiver = UartReceiver(rate=rate)
    m.d.comb += receiver.line.eq(sender.line)
    got: list[int] = []
    clocks = 0

    async def send(ctx: Any) -> None:
        nonlocal clocks
        for byte in BYTES:
            ctx.set(sender.byte.payload, byte)
            ctx.set(sender.byte.valid, 1)
            *_, ready = await ctx.tick().sample(sender.byte.ready)
            clocks += 1
            while not ready:
                *_, ready = await ctx.tick().sample(sender.byte.ready)
                clocks += 1
        ctx.set(sender.byte.valid, 0)
        await ctx.tick().repeat(200)

    async def watch(ctx: Any) -> None:
        async for _, _, valid, byte in ctx.tick().sample(receiver.valid, receiver.byte):
            if valid:
                got.append(byte)

    sim = Simulator(m)
    sim.add_clock(1 / CLOCK)
    sim.add_testbench(send)
    sim.add_testbench(watch, background=True)
    sim.run()
    assert got == BYTES
    byte_clocks = 10 * CLOCK / baud
    assert byte_clocks <= (clocks - 1) / (len(BYTES) - 1) <= byte_clocks + 2


@pytest.mark.parametrize("clock", [12e6, 25e6, 27e6, 48e6, 100e6])
@pytest.mark.parametrize("baud", [9600, 115_200, 921_600, 3e6])
def test_the_rate_is_met(clock: float, baud: float) -> None:
    rate = BitRate(clock_frequency=clock, baud=baud)
    assert abs(rate.error) <= 1e-3
    assert rate.increment << 2 <= 1 << rate.width


def test_rates_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"baud must be at most 1/4 of the clock, 3e\+06 of 1.2e\+07 Hz, not 3.1e"):
        BitRate(clock_frequency=12e6, baud=3.1e6)
    with pytest.raises(ValueError, match="baud must be positive, not 0"):
        BitRate(clock_frequency=12e6, baud=0)
    with pytest.raises(ValueError, match="clock_frequency must be positive, in Hz, not nan"):
        BitRate(clock_frequency=float("nan"), baud=1)
