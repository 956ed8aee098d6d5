"""Watches the core's memory bus and fails the test where a rule of AXI4, or of the core's own, is broken."""

from __future__ import annotations

import cocotb
from cocotb.simtime import get_sim_time
from cocotb.triggers import RisingEdge

from halfulp.hw.burst_writer import WRITES_OUTSTANDING
from halfulp.hw.config import ArrayConfig
from halfulp.sim.bench.bus_rules import REQUEST, BusRuleError, ReadRules, SeenBurst, WriteRules
from halfulp.sim.bench.handle import CoreHandle

__all__ = ["BusMonitor"]

_CHANNELS = {
    "ar": REQUEST,
    "r": ("id", "data", "resp", "last"),
    "aw": REQUEST,
    "w": ("data", "strb", "last"),
    "b": ("id", "resp"),
}
"""What stands on each channel beside its handshake."""


class BusMonitor:
    """Checks every clock by `bus_rules`. An unknown value, in a four-state simulator, breaks a rule too."""

    def __init__(self, dut: CoreHandle, *, config: ArrayConfig) -> None:
        self._dut = dut
        self._reads = ReadRules(bus_bytes=config.bus_bytes, outstanding=config.reads_outstanding)
        self._writes = WriteRules(bus_bytes=config.bus_bytes, outstanding=WRITES_OUTSTANDING)
        self._task = cocotb.start_soon(self._run())

    @property
    def read_bursts(self) -> list[SeenBurst]:
        """All that were requested; who reads them may empty the list."""
        return self._reads.bursts

    @property
    def write_bursts(self) -> list[SeenBurst]:
        """As `read_bursts`."""
        return self._writes.bursts

    @property
    def idle(self) -> bool:
        """Every burst is answered, and no data was written that no request announced."""
        return self._reads.idle and self._writes.idle

    def check(self) -> None:
        """Raise what the monitor has found."""
        if self._task.done():
            self._task.result()

    async def _run(self) -> None:
        dut, edge = self._dut, RisingEdge(self._dut.aclk)
        valids = {name: getattr(dut, f"m_axi_{name}valid") for name in _CHANNELS}
        readies = {name: getattr(dut, f"m_axi_{name}ready") for name in _CHANNELS}
        payloads = {
            name: {f"{name}{field}": getattr(dut, f"m_axi_{name}{field}") for field in fields}
            for name, fields in _CHANNELS.items()
        }
        while True:
            await edge
            now = {"aresetn": int(dut.aresetn.value)}
            try:
                for name, valid in valids.items():
                    # The model of the memory has nothing to say before its first clock.
                    now[f"{name}valid"] = int(valid.value) if now["aresetn"] or name in ("ar", "aw", "w") else 0
                    now[f"{name}ready"] = int(readies[name].value) if now["aresetn"] else 0
                    if now[f"{name}valid"] and now["aresetn"]:
                        now |= {field: int(signal.value) for field, signal in payloads[name].items()}
                self._reads.step(now)
                self._writes.step(now)
            except (BusRuleError, ValueError) as error:
                raise BusRuleError(f"{error} ({get_sim_time('ns'):g} ns)") from None
