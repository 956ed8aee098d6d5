"""The bench's side of the core's memory bus: cocotbext-axi's memory, with pauses, latency and injected faults."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiBus, AxiResp, AxiSlaveRead, AxiSlaveWrite

from halfulp.sim.bench.handle import CoreHandle

__all__ = ["LATENCY", "BenchMemory", "Fault"]

LATENCY = 200
"""Most clocks from a request to its first data or its response."""


@dataclass(frozen=True)
class Fault:
    """Addresses at which every access of a kind ("read" or "write") is answered with an error."""

    addresses: range
    access: str
    response: AxiResp = AxiResp.SLVERR


class BenchMemory:
    """A memory at a base address; what lies outside of it is answered with SLVERR, what lies in a fault as that says.

    Parameters
    ----------
    dut
        The core; its ports ``m_axi_*`` are driven.
    nbytes, base
        Size, and address of the first byte.
    """

    def __init__(self, dut: CoreHandle, *, nbytes: int, base: int) -> None:
        self.array = np.zeros(nbytes, np.uint8)
        self.base = base
        self.faults: list[Fault] = []
        self._dut = dut
        self._latency: random.Random | None = None
        self._failed: Fault | None = None
        self._begins = True
        bus = AxiBus.from_prefix(dut, "m_axi")
        self._writes = AxiSlaveWrite(bus.write, dut.aclk, dut.aresetn, self, reset_active_level=False)
        self._reads = AxiSlaveRead(bus.read, dut.aclk, dut.aresetn, self, reset_active_level=False)
        for slave in (self._writes, self._reads):
            slave.log.setLevel(logging.WARNING)
        # The slaves know one error only, and no latency: both are added to what they send.
        self._send_data, self._send_response = self._reads.r_channel.send, self._writes.b_channel.send
        self._reads.r_channel.send = self._answer_read
        self._writes.b_channel.send = self._answer_write

    @property
    def _channels(self) -> dict[str, Any]:
        writes, reads = self._writes, self._reads
        return {
            "aw": writes.aw_channel,
            "w": writes.w_channel,
            "b": writes.b_channel,
            "ar": reads.ar_channel,
            "r": reads.r_channel,
        }

    def behave(self, behaviour: str, rng: random.Random) -> None:
        """Behave from now on as one of `coverage.BEHAVIOURS` says.

        Slow channels pause half of the time; alternating ones every other clock, or two of four.
        """
        self.set_pauses(
            {
                name: 0.5
                for name in self._channels
                if (behaviour == "slow reads" and name in ("ar", "r"))
                or (behaviour == "slow writes" and name in ("aw", "w", "b"))
            },
            rng,
        )
        if behaviour == "alternating ready":
            for channel in self._channels.values():
                pattern = rng.choice(((False, True), (True, False), (False, False, True, True)))
                channel.set_pause_generator(itertools.cycle(pattern))
        self._latency = random.Random(rng.getrandbits(64)) if behaviour == "random latency" else None

    def pause_at_random(self, rng: random.Random) -> dict[str, float]:
        """Let each channel pause at random from now on, or never; return the chances drawn."""
        chances = {name: rng.choice((0.0, 0.0, 0.1, 0.5, 0.9)) for name in self._channels}
        self.set_pauses(chances, rng)
        return chances

    def set_pauses(self, chances: dict[str, float], rng: random.Random) -> None:
        """Let these channels pause so often from now on, and no other; no latency."""
        self._latency = None
        for name, channel in self._channels.items():
            channel.clear_pause_generator()
            channel.pause = False
            if chances.get(name):
                channel.set_pause_generator(_pauses(random.Random(rng.getrandbits(64)), chances[name]))

    async def read(self, address: int, length: int) -> bytes:
        """Called by the bus model for each beat."""
        return self._zone(address, length, "read").tobytes()

    async def write(self, address: int, data: bytes) -> None:
        """Called by the bus model for each run of bytes with their strobes set."""
        self._zone(address, len(data), "write")[:] = np.frombuffer(data, np.uint8)

    async def _answer_read(self, beat: Any) -> None:
        if self._begins:
            await self._wait()
        self._begins = bool(beat.rlast)
        beat.rresp = self._response(beat.rresp, "read")
        await self._send_data(beat)

    async def _answer_write(self, response: Any) -> None:
        await self._wait()
        response.bresp = self._response(response.bresp, "write")
        await self._send_response(response)

    async def _wait(self) -> None:
        # Bursts are answered one by one: were each as late as some are, nothing else would be seen.
        if self._latency is not None:
            most = LATENCY if self._latency.random() < 0.04 else 4
            await ClockCycles(self._dut.aclk, self._latency.randint(1, most))

    def _response(self, response: AxiResp, access: str) -> AxiResp:
        if response == AxiResp.OKAY or self._failed is None or self._failed.access != access:
            return response
        return self._failed.response

    def _zone(self, address: int, length: int, access: str) -> np.ndarray:
        offset = address - self.base
        if not 0 <= offset <= self.array.size - length:
            raise ValueError(f"{access} outside of the memory at {address:#x}")
        for fault in self.faults:
            if fault.access == access and fault.addresses.start < address + length and address < fault.addresses.stop:
                self._failed = fault
                raise ValueError(f"{access} in an injected fault at {address:#x}")
        return self.array[offset : offset + length]


def _pauses(rng: random.Random, chance: float) -> Iterator[bool]:
    """Pauses of random lengths, of which each clock is one with this chance."""
    for _ in itertools.count():
        pause = rng.random() < chance
        for _ in range(rng.choice((1, 1, 2, 7))):
            yield pause
