"""What a virtual board has beside the core: clock registers, an interrupt controller, and its line to Linux."""

from __future__ import annotations

import contextlib
import os
import threading
import tty
import weakref
from typing import Protocol

__all__ = ["CLOCK_REGISTERS", "InterruptController", "Peripheral", "RegisterBank", "UserInterrupt"]

CLOCK_REGISTERS: dict[str, dict[int, dict[int, int]]] = {
    # Zynq-7000 TRM (UG585), SLCR: ARM, DDR and IO PLL control, ARM clock. The IO PLL's factor is 30.
    "zynq-7000": {0xF800_0000: {0x100: 0x0002_8008, 0x104: 0x0002_0008, 0x108: 0x0001_E008, 0x120: 0x1F00_0200}},
    # Zynq UltraScale+ registers (UG1087): CRL_APB with IO PLL (factor 45) and RPLL; CRF_APB with APLL, DPLL, VPLL, CPU.
    "zynqmp": {
        0xFF5E_0000: {0x20: 0x0000_2D00, 0x30: 0x0000_2D00},
        0xFD1A_0000: {0x20: 0x0000_4800, 0x2C: 0x0000_4000, 0x38: 0x0001_5A00, 0x60: 0x0300_0100},
    },
}
"""By processing system: base address of each bank of clock registers, and what its registers hold after boot."""

CLOCK_BANK_BYTES = 0x1000


class Peripheral(Protocol):
    """Registers on the processor's bus."""

    nbytes: int

    def read(self, offset: int) -> int:
        """Read the 32-bit register at byte `offset`."""
        ...

    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at byte `offset`."""
        ...


class RegisterBank:
    """Registers that hold what is written to them, and 0 at first unless `values` says otherwise."""

    def __init__(self, values: dict[int, int], nbytes: int = CLOCK_BANK_BYTES) -> None:
        self.nbytes = nbytes
        self._values = dict(values)

    def read(self, offset: int) -> int:
        """See `Peripheral`."""
        return self._values.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """See `Peripheral`."""
        self._values[offset] = value


class UserInterrupt:
    """An interrupt of Linux's user-space drivers (UIO), as a pseudo-terminal.

    As of ``/dev/uioN``: writing 4 bytes to `path` enables the interrupt, reading 4 bytes waits for it, and it is
    disabled once it has come.
    """

    def __init__(self) -> None:
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        self._finalizer = weakref.finalize(self, _close, self._ours, self._theirs)
        self._is_enabled = False
        self._count = 0

    @property
    def path(self) -> str:
        """What stands for ``/dev/uioN``."""
        return os.ttyname(self._theirs)

    def set_line(self, is_high: bool) -> None:
        """Tell whoever waits, if the interrupt is enabled and the line high."""
        if not is_high:
            return
        with contextlib.suppress(BlockingIOError):
            self._is_enabled |= bool(os.read(self._ours, 4096))
        if self._is_enabled:
            self._is_enabled = False
            self._count += 1
            os.write(self._ours, self._count.to_bytes(4, "little"))

    def close(self) -> None:
        """Remove it; a second call does nothing."""
        self._finalizer()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class InterruptController:
    """One input of AMD's AXI interrupt controller (PG099), level-sensitive.

    Parameters
    ----------
    output
        Where its own line goes.
    """

    ISR, IPR, IER, IAR, SIE, CIE, MER = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x1C

    def __init__(self, output: UserInterrupt) -> None:
        self.nbytes = 0x1000
        self._output = output
        self._lock = threading.Lock()
        self._input = self._pending = self._enabled = self._master = 0

    def set_input(self, is_high: bool) -> None:
        """The state of the core's interrupt line."""
        with self._lock:
            self._input = int(is_high)
            self._update()

    def read(self, offset: int) -> int:
        """See `Peripheral`."""
        with self._lock:
            values = {self.ISR: self._pending, self.IPR: self._pending & self._enabled, self.IER: self._enabled}
            return {**values, self.MER: self._master}.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """See `Peripheral`."""
        with self._lock:
            if offset == self.IER:
                self._enabled = value & 1
            elif offset == self.SIE:
                self._enabled |= value & 1
            elif offset == self.CIE:
                self._enabled &= ~value
            elif offset == self.IAR:
                self._pending &= ~value
            elif offset == self.MER:
                self._master = value & 3
            self._update()

    def _update(self) -> None:
        # A level input sets its bit again as long as it is high.
        self._pending |= self._input
        self._output.set_line(bool(self._pending & self._enabled) and self._master == 3)
