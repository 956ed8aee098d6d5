"""The virtual board: a `pynq.Device` whose registers and memory are a simulated core's. Needs the `pynq` package.

`pynq.Overlay`, `MMIO`, `allocate`, flush and invalidate work on it unchanged, so the host code of a board is what
runs here. Its memory is not coherent: the host works on copies, as on a processor's caches, and what is not flushed or
invalidated is not seen by the other side.
"""

from __future__ import annotations

import ctypes
import itertools
import weakref
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pynq
from pynq.buffer import PynqBuffer
from pynq.interrupt import _InterruptController
from pynq.pl_server.device import Device
from pynq.uio import UioController
from pynqmetadata.frontends import Metadata

from halfulp.hw.handoff import PROCESSING_SYSTEMS, REGISTER_BYTES
from halfulp.sim.board_clock import BoardClock, SimulatedCore, SimulatedMemory
from halfulp.sim.board_peripherals import (
    CLOCK_REGISTERS,
    InterruptController,
    Peripheral,
    RegisterBank,
    UserInterrupt,
)
from halfulp.sim.event_loop import need_event_loop

try:
    from pynqmetadata.views.runtime import RuntimeMetadataParser  # pynqmetadata 0.2
except ImportError:
    from pynq.metadata.runtime_metadata_parser import RuntimeMetadataParser

__all__ = ["VirtualBoard"]

HOST_GARBAGE, DEVICE_GARBAGE = 0xA5, 0x5A
"""What new memory holds as host and core see it: different, so that a forgotten flush or invalidate shows."""

HAS_DEVICE_CLOCKS = tuple(int(part) for part in pynq.__version__.split(".")[:2]) >= (3, 1)
"""Whether this PYNQ asks the device for its processor when it sets clocks; 3.0 asks the machine that it runs on."""

_numbers = itertools.count()


class VirtualBoard(Device):
    """A board with one simulated core.

    Parameters
    ----------
    core
        The simulation; it is closed with the board.
    processing_system
        Name of a `halfulp.hw.handoff.ProcessingSystem`: decides addresses and clock registers.
    name
        What messages call the board.
    """

    def __init__(self, core: SimulatedCore, *, processing_system: str = "zynq-7000", name: str = "virtual") -> None:
        super().__init__(f"halfulp-{name}-{next(_numbers)}")
        self.name = name
        ps = PROCESSING_SYSTEMS.get(processing_system)
        self.arch = ps.machine
        self.capabilities = {"REGISTER_RW": True, "MEMORY_MAPPED": False, "CALLABLE": False}
        self.timestamp = ""
        self.bitfile_name = ""
        self._user_interrupt = UserInterrupt()
        controller = InterruptController(self._user_interrupt)
        self._clock = BoardClock(core, controller.set_input)
        self._buses: dict[int, Peripheral] = {
            ps.core_address: _CoreRegisters(self._clock),
            ps.interrupt_address: controller,
            **{base: RegisterBank(values) for base, values in CLOCK_REGISTERS[ps.name].items()},
        }
        self._uio: _Uio | None = None
        # Code written for a board names no device: it gets this one, unless there is another.
        if not getattr(Device, "_active_device", None):
            Device.active_device = self

    # Registers

    def read_registers(self, address: int, length: int) -> bytes:
        """`length` bytes of registers from `address` on; OSError where nothing answers."""
        peripheral, offset = self._find(address, length)
        words = [peripheral.read(offset + i) for i in range(0, length, 4)]
        return b"".join(word.to_bytes(4, "little") for word in words)

    def write_registers(self, address: int, data: bytes) -> None:
        """Write whole words to registers from `address` on; OSError where nothing answers."""
        raw = bytes(data)
        peripheral, offset = self._find(address, len(raw))
        for i in range(0, len(raw), 4):
            peripheral.write(offset + i, int.from_bytes(raw[i : i + 4], "little"))

    def _find(self, address: int, length: int) -> tuple[Peripheral, int]:
        for base, peripheral in self._buses.items():
            if base <= address and address + length <= base + peripheral.nbytes:
                return peripheral, address - base
        raise OSError(f"bus error: nothing answers at {address:#010x}")

    # Memory

    def allocate(self, shape: Any, dtype: Any, cacheable: int = 1, **_: Any) -> PynqBuffer:
        """A buffer of this shape, filled with garbage; MemoryError where there is no room.

        `cacheable` changes nothing: host and core never share bytes before a flush or an invalidate.
        """
        nbytes = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        memory = self._clock.allocate(nbytes)
        memory.array[:] = DEVICE_GARBAGE
        shadow = bytearray([HOST_GARBAGE]) * nbytes
        # What PYNQ calls bo is whatever flush and invalidate want to be given back.
        handle: Any = memory
        buffer = PynqBuffer(shape, dtype, buffer=shadow, device=self, device_address=memory.address, bo=handle)
        weakref.finalize(buffer, memory.free)
        return buffer

    def flush(self, bo: SimulatedMemory, offset: int, vaddr: int, nbytes: int) -> None:
        """Copy from the host's bytes at `vaddr` to the core's."""
        bo.array[offset : offset + nbytes] = _bytes_at(vaddr, nbytes)

    def invalidate(self, bo: SimulatedMemory, offset: int, vaddr: int, nbytes: int) -> None:
        """Copy from the core's bytes to the host's at `vaddr`."""
        _bytes_at(vaddr, nbytes)[:] = bo.array[offset : offset + nbytes]

    # Overlays

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        """What the hand-off file beside the bitstream says."""
        metadata: Any = Metadata(input=cast(Any, Path(bitfile_name).with_suffix(".hwh")))
        parser: Any = RuntimeMetadataParser(metadata)
        parser.refresh_hierarchy_dict()
        if not HAS_DEVICE_CLOCKS:
            parser.clock_dict = {}
        return parser

    def gen_cache(self, bitstream: Any, parser: Any = None) -> None:
        """Nothing is worth caching here."""

    def download(self, bitstream: Any, parser: Any = None) -> None:
        """Take the hand-off file's design for loaded: the logic is the simulated core, whatever the bitstream."""
        super().post_download(bitstream, parser, self.name)
        self._connect_interrupt()

    def _connect_interrupt(self) -> None:
        """Give PYNQ the controller's line where it looks for a file in /dev."""
        for controller in self.interrupt_controllers.values():
            if self._uio is None:
                self._uio = _Uio(self._user_interrupt.path)
            _InterruptController._uio_devices[controller["raw_irq"]] = self._uio

    def close(self) -> None:
        """End the simulation; a second call does nothing. Buffers stay readable."""
        self._clock.close()
        if self._uio is not None:
            devices = _InterruptController._uio_devices
            for raw_irq in [number for number, uio in devices.items() if uio is self._uio]:
                del devices[raw_irq]
            self._uio.close()
            self._uio = None
        self._user_interrupt.close()
        if getattr(Device, "_active_device", None) is self:
            del cast(Any, Device)._active_device


class _Uio(UioController):
    """PYNQ's, which however never ends where the event loop has been closed meanwhile."""

    def __init__(self, path: str) -> None:
        self._loop = need_event_loop()
        super().__init__(path)

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(self.uio)
        self.uio.close()

    def __del__(self) -> None:
        if not self.uio.closed:
            self.close()


class _CoreRegisters:
    """The core's registers as a peripheral."""

    nbytes = REGISTER_BYTES

    def __init__(self, clock: BoardClock) -> None:
        self._clock = clock

    def read(self, offset: int) -> int:
        return self._clock.read(offset)

    def write(self, offset: int, value: int) -> None:
        self._clock.write(offset, value)


def _bytes_at(address: int, nbytes: int) -> npt.NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
