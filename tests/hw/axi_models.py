"""AXI for Amaranth's simulator: a memory that checks every rule of the bus, and an AXI4-Lite initiator."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

OKAY, SLVERR, DECERR = 0, 2, 3
PAGE = 4096

ADDRESS_FIELDS: tuple[str, ...] = ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "qos")


class ProtocolError(AssertionError):
    """A rule of AXI4 was broken by the block under test."""


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
    ) -> None:
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

    def _check_address(self, kind: str, bus: dict[str, int], pending: Iterable[Burst]) -> None:
        address, beats = bus["addr"], bus["len"] + 1
        size = self.bus_bytes.bit_length() - 1
        wanted = {"id": 0, "size": size, "burst": 1, "lock": 0, "cache": 0b0011, "prot": 0, "qos": 0}
        for name, value in wanted.items():
            if bus[name] != value:
                raise ProtocolError(f"{kind}{name} is {bus[name]}, not {value}")
        if beats > 16:
            raise ProtocolError(f"{kind} burst of {beats} beats")
        if address % self.bus_bytes:
            raise ProtocolError(f"{kind} address {address:#x} is not aligned to a bus word")
        if address // PAGE != (address + beats * self.bus_bytes - 1) // PAGE:
            raise ProtocolError(f"{kind} burst of {beats} beats at {address:#x} crosses 4 KiB")

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
        stable: tuple[int, ...] | None = None
        clock = 0
        signals = [getattr(axi, f"ar{name}") for name in ADDRESS_FIELDS]
        sampled = ctx.tick().sample(axi.arvalid, axi.arready, axi.rvalid, axi.rready, *signals)
        async for _, reset, arvalid, arready, rvalid, rready, *address in _values(sampled):
            clock += 1
            if reset:
                queue.clear()
                offered, stable = None, None
                ctx.set(axi.rvalid, 0)
                continue
            stable = _stable("AR", arvalid, arready, tuple(address), stable)
            if arvalid and arready:
                bus = dict(zip(ADDRESS_FIELDS, address, strict=True))
                self._check_address("AR", bus, queue)
                self.reads.append((bus["addr"], bus["len"] + 1))
                queue.append(Burst(bus["addr"], bus["len"] + 1, self._due(clock)))
            if rvalid and rready and offered is not None:
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
        beats: deque[tuple[int, int, int]] = deque()
        answers: deque[Burst] = deque()
        stable_address: tuple[int, ...] | None = None
        stable_data: tuple[int, ...] | None = None
        clock = 0
        signals = [getattr(axi, f"aw{name}") for name in ADDRESS_FIELDS]
        data = [axi.wdata, axi.wstrb, axi.wlast]
        handshakes = [axi.awvalid, axi.awready, axi.wvalid, axi.wready, axi.bvalid, axi.bready]
        sampled = ctx.tick().sample(*handshakes, *data, *signals)
        async for _, reset, awvalid, awready, wvalid, wready, bvalid, bready, *rest in _values(sampled):
            clock += 1
            if reset:
                for each in (queue, beats, answers):
                    each.clear()
                stable_address = stable_data = None
                ctx.set(axi.bvalid, 0)
                continue
            word, address = tuple(rest[:3]), tuple(rest[3:])
            stable_address = _stable("AW", awvalid, awready, address, stable_address)
            stable_data = _stable("W", wvalid, wready, word, stable_data)
            if awvalid and awready:
                bus = dict(zip(ADDRESS_FIELDS, address, strict=True))
                self._check_address("AW", bus, queue)
                self.writes.append((bus["addr"], bus["len"] + 1))
                queue.append(Burst(bus["addr"], bus["len"] + 1, 0))
            if wvalid and wready:
                beats.append((word[0], word[1], word[2]))
            while queue and beats:
                self._write_beat(queue[0], *beats.popleft())
                if queue[0].beat == queue[0].beats:
                    queue[0].due = self._due(clock)
                    answers.append(queue.popleft())
            if bvalid and bready:
                answers.popleft()
                self.responses += 1
                ctx.set(axi.bvalid, 0)
                bvalid = 0
            if not bvalid and answers and answers[0].due <= clock and self._ready() and not self.hold_responses:
                ctx.set(axi.bresp, SLVERR if answers[0].failed else OKAY)
                ctx.set(axi.bvalid, 1)
            ctx.set(axi.awready, self._ready())
            # At the most one burst of data ahead of its address is kept here.
            ctx.set(axi.wready, self._ready() and len(beats) < 16)

    def _write_beat(self, burst: Burst, word: int, strobe: int, last: int) -> None:
        at = burst.address + burst.beat * self.bus_bytes
        burst.beat += 1
        if bool(last) != (burst.beat == burst.beats):
            raise ProtocolError(f"WLAST is {last} in beat {burst.beat} of {burst.beats} at {burst.address:#x}")
        if self._response(at) != OKAY:
            burst.failed = True
            return
        for byte in range(self.bus_bytes):
            if strobe >> byte & 1:
                self.data[at - self.base + byte] = word >> 8 * byte & 0xFF


def _stable(
    channel: str, valid: int, ready: int, payload: tuple[int, ...], before: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    """Check that what was offered and not taken is still offered; return what has to be offered next."""
    if before is not None and (not valid or payload != before):
        raise ProtocolError(f"{channel} changed before it was accepted: {before} to {payload}, valid {valid}")
    return payload if valid and not ready else None


async def _values(ticks: Any) -> AsyncIterator[tuple[int, ...]]:
    async for values in ticks:
        yield tuple(int(value) for value in values)


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
