# amaranth: UnusedElaboratable=no
"""The device's end of the serial link: right requests are done once, wrong ones not at all, and garbage is survived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Array, Module, Signal
from amaranth.lib.wiring import connect
from amaranth.sim import Simulator

from halfulp.host.serial_frames import Reply, ReplyReader, request_frame
from halfulp.hw.axi_lite import AxiLiteTarget
from halfulp.hw.serial_link import SerialLink
from halfulp.hw.serial_protocol import LINK_INFO, Command, LinkInfo, Status
from halfulp.hw.shared_memory import SharedMemory

MEMORY_BYTES = 192
BUFFER_BYTES = 256
IDENTIFY, READ_REGISTERS, WRITE_REGISTER, READ_MEMORY, WRITE_MEMORY = Command


class Bench:
    """The link with a memory and four registers, of which writes are counted."""

    def __init__(self) -> None:
        self.link = SerialLink(memory_bytes=MEMORY_BYTES, buffer_bytes=BUFFER_BYTES)
        self.memory = SharedMemory(memory_bytes=MEMORY_BYTES, bus_width=64)
        self.writes = Signal(16)
        self._bytes = bytearray()
        self._reader = ReplyReader(max_payload=BUFFER_BYTES // 4)

    def run(self, testbench: Callable[[Any], Any]) -> None:
        m = Module()
        m.submodules.link, m.submodules.memory = self.link, self.memory
        m.submodules.target = target = AxiLiteTarget()
        connect(m, self.link.registers, target.bus)
        connect(m, self.link.bytes, self.memory.bytes)
        words = Array(Signal(32, name=f"word{n}") for n in range(4))
        m.d.comb += target.read_data.eq(words[target.read_address[:2]])
        with m.If(target.write_enable):
            m.d.sync += [words[target.write_address[:2]].eq(target.write_data), self.writes.eq(self.writes + 1)]

        async def collect(ctx: Any) -> None:
            sent = self.link.sent
            ctx.set(sent.ready, 1)
            async for _, _, valid, byte in ctx.tick().sample(sent.valid, sent.payload):
                if valid:
                    self._bytes.append(byte)

        sim = Simulator(m)
        sim.add_clock(1e-6)
        sim.add_testbench(testbench)
        sim.add_testbench(collect, background=True)
        sim.run()

    async def send(self, ctx: Any, raw: bytes) -> list[Reply]:
        """Send bytes; return the replies that came since the last call."""
        received = self.link.received
        for byte in raw:
            ctx.set(received.payload, byte)
            ctx.set(received.valid, 1)
            *_, ready = await ctx.tick().sample(received.ready)
            while not ready:
                *_, ready = await ctx.tick().sample(received.ready)
        ctx.set(received.valid, 0)
        await ctx.tick().repeat(200 + 14 * BUFFER_BYTES // 4)
        replies = list(self._reader.feed(bytes(self._bytes)))
        self._bytes.clear()
        return replies

    async def ask(self, ctx: Any, sequence: int, command: Command, address: int, what: bytes | int) -> Reply:
        """Send a right request and return its reply."""
        payload, length = (what, len(what)) if isinstance(what, bytes) else (b"", what)
        (reply,) = await self.send(ctx, request_frame(sequence, command, address, length, payload))
        return reply


def test_every_command() -> None:
    bench = Bench()

    async def testbench(ctx: Any) -> None:
        info = await bench.ask(ctx, 200, IDENTIFY, 0, LINK_INFO.size)
        assert info[:2] == (200, Status.DONE)
        assert LinkInfo(*LINK_INFO.unpack(info.payload)) == bench.link.info
        assert await bench.ask(ctx, 201, WRITE_MEMORY, 5, b"across a word of the bus") == (201, Status.DONE, b"")
        assert await bench.ask(ctx, 202, READ_MEMORY, 5, 24) == (202, Status.DONE, b"across a word of the bus")
        for n in range(4):
            word = bytes([n, 0xA5, 17, 255 - n])
            assert await bench.ask(ctx, 203 + n, WRITE_REGISTER, 4 * n, word) == (203 + n, Status.DONE, b"")
        assert (await bench.ask(ctx, 207, READ_REGISTERS, 4, 8)).payload == bytes([1, 165, 17, 254, 2, 165, 17, 253])
        assert await bench.ask(ctx, 208, WRITE_MEMORY, 128, bytes(range(64))) == (208, Status.DONE, b"")
        assert (await bench.ask(ctx, 209, READ_MEMORY, 128, 64)).payload == bytes(range(64))

    bench.run(testbench)


def test_a_repeated_write_is_acknowledged_and_not_done_again() -> None:
    bench = Bench()

    async def testbench(ctx: Any) -> None:
        await bench.ask(ctx, 254, IDENTIFY, 0, 16)
        first = request_frame(255, WRITE_REGISTER, 0, 4, b"1111")
        second = request_frame(0, WRITE_MEMORY, 0, 4, b"2222")
        third = request_frame(1, WRITE_MEMORY, 0, 4, b"3333")
        assert await bench.send(ctx, first + second + third + first + second) == [
            (sequence, Status.DONE, b"") for sequence in (255, 0, 1, 255, 0)
        ]
        assert ctx.get(bench.writes) == 1
        assert (await bench.ask(ctx, 1, READ_MEMORY, 0, 4)).payload == b"3333"
        # What was lost in between is missed, however far ahead.
        for ahead in (3, 60, 127):
            assert await bench.ask(ctx, ahead, WRITE_REGISTER, 0, b"9999") == (ahead, Status.SEQUENCE, b"")
        assert await bench.ask(ctx, 3, READ_MEMORY, 0, 4) == (3, Status.SEQUENCE, b"")
        assert ctx.get(bench.writes) == 1
        assert (await bench.ask(ctx, 2, WRITE_REGISTER, 4, b"4444")).status == Status.DONE
        assert ctx.get(bench.writes) == 2

    bench.run(testbench)


@pytest.mark.parametrize(
    ("command", "address", "what", "status"),
    [
        (WRITE_MEMORY, MEMORY_BYTES - 3, b"1234", Status.RANGE),
        (READ_MEMORY, MEMORY_BYTES, 1, Status.RANGE),
        (READ_MEMORY, 0xFFFF_FFFF, 2, Status.RANGE),
        (READ_MEMORY, 0, BUFFER_BYTES // 4 + 1, Status.RANGE),
        (READ_MEMORY, 0, 0, Status.RANGE),
        (READ_REGISTERS, 2, 4, Status.RANGE),
        (READ_REGISTERS, 0, 6, Status.RANGE),
        (READ_REGISTERS, 0x1000, 4, Status.RANGE),
        (WRITE_REGISTER, 0, b"12345678", Status.RANGE),
        (WRITE_REGISTER, 1, b"1234", Status.RANGE),
        (IDENTIFY, 4, 16, Status.RANGE),
        (1, 0, b"1234", Status.COMMAND),
        (0x83, 0, b"1234", Status.COMMAND),
        (6, 0, 4, Status.COMMAND),
    ],
)
def test_what_cannot_be_is_refused_and_the_next_request_is_right(
    command: Any, address: int, what: bytes | int, status: Status
) -> None:
    bench = Bench()

    async def testbench(ctx: Any) -> None:
        await bench.ask(ctx, 9, IDENTIFY, 0, 16)
        assert await bench.ask(ctx, 10, command, address, what) == (10, status, b"")
        assert (await bench.ask(ctx, 10, WRITE_REGISTER, 0, b"1234")).status == Status.DONE
        assert ctx.get(bench.writes) == 1
        assert (await bench.ask(ctx, 11, READ_REGISTERS, 0, 4)).payload == b"1234"

    bench.run(testbench)


def test_every_wrong_bit_of_a_register_write_keeps_it_from_being_done() -> None:
    bench = Bench()
    frame = request_frame(1, WRITE_REGISTER, 0, 4, b"\x01\x00\x00\x00")

    async def testbench(ctx: Any) -> None:
        await bench.ask(ctx, 0, IDENTIFY, 0, 16)
        for bit in range(0, 8 * len(frame), 7):
            wrong = bytearray(frame)
            wrong[bit // 8] ^= 1 << bit % 8
            replies = await bench.send(ctx, bytes(wrong))
            assert all(reply.status == Status.CHECKSUM for reply in replies)
            assert len(replies) == (bit >= 8)  # without its sync byte it is no frame
            await bench.send(ctx, bytes(BUFFER_BYTES // 4 + 17))
        assert ctx.get(bench.writes) == 0
        (reply,) = await bench.send(ctx, frame)
        assert (reply.status, ctx.get(bench.writes)) == (Status.DONE, 1)

    bench.run(testbench)


def test_after_garbage_and_zeros_a_frame_is_found(rng: np.random.Generator) -> None:
    bench = Bench()

    async def testbench(ctx: Any) -> None:
        for sequence in range(20):
            garbage = bytearray(rng.integers(0, 256, rng.integers(0, 60), np.uint8))
            # Now and then the beginning of a right frame, which takes what follows for its own.
            garbage += request_frame(0, WRITE_MEMORY, 0, 64, bytes(64))[: int(rng.integers(0, 40))]
            await bench.send(ctx, bytes(garbage) + bytes(BUFFER_BYTES // 4 + 17))
            reply = await bench.ask(ctx, sequence, IDENTIFY, 0, 16)
            assert reply == (sequence, Status.DONE, LINK_INFO.pack(*bench.link.info))

    bench.run(testbench)


@pytest.mark.parametrize("size", [0, 128, 300, 1 << 16])
def test_buffers_are_powers_of_two(size: int) -> None:
    with pytest.raises(ValueError, match=f"buffer_bytes must be a power of two from 256 to 32768, not {size}"):
        SerialLink(memory_bytes=64, buffer_bytes=size)
