"""A core behind a serial link: the bus of `halfulp.host.driver`. NumPy and standard library only."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from halfulp.host.serial_link import SerialLink
from halfulp.hw.serial_protocol import Command
from halfulp.sim.device_memory import ALIGNMENT, DeviceBuffer, DeviceMemory

__all__ = ["SerialBuffer", "SerialBus"]

POLL_S = 0.2e-3
"""Pause between two looks at the status, each of which takes a USB serial port about a millisecond."""


class SerialBuffer:
    """Part of the board's memory and the host's copy of it; a `halfulp.host.bus.CoreBuffer`."""

    def __init__(self, link: SerialLink, copy: DeviceBuffer) -> None:
        self._link = link
        self._copy = copy

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """The host's copy, [nbytes]."""
        return self._copy.array

    @property
    def address(self) -> int:
        """Where the core finds the first byte; a multiple of 64."""
        return self._copy.address

    def flush(self) -> None:
        """Send the copy to the board."""
        self._link.write(Command.WRITE_MEMORY, self.address, self.array.tobytes())

    def invalidate(self) -> None:
        """Fetch the board's bytes into the copy."""
        raw = self._link.read(Command.READ_MEMORY, self.address, self._copy.nbytes)
        self.array[:] = np.frombuffer(raw, np.uint8)

    def free(self) -> None:
        """Give the memory back."""
        self._copy.free()


class SerialBus:
    """Registers and on-chip memory of a core, through a serial link.

    Parameters
    ----------
    link
        Closed with the bus.
    """

    def __init__(self, link: SerialLink) -> None:
        self._link = link
        self._memory = DeviceMemory(link.info.memory_bytes, base=0)

    @property
    def link(self) -> SerialLink:
        """What this is reached by."""
        return self._link

    @property
    def memory_bytes(self) -> int:
        """Size of the memory."""
        return self._link.info.memory_bytes

    @staticmethod
    def rounded(nbytes: int) -> int:
        """Bytes that a buffer of so many takes."""
        return -(-nbytes // ALIGNMENT) * ALIGNMENT

    def read(self, offset: int) -> int:
        """Read a 32-bit register."""
        return self.read_block(offset, 1)[0]

    def read_block(self, offset: int, count: int) -> list[int]:
        """Read `count` registers from `offset` on."""
        raw = self._link.read(Command.READ_REGISTERS, offset, 4 * count)
        return [int(word) for word in np.frombuffer(raw, "<u4")]

    def write(self, offset: int, value: int) -> None:
        """Write a 32-bit register, in order with all other accesses; does not wait."""
        self._link.write(Command.WRITE_REGISTER, offset, value.to_bytes(4, "little"))

    def allocate(self, nbytes: int) -> SerialBuffer:
        """Memory for host and core; MemoryError where there is none in one piece."""
        return SerialBuffer(self._link, self._memory.allocate(nbytes))

    def wait(self, timeout_s: float) -> None:
        """Return after a moment: a serial line has no interrupt."""
        time.sleep(min(timeout_s, POLL_S))

    def close(self) -> None:
        """Close the link."""
        self._link.close()
