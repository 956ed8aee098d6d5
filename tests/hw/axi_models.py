"""AXI for Amaranth's simulator: a memory that checks every rule of the bus, and an AXI4-Lite initiator."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from amaranth.sim import Simulator

from halfulp.sim.bench.bus_rules import REQUEST, ReadRules, WriteRules

OKAY, SLVERR, DECERR = 0, 2, 3

READ_SIGNALS: tuple[str, ...] = (
    *("arvalid", "arready", "rvalid", "rready", "rid", "rdata", "rresp", "rlast"),
    *(f"ar{field}" for field in REQUEST),
)
WRITE_SIGNALS: tuple[str, ...] = (
    *("awvalid", "awready", "wvalid", "wready", "bvalid", "bready", "wdata", "wstrb", "wlast", "bid", "bresp"),
    *(f"aw{field}" for field in REQUEST),
)


class ProtocolError(AssertionError):
    """A rule of AXI4-Lite was broken by the block under test."""


class Burst:
    """One burst as it was seen: address, beats, and where it is in its life."""

    def __init__(self, address: int, beats: int, due: int) -> None:
        self.address = address
        self.beats = beats
        self.due = due
        self.beat = 0
        self.failed = False


class AxiMemory:
    """A memory at `base` behind AXI4, with random latency, back-pressure and errors, all drawn from `seed`.

    Every clock is checked by `ReadRules` and `WriteRules`.

    Parameters
    ----------
    size, base
        Bytes, and address of the first. Whatever lies outside answers DECERR and is recorded in `outside`.
    bus_bytes
        Bytes a beat.
    stall
        Probability that a ready is low, or a valid of the memory comes late, in a clock.
    latency
        Least and most clocks from an address to its data or its response.
    outstanding
        Most reads that may be under way; of writes there may be 16.
    """

    def __init__(
        self,
        *,
        size: int,
        base: int = 0,
        bus_bytes: int = 8,
        seed: int = 0,
        stall: float = 0.0,
        latency: tuple[int, int] = (1, 1),
        outstanding: int = 64,
    ) -> None:
        self.read_rules = ReadRules(bus_bytes=bus_bytes, outstanding=outstanding)
        self.write_rules = WriteRules(bus_bytes=bus_bytes, outstanding=16)
        self.data: npt.NDArray[np.uint8] = np.zeros(size, np.uint8)
        self.base = base
        self.bus_bytes = bus_bytes
        self.stall = stall
        self.latency = latency
        self.bad: dict[int, int] = {}
        self.outside: list[int] = []
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int]] = []
        self.responses = 0
        self.hold_responses = False
        self._random = random.Random(seed)

    def fail(self, address: int, response: int = SLVERR) -> None:
        """Answer the word at `address` with an error."""
        self.bad[address // self.bus_bytes] = response

    def put(self, address: int, values: npt.ArrayLike) -> None:
        """Place bytes in memory."""
        raw = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.data[address - self.base : address - self.base + raw.size] = raw

    def _ready(self) -> bool:
        return self._random.random() >= self.stall

    def _due(self, clock: int) -> int:
        return clock + self._random.randint(*self.latency)

    def _response(self, address: int) -> int:
        if address // self.bus_bytes in self.bad:
            return self.bad[address // self.bus_bytes]
        if not 0 <= address - self.base <= self.data.size - self.bus_bytes:
            self.outside.append(address)
            return DECERR
        return OKAY

    async def serve_reads(self, ctx: Any, axi: Any) -> None:
        """Simulator process for the read channels."""
        queue: deque[Burst] = deque()
        offered: Burst | None = None
        clock = 0
        async for reset, bus in sampled(ctx, axi, READ_SIGNALS):
            clock += 1
            self.read_rules.step(bus | {"aresetn": not reset})
            if reset:
                queue.clear()
                offered = None
                ctx.set(axi.rvalid, 0)
                continue
            if bus["arvalid"] and bus["arready"]:
                self.reads.append((bus["araddr"], bus["arlen"] + 1))
                queue.append(Burst(bus["araddr"], bus["arlen"] + 1, self._due(clock)))
            if bus["rvalid"] and bus["rready"] and offered is not None:
                offered.beat += 1
                if offered.beat == offered.beats:
                    queue.popleft()
                offered = None
                ctx.set(axi.rvalid, 0)
            if offered is None and queue and queue[0].due <= clock and self._ready():
                offered = queue[0]
                at = offered.address + offered.beat * self.bus_bytes
                response = self._response(at)
                word = bytes(self.data[at - self.base : at - self.base + self.bus_bytes])
                ctx.set(axi.rdata, int.from_bytes(word, "little") if response == OKAY else 0)
                ctx.set(axi.rresp, response)
                ctx.set(axi.rlast, offered.beat == offered.beats - 1)
                ctx.set(axi.rvalid, 1)
            ctx.set(axi.arready, self._ready())

    async def serve_writes(self, ctx: Any, axi: Any) -> None:
        """Simulator process for the write channels. Data may come before their address."""
        queue: deque[Burst] = deque()
        beats: deque[tuple[int, int]] = deque()
        answers: deque[Burst] = deque()
        clock = 0
        async for reset, bus in sampled(ctx, axi, WRITE_SIGNALS):
            clock += 1
            self.write_rules.step(bus | {"aresetn": not reset})
            if reset:
                for each in (queue, beats, answers):
                    each.clear()
                ctx.set(axi.bvalid, 0)
                continue
            if bus["awvalid"] and bus["awready"]:
                self.writes.append((bus["awaddr"], bus["awlen"] + 1))
                queue.append(Burst(bus["awaddr"], bus["awlen"] + 1, 0))
            if bus["wvalid"] and bus["wready"]:
                beats.append((bus["wdata"], bus["wstrb"]))
            while queue and beats:
                self._write_beat(queue[0], *beats.popleft())
                if queue[0].beat == queue[0].beats:
                    queue[0].due = self._due(clock)
                    answers.append(queue.popleft())
            waits = bool(bus["bvalid"])
            if waits and bus["bready"]:
                answers.popleft()
                self.responses += 1
                ctx.set(axi.bvalid, 0)
                waits = False
            if not waits and answers and answers[0].due <= clock and self._ready() and not self.hold_responses:
                ctx.set(axi.bresp, SLVERR if answers[0].failed else OKAY)
                ctx.set(axi.bvalid, 1)
            ctx.set(axi.awready, self._ready())
            # At the most one burst of data ahead of its address is kept here.
            ctx.set(axi.wready, self._ready() and len(beats) < 16)

    def _write_beat(self, burst: Burst, word: int, strobe: int) -> None:
        at = burst.address + burst.beat * self.bus_bytes
        burst.beat += 1
        if self._response(at) != OKAY:
            burst.failed = True
            return
        for byte in range(self.bus_bytes):
            if strobe >> byte & 1:
                self.data[at - self.base + byte] = word >> 8 * byte & 0xFF


async def sampled(ctx: Any, axi: Any, names: tuple[str, ...]) -> AsyncIterator[tuple[int, dict[str, int]]]:
    """Reset and these signals, as they are at each clock's edge."""
    async for _, reset, *values in ctx.tick().sample(*(getattr(axi, name) for name in names)):
        yield int(reset), {name: int(value) for name, value in zip(names, values, strict=True)}


class AxiLiteInitiator:
    """Reads and writes registers, with random gaps between the channels drawn from `seed`."""

    def __init__(self, bus: Any, *, seed: int = 0, gap: int = 0) -> None:
        self._bus = bus
        self._random = random.Random(seed)
        self._gap = gap

    async def write(self, ctx: Any, address: int, value: int, strobe: int = 0xF) -> None:
        """Write a register; return when the response has come."""
        bus = self._bus
        ctx.set(bus.awaddr, address)
        ctx.set(bus.wdata, value)
        ctx.set(bus.wstrb, strobe)
        waits = {name: self._random.randint(0, self._gap) for name in ("aw", "w", "b")}
        channels = {"aw": (bus.awvalid, bus.awready), "w": (bus.wvalid, bus.wready)}
        answered = False
        while channels or not answered:
            for name, (valid, _) in channels.items():
                ctx.set(valid, waits[name] <= 0)
            ctx.set(bus.bready, waits["b"] <= 0)
            pairs = list(channels.items())
            sampled = [signal for _, pair in pairs for signal in pair]
            _, _, bvalid, bready, bresp, *rest = await ctx.tick().sample(bus.bvalid, bus.bready, bus.bresp, *sampled)
            for index, (name, (valid, _)) in enumerate(pairs):
                if rest[2 * index] and rest[2 * index + 1]:
                    ctx.set(valid, 0)
                    del channels[name]
            if bvalid and bready:
                if channels:
                    raise ProtocolError("BVALID before the write's address and data were accepted")
                if bresp != OKAY:
                    raise ProtocolError(f"BRESP is {bresp}")
                answered = True
            waits = {name: wait - 1 for name, wait in waits.items()}
        ctx.set(bus.bready, 0)

    async def read(self, ctx: Any, address: int) -> int:
        """Read a register."""
        bus = self._bus
        for _ in range(self._random.randint(0, self._gap)):
            await ctx.tick()
        ctx.set(bus.araddr, address)
        ctx.set(bus.arvalid, 1)
        while True:
            _, _, ready = await ctx.tick().sample(bus.arready)
            if ready:
                break
        ctx.set(bus.arvalid, 0)
        wait = self._random.randint(0, self._gap)
        before = None
        while True:
            ctx.set(bus.rready, wait <= 0)
            wait -= 1
            _, _, valid, ready, value, response = await ctx.tick().sample(bus.rvalid, bus.rready, bus.rdata, bus.rresp)
            if before is not None and (not valid or value != before):
                raise ProtocolError("R changed before it was accepted")
            before = value if valid else None
            if valid and ready:
                ctx.set(bus.rready, 0)
                if response != OKAY:
                    raise ProtocolError(f"RRESP is {response}")
                return value


def simulate_registers(
    dut: Any, bench: Callable[[Any, AxiLiteInitiator], Awaitable[None]], *, seed: int = 0, gap: int = 0
) -> None:
    """Run a bench against a block with an AXI4-Lite port `bus`; seed and gap as of `AxiLiteInitiator`."""
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    bus = AxiLiteInitiator(dut.bus, seed=seed, gap=gap)

    async def testbench(ctx: Any) -> None:
        await bench(ctx, bus)

    sim.add_testbench(testbench)
    sim.run()
