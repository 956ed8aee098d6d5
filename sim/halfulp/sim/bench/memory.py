"""The bench's side of the core's memory bus: cocotbext-axi's memory, with pauses and injected faults."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
from cocotbext.axi import AxiBus, AxiSlaveRead, AxiSlaveWrite

from halfulp.sim.bench.handle import CoreHandle

__all__ = ["BenchMemory"]


class BenchMemory:
    """A memory at a base address; what lies outside of it, or in a fault, is answered with SLVERR.

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
        self.faults: list[tuple[range, str]] = []
        bus = AxiBus.from_prefix(dut, "m_axi")
        self._writes = AxiSlaveWrite(bus.write, dut.aclk, dut.aresetn, self, reset_active_level=False)
        self._reads = AxiSlaveRead(bus.read, dut.aclk, dut.aresetn, self, reset_active_level=False)

    def set_pauses(self, rng: random.Random) -> dict[str, float]:
        """Let each channel pause at random from now on, or never; return the chances drawn."""
        channels = {
            "aw": self._writes.aw_channel,
            "w": self._writes.w_channel,
            "b": self._writes.b_channel,
            "ar": self._reads.ar_channel,
            "r": self._reads.r_channel,
        }
        chances = {name: rng.choice((0.0, 0.0, 0.1, 0.5, 0.9)) for name in channels}
        for name, channel in channels.items():
            channel.clear_pause_generator()
            channel.pause = False
            if chances[name]:
                channel.set_pause_generator(_pauses(random.Random(rng.getrandbits(64)), chances[name]))
        return chances

    async def read(self, address: int, length: int) -> bytes:
        """Called by the bus model for each beat."""
        return self._zone(address, length, "read").tobytes()

    async def write(self, address: int, data: bytes) -> None:
        """Called by the bus model for each run of bytes with their strobes set."""
        self._zone(address, len(data), "write")[:] = np.frombuffer(data, np.uint8)

    def _zone(self, address: int, length: int, access: str) -> np.ndarray:
        offset = address - self.base
        if not 0 <= offset <= self.array.size - length:
            raise ValueError(f"{access} outside of the memory at {address:#x}")
        for addresses, kind in self.faults:
            if kind == access and addresses.start < address + length and address < addresses.stop:
                raise ValueError(f"{access} in an injected fault at {address:#x}")
        return self.array[offset : offset + length]


def _pauses(rng: random.Random, chance: float) -> Iterator[bool]:
    """Pauses of random lengths, of which each clock is one with this chance."""
    for _ in itertools.count():
        pause = rng.random() < chance
        for _ in range(rng.choice((1, 1, 2, 7))):
            yield pause
