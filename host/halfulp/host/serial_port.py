"""A serial port by its name, opened for one process alone. Needs pyserial."""

from __future__ import annotations

import errno
from typing import Any

from halfulp.host.errors import DeviceError

__all__ = ["SerialPort"]

LONGEST_WRITE_S = 10.0
"""A port that does not take what is written for so long is dead."""


class SerialPort:
    """A `halfulp.host.serial_link.BytePort`.

    Parameters
    ----------
    path
        Such as ``/dev/ttyUSB0``.
    baud
        Bits a second.
    name
        What messages call the device.

    Raises
    ------
    DeviceError
        Where there is no such port, another process has it, or it may not be opened.
    """

    def __init__(self, path: str, *, baud: int, name: str) -> None:
        try:
            import serial
        except ImportError as error:
            raise DeviceError(f"device {name!r} needs pyserial: pip install 'halfulp[serial]' ({error})") from error
        try:
            self._port: Any = serial.Serial(path, baud, timeout=0, write_timeout=LONGEST_WRITE_S, exclusive=True)
        except (OSError, ValueError) as error:
            raise DeviceError(f"{name}: {_explain(path, baud, error)}") from error
        self._port.reset_input_buffer()

    def read(self, timeout_s: float) -> bytes:
        """See `BytePort`."""
        waiting = self._port.in_waiting
        if not waiting:
            self._port.timeout = timeout_s
            first = self._port.read(1)
            return first + self._port.read(self._port.in_waiting) if first else b""
        return self._port.read(waiting)

    def write(self, raw: bytes) -> None:
        """See `BytePort`."""
        self._port.write(raw)

    def close(self) -> None:
        """See `BytePort`."""
        self._port.close()


def _explain(path: str, baud: int, error: Exception) -> str:
    """One line with what to do about a port that cannot be opened."""
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        from serial.tools.list_ports import comports

        ports = ", ".join(sorted(port.device for port in comports()))
        return f"there is no port {path}; there {f'are {ports}' if ports else 'is none at all'}"
    if number in (errno.EAGAIN, errno.EBUSY):
        return f"port {path} is in use by another program"
    if number == errno.EACCES:
        return (
            f"port {path} may not be opened: add yourself to the group that owns it (often dialout), and log in again"
        )
    return f"port {path} cannot be opened at {baud} baud: {error}".splitlines()[0]
