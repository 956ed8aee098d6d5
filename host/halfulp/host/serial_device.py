"""`SerialDevice`: GEMMs on a core behind a serial link. NumPy, standard library and pyserial."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from halfulp.host.core_device import CoreDevice, check_requirements, depth_of, refusal
from halfulp.host.core_family import Requirement
from halfulp.host.driver import Counters, Driver
from halfulp.host.errors import IdentificationError
from halfulp.host.gemm_parts import cut_gemm
from halfulp.host.serial_bus import SerialBus
from halfulp.host.serial_link import BytePort, SerialLink
from halfulp.host.serial_port import SerialPort
from halfulp.hw.config import ArrayConfig, UnsupportedSpecError
from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec
from halfulp.numerics.formats import CodeArray
from halfulp.numerics.gemm import GemmResult
from halfulp.numerics.names import unknown_name

__all__ = ["DEFAULT_BAUD", "SerialDevice", "open_serial"]

DEFAULT_BAUD = 3_000_000
"""What the boards' bitstreams are made for where their USB chip allows it."""


class SerialDevice(CoreDevice):
    """The core at the other end of a serial port. What does not fit its memory is cut along M and N.

    Parameters
    ----------
    name
        For messages.
    port
        Opened; closed with the device.
    baud
        Bits a second.
    verify
        See `Device`.
    timeout_s
        See `Driver`.
    reply_timeout_s, retries
        See `SerialLink`.
    expected
        The configuration that the core must have; None takes any.
    is_simulated
        Whether the core is.
    on_close
        Called when the device has been closed.

    Raises
    ------
    IdentificationError
        Where no core answers, or another one.
    """

    def __init__(
        self,
        name: str,
        port: BytePort,
        *,
        baud: float,
        verify: float = 0.0,
        timeout_s: float = 30.0,
        reply_timeout_s: float = 0.25,
        retries: int = 10,
        expected: ArrayConfig | None = None,
        is_simulated: bool = False,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.is_simulated = is_simulated
        self._on_close = on_close
        link = SerialLink(port, baud=baud, name=name, reply_timeout_s=reply_timeout_s, retries=retries)
        self._bus = SerialBus(link)
        self._driver = Driver(self._bus, name=name, timeout_s=timeout_s, pools=False)
        super().__init__(name, self._driver.config, verify=verify)
        if expected is not None:
            _compare(name, self._driver.config, expected)

    @property
    def driver(self) -> Driver:
        """What runs the core."""
        return self._driver

    @property
    def link(self) -> SerialLink:
        """What reaches the core."""
        return self._bus.link

    def run_on_core(self, a: CodeArray | Blocks, b: CodeArray | Blocks, spec: AnyGemmSpec, seed: int) -> GemmResult:
        """See `CoreDevice.run_on_core`."""
        m, n = _codes(a).shape[0], _codes(b).shape[1]

        def needed(rows: int, columns: int) -> tuple[int, int, int]:
            parts = _rows(a, slice(rows)), _columns(b, slice(columns))
            a_bytes, b_bytes, c_bytes = self._driver.memory_needed(*parts, spec)
            return self._bus.rounded(a_bytes), self._bus.rounded(b_bytes), self._bus.rounded(c_bytes)

        try:
            parts = list(cut_gemm(m, n, needed, self._bus.memory_bytes))
        except MemoryError as error:
            too_large = UnsupportedSpecError(f"K = {depth_of(a)} is too large for the core's memory: {error}")
            raise refusal(self.name, too_large) from error
        codes = np.empty((m, n), spec.out.code_dtype)
        invalid = overflow = False
        counted: list[Counters] = []
        for rows, columns in parts:
            part = self._driver.gemm(
                _rows(a, rows),
                _columns(b, columns),
                spec,
                seed=seed,
                row_offset=rows.start,
                column_offset=columns.start,
            )
            codes[rows, columns] = part.codes
            invalid, overflow = invalid or part.invalid, overflow or part.overflow
            if self._driver.counters is not None:
                counted.append(self._driver.counters)
        if counted:
            self.counters = Counters(
                sum(c.cycles for c in counted),
                sum(c.array_busy_cycles for c in counted),
                sum(c.read_stall_cycles for c in counted),
                sum(c.write_stall_cycles for c in counted),
            )
        return GemmResult(codes, invalid, overflow)

    def _close(self) -> None:
        try:
            self._bus.close()
        finally:
            if self._on_close is not None:
                self._on_close()


def _codes(operand: CodeArray | Blocks) -> CodeArray:
    return operand.codes if isinstance(operand, Blocks) else operand


def _rows(a: CodeArray | Blocks, rows: slice) -> CodeArray | Blocks:
    """Some rows of A; of blocks, which lie along K, their scales too."""
    return a._replace(codes=a.codes[rows], scales=a.scales[rows]) if isinstance(a, Blocks) else a[rows]


def _columns(b: CodeArray | Blocks, columns: slice) -> CodeArray | Blocks:
    """Some columns of B."""
    if isinstance(b, Blocks):
        return b._replace(codes=b.codes[:, columns], scales=b.scales[:, columns])
    return b[:, columns]


def open_serial(argument: str, *, requirements: Iterable[Requirement] = (), **options: Any) -> SerialDevice:
    """Open ``serial:`` with a port's path, and after ``?`` ``baud=…`` and ``config=FILE``, joined by ``&``."""
    name = f"serial:{argument}"
    path, _, query = argument.strip().partition("?")
    if not path:
        raise ValueError("device 'serial' needs a port: serial:/dev/ttyUSB0, serial:/dev/ttyUSB0?baud=1000000")
    baud, expected = DEFAULT_BAUD, None
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key == "baud":
            if not (value.isdecimal() and int(value) > 0):
                raise ValueError(f"device {name!r}: baud must be a positive number, not {value!r}")
            baud = int(value)
        elif key == "config":
            from halfulp.hw.config_file import load_config

            expected = load_config(value)
        else:
            raise unknown_name(f"option of device {name!r}", key, ["baud", "config"])
    options.pop("progress", None)
    port = SerialPort(path, baud=baud, name=name)
    try:
        device = SerialDevice(name, port, baud=baud, expected=expected, **options)
    except BaseException:
        port.close()
        raise
    return check_requirements(device, requirements)


def _compare(name: str, found: ArrayConfig, expected: ArrayConfig) -> None:
    theirs, ours = found.to_dict(), expected.to_dict()
    for key in ours:
        if ours[key] != theirs[key]:
            raise IdentificationError(f"{name}: the core has {key} = {theirs[key]!r}, not {ours[key]!r}")
