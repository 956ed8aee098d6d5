"""What can go wrong with a device, an exception type each. NumPy and standard library only."""

from __future__ import annotations

from collections.abc import Mapping

from halfulp.hw.registers import ErrorCode

__all__ = [
    "BusError",
    "ConnectionLostError",
    "DescriptorError",
    "DeviceError",
    "DeviceTimeoutError",
    "IdentificationError",
    "VerificationError",
]


class DeviceError(RuntimeError):
    """A device failed; the base of all that this module names.

    Parameters
    ----------
    message
        One line that names the rule and the value.
    registers
        The core's registers at the time, by name, appended to the message; empty where none could be read.
    """

    def __init__(self, message: str, registers: Mapping[str, int] | None = None) -> None:
        self.registers = dict(registers or {})
        if self.registers:
            listed = ", ".join(f"{name} {value:#x}" for name, value in self.registers.items())
            message = f"{message} (registers: {listed})"
        super().__init__(message)


class DeviceTimeoutError(DeviceError, TimeoutError):
    """A core made no progress for as long as the driver waits; it was reset."""


class BusError(DeviceError):
    """The memory answered a burst of the core with an error (SLVERR or DECERR); the GEMM was stopped.

    Attributes
    ----------
    address
        Of the first burst that failed.
    """

    def __init__(self, message: str, address: int, registers: Mapping[str, int] | None = None) -> None:
        super().__init__(message, registers)
        self.address = address


class DescriptorError(DeviceError):
    """The core refused a GEMM before any traffic.

    Attributes
    ----------
    code
        Why, as the core's status register says it.
    """

    def __init__(self, message: str, code: ErrorCode, registers: Mapping[str, int] | None = None) -> None:
        super().__init__(message, registers)
        self.code = code


class IdentificationError(DeviceError):
    """What answers at the registers' address is no core, or one that this driver does not know."""


class ConnectionLostError(DeviceError, OSError):
    """The device does not answer any more: unplugged, powered down, its process gone."""


class VerificationError(DeviceError):
    """A result differs from the golden model; the message names the output tile.

    Attributes
    ----------
    rows, columns
        The part of C that is wrong, as half-open ranges (start, stop).
    """

    def __init__(self, message: str, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        super().__init__(message)
        self.rows, self.columns = rows, columns
