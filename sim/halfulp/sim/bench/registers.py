"""The bench's side of the register bus: the core's registers by name, through cocotbext-axi's AXI4-Lite master."""

from __future__ import annotations

import itertools
import logging
import random
from typing import Any

from cocotb.triggers import ClockCycles, First, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMasterRead, AxiLiteMasterWrite, AxiResp

from halfulp.hw.registers import register
from halfulp.sim.bench.handle import CoreHandle

__all__ = ["RegisterMaster"]


class RegisterMaster:
    """Reads and writes registers of a core.

    Parameters
    ----------
    dut
        The core; its ports ``s_axi_*`` are driven.
    """

    def __init__(self, dut: CoreHandle) -> None:
        self._dut = dut
        bus = AxiLiteBus.from_prefix(dut, "s_axi")
        self._writes = AxiLiteMasterWrite(bus.write, dut.aclk, dut.aresetn, reset_active_level=False)
        self._reads = AxiLiteMasterRead(bus.read, dut.aclk, dut.aresetn, reset_active_level=False)
        for master in (self._writes, self._reads):
            master.log.setLevel(logging.WARNING)

    def set_pauses(self, rng: random.Random) -> None:
        """Let each channel pause at random from now on."""
        writes, reads = self._writes, self._reads
        for channel in (writes.aw_channel, writes.w_channel, writes.b_channel, reads.ar_channel, reads.r_channel):
            own = random.Random(rng.getrandbits(64))
            channel.set_pause_generator(own.random() < 0.4 for _ in itertools.count())

    async def read(self, name: str) -> int:
        """One register; fails where the answer is not OKAY."""
        answer: Any = await self._reads.read(register(name).offset, 4)
        if answer.resp != AxiResp.OKAY:
            raise AssertionError(f"reading register {name} was answered with {answer.resp!r}")
        return int.from_bytes(answer.data, "little")

    async def field(self, name: str, field: str) -> int:
        """One field of a register."""
        bits = register(name).field(field)
        return await self.read(name) >> bits.lsb & (1 << bits.width) - 1

    async def write(self, name: str, value: int) -> None:
        """One register; fails where the answer is not OKAY."""
        answer: Any = await self._writes.write(register(name).offset, value.to_bytes(4, "little"))
        if answer.resp != AxiResp.OKAY:
            raise AssertionError(f"writing register {name} was answered with {answer.resp!r}")

    async def act(self, *actions: str) -> None:
        """Write the control register with these bits set."""
        await self.write("control", sum(1 << register("control").field(action).lsb for action in actions))

    async def start(self, descriptor: dict[str, int]) -> None:
        """Queue a GEMM; waits while the queue is full."""
        for name, value in descriptor.items():
            await self.write(name, value)
        while await self.field("status", "queue_full"):
            await ClockCycles(self._dut.aclk, 20)
        await self.act("start")

    async def wait_idle(self, clocks: int) -> int:
        """Wait until nothing runs or is queued; return the status. Fails after about so many clocks."""
        status = await self.read("status")
        for _ in range(0, clocks, 100):
            if not status & 1:
                return status
            await First(ClockCycles(self._dut.aclk, 100), RisingEdge(self._dut.interrupt))
            status = await self.read("status")
        raise AssertionError(f"the core is still busy after {clocks} clocks, status {status:#x}")
