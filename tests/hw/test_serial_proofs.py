# amaranth: UnusedElaboratable=no
"""The serial line proved: bytes arrive as they were sent, and wait in order; none is lost but by a full buffer."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from amaranth.hdl import Module, Signal

from halfulp.hw import serial_top, uart
from halfulp.hw.config import ArrayConfig

from .proofs import Bench, CounterexampleError, changed, mutant

LONG = pytest.mark.proof
"""Of `make proofs`."""

BYTE_CLOCKS = 45
"""From a byte's first clock in the transmitter until the receiver has it, and a few more."""


def line_bench(module: ModuleType) -> Bench:
    """A transmitter and a receiver on one line, as many bits a clock as there may be."""
    bench = Bench()
    m = bench.m
    rate = module.BitRate(clock_frequency=module.LEAST_CLOCKS_A_BIT, baud=1)
    m.submodules.transmitter = transmitter = module.UartTransmitter(rate=rate)
    m.submodules.receiver = receiver = module.UartReceiver(rate=rate)
    m.d.comb += receiver.line.eq(transmitter.line)
    bench.free(transmitter.byte.valid, transmitter.byte.payload)

    # The byte that is on the line, and for how long.
    sent, waits, age = Signal(8), Signal(), Signal(range(BYTE_CLOCKS + 1))
    accepted = transmitter.byte.valid & transmitter.byte.ready
    m.d.sync += age.eq(age + (age != BYTE_CLOCKS))
    with m.If(receiver.valid):
        m.d.sync += waits.eq(0)
    with m.If(accepted):
        m.d.sync += [sent.eq(transmitter.byte.payload), waits.eq(1), age.eq(0)]
    bench.ensure(
        ~receiver.valid | (waits & (receiver.byte == sent)),
        ~accepted | ~waits | receiver.valid,
        ~waits | (age < BYTE_CLOCKS),
    )
    return bench


def buffer_bench(module: ModuleType) -> Bench:
    """Received bytes on their way through the top's buffer, at whose ends nothing is looked into."""
    hollow = changed(module, {})
    receivers: list[Any] = []

    def without_inside(block: type[Any]) -> type[Any]:
        class Hollow(block):
            def elaborate(self, platform: object) -> Module:
                receivers.append(self)
                return Module()

        return Hollow

    for name in ("Core", "SharedMemory", "SerialLink", "UartReceiver", "UartTransmitter"):
        setattr(hollow, name, without_inside(getattr(module, name)))
    bench = Bench()
    m = bench.m
    config = ArrayConfig(rows=1, columns=1, lanes=1, address_bits=12, size_bits=16)
    top = hollow.SerialTop(config=config, clock_frequency=4, baud=1, memory_bytes=4096, buffer_bytes=256)
    inside = bench.look_into(top, "top")
    link, receiver = (next(each for each in receivers if hasattr(each, name)) for name in ("received", "line"))
    bench.free(receiver.valid, receiver.byte, link.received.ready)

    depth = top.info.buffer_bytes
    waiting, ahead, waits, chosen, entry = Signal(9), Signal(9), Signal(), Signal(), Signal(8)
    bench.free(chosen)
    enters = receiver.valid & (waiting != depth)
    leaves = link.received.valid & link.received.ready
    m.d.sync += waiting.eq(waiting + enters - leaves)
    with m.If(waits & leaves):
        m.d.sync += [ahead.eq(ahead - 1), waits.eq(ahead != 0)]
    with m.If(enters & chosen & ~waits):
        m.d.sync += [waits.eq(1), ahead.eq(waiting - leaves), entry.eq(receiver.byte)]
    inner, ready = inside["buffer.inner_level"], inside["buffer.r_rdy"]
    bench.ensure(
        ~leaves | (waiting != 0),
        ~(waits & leaves & (ahead == 0)) | (link.received.payload == entry),
        waiting <= depth,
        # What induction has to know besides.
        waiting == inner + ready,
        ~waits | (ahead < waiting),
        *bench.queue_facts(inside, "buffer", known=waits, ahead=ahead, entry=entry),
    )
    return bench


def test_received_bytes_wait_in_order(tmp_path: Path) -> None:
    buffer_bench(serial_top).prove(tmp_path, steps=2, inductive=True)


@LONG
def test_bytes_arrive_as_they_were_sent(tmp_path: Path) -> None:
    """In any clocks: two bytes, or one and most of two others."""
    line_bench(uart).prove(tmp_path, steps=2 * BYTE_CLOCKS, timeout=280)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("buffer.w_en.eq(receiver.valid)", "buffer.w_en.eq(receiver.valid & ~buffer.r_rdy)"),
        ("buffer.r_en.eq(link.received.ready)", "buffer.r_en.eq(1)"),
    ],
)
def test_mutants_of_the_buffer_are_refuted(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(CounterexampleError, match=r"run of 8 clocks: test_serial_proofs"):
        buffer_bench(mutant(serial_top, old, new)).prove(tmp_path, steps=8)


@LONG
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.byte.eq(Cat(self.byte[1:], line))", "self.byte.eq(Cat(line, self.byte[:-1]))"),
        ("bits.eq(Cat(0, self.byte.payload, 1))", "bits.eq(Cat(0, self.byte.payload, 0))"),
        ("with m.Elif(left == 1)", "with m.Elif(left == 2)"),
    ],
)
def test_mutants_of_the_line_are_refuted(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(CounterexampleError, match=r"run of 60 clocks: test_serial_proofs"):
        line_bench(mutant(uart, old, new)).prove(tmp_path, steps=60)
