"""The core as PYNQ sees it: the driver that an overlay binds to it. Needs the `pynq` package."""

from __future__ import annotations

import select
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pynq
from pynq import DefaultIP
from pynq.pl_server.device import Device as PynqHardware

from halfulp.host.errors import ConnectionLostError, DeviceError
from halfulp.hw.handoff import CORE_VLNV
from halfulp.hw.registers import register
from halfulp.sim.event_loop import need_event_loop

__all__ = ["HalfulpCore", "PynqCoreBuffer"]

SHORTEST_NAP_S = 20e-6
LONGEST_NAP_S = 2e-3
NAP_SHARE = 1 / 16
"""Naps last this share of the time waited so far: a short GEMM is seen in time, and a long one leaves the CPU idle."""

STATUS, COMPLETED = (register(name).offset for name in ("status", "completed"))
BUSY = 1 << register("status").field("busy").lsb
STICKY = 1 << register("status").field("done").lsb | 1 << register("status").field("error").lsb


class PynqCoreBuffer:
    """Memory that host and core share, allocated by PYNQ; a `halfulp.host.bus.CoreBuffer`."""

    def __init__(self, buffer: Any, device: Any) -> None:
        self._buffer = buffer
        self._device = device
        # On a remote board each look at the address is a round trip.
        self._address = int(buffer.device_address)
        # Lines of the processor's cache that were written before this may not reach memory after the core has.
        buffer.flush()

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """The host's view, [nbytes]."""
        return np.asarray(self._owned)

    @property
    def address(self) -> int:
        """Physical address of the first byte."""
        return self._address

    def flush(self) -> None:
        """Make the host's writes visible to the core."""
        with _translated(self._device):
            self._owned.flush()

    def invalidate(self) -> None:
        """Make the core's writes visible to the host."""
        with _translated(self._device):
            self._owned.invalidate()

    def free(self) -> None:
        """Give the memory back; a second call does nothing."""
        # PYNQ gives it back when nothing refers to it any more: its `close` does nothing, and what `freebuffer` unmaps
        # may still be looked at.
        self._buffer = None

    @property
    def _owned(self) -> Any:
        if self._buffer is None:
            raise ValueError("this buffer has been freed")
        return self._buffer


class HalfulpCore(DefaultIP):
    """A core in an overlay: its registers, memory that it reaches, and its interrupt; a `halfulp.host.bus.CoreBus`.

    PYNQ makes one for each core of an overlay that is loaded after this module was imported;
    `halfulp.host.pynq_device.PynqDevice` runs GEMMs on it.
    """

    bindto = [CORE_VLNV]  # noqa: RUF012  (PYNQ's own name and type)

    def __init__(self, description: dict[str, Any]) -> None:
        if description.get("interrupts"):
            need_event_loop()
        super().__init__(description)
        self._seen = -1

    def read(self, offset: int = 0) -> int:
        """Read the 32-bit register at byte `offset`."""
        with _translated(self.device):
            value = int(super().read(offset))
        if offset == COMPLETED:
            self._seen = value
        return value

    def write(self, offset: int, value: int | bytes) -> None:
        """Write the 32-bit register at byte `offset`, or whole words from there on."""
        with _translated(self.device):
            # PYNQ tells numbers from bytes by their very type.
            super().write(offset, value if isinstance(value, bytes) else int(value))

    def allocate(self, nbytes: int) -> PynqCoreBuffer:
        """Memory of this board for host and core; MemoryError where there is none."""
        with _translated(self.device):
            try:
                return PynqCoreBuffer(pynq.allocate((nbytes,), "u1", target=self.device), self.device)
            except RuntimeError as error:  # how XRT and remote boards refuse
                raise MemoryError(f"{nbytes} bytes: {error}") from error

    @property
    def interrupt_line(self) -> Any:
        """The `pynq.Interrupt` of the core; None where the overlay wires none or PYNQ cannot serve it.

        PYNQ looks interrupts up in the active device only, and has none of remote boards.
        """
        line = getattr(self, "interrupt", None)
        usable = line is not None and hasattr(line, "parent") and self.device is PynqHardware.active_device
        return line if usable else None

    def wait(self, timeout_s: float) -> None:
        """Return when a GEMM has ended since the driver last looked, nothing runs, or `timeout_s` has gone by.

        Sleeps in between: on the interrupt where there is one, else in naps.
        """
        start = time.monotonic()
        while (waited := time.monotonic() - start) < timeout_s:
            seen = self._seen
            status = self.read(STATUS)
            if not status & BUSY or self.read(COMPLETED) != seen:
                return
            line = self.interrupt_line
            # `done` is sticky: once a GEMM of the batch has ended, the line says nothing about the next one.
            if line is not None and not status & STICKY:
                _wait_for(line, timeout_s - waited)
                return
            time.sleep(min(max(SHORTEST_NAP_S, NAP_SHARE * waited), LONGEST_NAP_S, timeout_s - waited))


def _wait_for(line: Any, timeout_s: float) -> None:
    """Wait for a `pynq.Interrupt` without its event loop, which in a notebook is running already."""
    controller = line.parent()
    if controller is None:
        raise OSError("another overlay was loaded: the interrupt is gone")
    came = threading.Event()
    controller.add_event(came, line.number)
    root = controller
    while hasattr(root, "parent"):
        root = root.parent
    give_up = time.monotonic() + timeout_s
    while not came.is_set() and (left := give_up - time.monotonic()) > 0:
        if select.select([root.uio], [], [], left)[0]:
            root._uio_callback()


class _translated:
    """Gives what a board over the network raises, when it is gone or refuses, its own type."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or not self._device.has_capability("REMOTE"):
            return
        import grpc

        where = f"the board at {self._device.ip_addr}:{self._device.port}"
        if isinstance(error, grpc.RpcError):
            told = getattr(error, "details", lambda: "")() or type(error).__name__
            raise ConnectionLostError(f"{where} does not answer: {told}") from error
        if isinstance(error, RuntimeError) and not isinstance(error, DeviceError):
            raise ConnectionLostError(f"{where} reports: {error}") from error
