"""Watches the core's memory bus and fails the test where a rule of AXI4, or of the core's own, is broken."""

from __future__ import annotations

from typing import NoReturn

import cocotb
from cocotb.simtime import get_sim_time
from cocotb.triggers import RisingEdge

from halfulp.sim.bench.handle import CoreHandle

__all__ = ["BusMonitor", "BusRuleError"]

MAX_BEATS = 16
REQUEST = ("addr", "len", "size", "burst", "lock", "cache", "prot", "qos")


class BusRuleError(AssertionError):
    """The core broke a rule of the memory bus."""


class BusMonitor:
    """Checks every clock: requests and data stand until taken, and bursts keep the rules.

    Attributes
    ----------
    reads, writes
        Bursts seen.
    beats
        Data beats seen, reads and writes.
    """

    def __init__(self, dut: CoreHandle, *, bus_bytes: int) -> None:
        self.reads = self.writes = self.beats = 0
        self._dut = dut
        self._bus_bytes = bus_bytes
        self._held: dict[str, tuple[int, ...]] = {}
        # Beats of each write burst that is not complete on both channels: as requested, and as sent up to WLAST.
        # AXI4 lets data come before its request.
        self._promised: list[int] = []
        self._sent: list[int] = []
        self._beat = 0
        self._open_reads = self._open_writes = 0
        self._task = cocotb.start_soon(self._run())

    @property
    def idle(self) -> bool:
        """Every burst is answered, and no data was written that no request announced."""
        return not (self._open_reads or self._open_writes or self._promised or self._sent or self._beat)

    def check(self) -> None:
        """Raise what the monitor has found."""
        if self._task.done():
            self._task.result()

    async def _run(self) -> None:
        dut, edge = self._dut, RisingEdge(self._dut.aclk)
        signals = {name: getattr(dut, f"m_axi_{name}") for name in _names()}
        while True:
            await edge
            if not int(dut.aresetn.value):
                self._held.clear()
                continue
            now = {name: bool(int(signals[name].value)) for name in _HANDSHAKES}
            for channel in ("ar", "aw"):
                if now[f"{channel}valid"] or channel in self._held:
                    request = tuple(int(signals[f"{channel}{field}"].value) for field in REQUEST)
                    if self._stands(channel, now, request):
                        self._take_request(channel, request)
            if now["wvalid"] or "w" in self._held:
                data = tuple(int(signals[name].value) for name in ("wdata", "wstrb", "wlast"))
                if self._stands("w", now, data):
                    self._take_data(last=bool(data[2]))
            if now["rvalid"] and now["rready"]:
                self.beats += 1
                self._open_reads -= int(signals["rlast"].value)
            self._open_writes -= now["bvalid"] and now["bready"]

    def _stands(self, channel: str, now: dict[str, bool], payload: tuple[int, ...]) -> bool:
        """Check that what was not taken before stands unchanged; return whether it is taken now."""
        before = self._held.pop(channel, None)
        name = channel.upper()
        if before is not None and not now[f"{channel}valid"]:
            self._fail(f"{name}VALID fell before {name}READY")
        if before is not None and before != payload:
            self._fail(f"{name} changed before {name}READY: {before} to {payload}")
        if now[f"{channel}valid"] and not now[f"{channel}ready"]:
            self._held[channel] = payload
        return now[f"{channel}valid"] and now[f"{channel}ready"]

    def _take_request(self, channel: str, request: tuple[int, ...]) -> None:
        address, length, size, burst, lock, cache, protection, _ = request
        name = f"{channel.upper()} burst of {length + 1} beats at {address:#x}"
        first = address - address % self._bus_bytes
        if burst != 1:
            self._fail(f"{name} is not INCR but {burst}")
        if length >= MAX_BEATS:
            self._fail(f"{name} is longer than {MAX_BEATS}")
        if 1 << size != self._bus_bytes:
            self._fail(f"{name} is not of the bus's width: size {size}")
        if first // 4096 != (first + (length + 1) * self._bus_bytes - 1) // 4096:
            self._fail(f"{name} crosses 4 KiB")
        if (lock, cache, protection) != (0, 3, 0):
            self._fail(f"{name} has LOCK, CACHE, PROT {(lock, cache, protection)}, not (0, 3, 0)")
        if channel == "ar":
            self.reads += 1
            self._open_reads += 1
        else:
            self.writes += 1
            self._open_writes += 1
            self._promised.append(length + 1)
            self._match_writes()

    def _take_data(self, *, last: bool) -> None:
        self.beats += 1
        self._beat += 1
        if self._beat > MAX_BEATS:
            self._fail(f"no WLAST in {MAX_BEATS} beats")
        if last:
            self._sent.append(self._beat)
            self._beat = 0
        self._match_writes()

    def _match_writes(self) -> None:
        while self._promised and self._sent:
            promised, sent = self._promised.pop(0), self._sent.pop(0)
            if promised != sent:
                self._fail(f"WLAST at beat {sent} of a burst of {promised}")
        if self._promised and self._beat >= self._promised[0]:
            self._fail(f"no WLAST at beat {self._beat} of a burst of {self._promised[0]}")

    def _fail(self, message: str) -> NoReturn:
        raise BusRuleError(f"{message} ({get_sim_time('ns'):g} ns)")


_HANDSHAKES = tuple(f"{channel}{side}" for channel in ("ar", "r", "aw", "w", "b") for side in ("valid", "ready"))


def _names() -> list[str]:
    requests = [f"{channel}{field}" for channel in ("ar", "aw") for field in REQUEST]
    return [*_HANDSHAKES, *requests, "wdata", "wstrb", "wlast", "rlast"]
