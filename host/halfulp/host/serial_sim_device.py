"""`SerialSimDevice`: GEMMs on virtual serial boards, the generated Verilog behind its serial pins."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from halfulp.host.core_device import CoreDevice, depth_of
from halfulp.host.core_family import CoreFamily, Requirement
from halfulp.host.driver import Driver
from halfulp.host.serial_device import DEFAULT_BAUD, SerialDevice
from halfulp.host.serial_port import SerialPort
from halfulp.hw.config import ArrayConfig, UnsupportedSpecError
from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec
from halfulp.numerics.formats import CodeArray
from halfulp.numerics.gemm import GemmResult

__all__ = ["SerialSimDevice", "open_serial_sim"]

RETRIES = 40
"""More than on a real line, for a simulation may have to wait for a busy processor."""


class SerialSimDevice(CoreDevice):
    """Virtual serial boards: one fixed one, or one for each core of an array shape that the GEMMs need.

    Parameters
    ----------
    name
        For messages.
    cores
        A fixed `ArrayConfig`, or the `CoreFamily` to choose from.
    verify
        See `Device`.
    timeout_s
        See `Driver`.
    progress
        Called with a line of text before a core is opened, for compiling it may take a minute.
    **board_options
        To `halfulp.sim.serial_board.VirtualSerialBoard`.
    """

    is_simulated = True

    def __init__(
        self,
        name: str,
        cores: ArrayConfig | CoreFamily,
        *,
        verify: float = 0.0,
        timeout_s: float = 60.0,
        progress: Callable[[str], None] | None = None,
        **board_options: Any,
    ) -> None:
        super().__init__(name, verify=verify)
        self._cores = cores
        self._timeout_s = timeout_s
        self._progress = progress
        self._board_options = board_options
        self._open: dict[ArrayConfig, SerialDevice] = {}
        self.config = cores if isinstance(cores, ArrayConfig) else None

    @property
    def driver(self) -> Driver | None:
        """Of the core that ran or was prepared last; None before."""
        return self.board.driver if self.board is not None else None

    @property
    def board(self) -> SerialDevice | None:
        """The device of the core that ran or was prepared last; None before."""
        return self._open.get(self.config) if self.config is not None else None

    def check(self, spec: AnyGemmSpec, k: int | None = None) -> None:
        """See `Device.check`. Builds nothing."""
        self._config_for(spec, k)

    def prepare(self, *requirements: Requirement) -> None:
        """See `Device.prepare`."""
        for each in requirements:
            spec, k = each if isinstance(each, tuple) else (each, None)
            config = self._config_for(spec, k)
            with self._lock:
                self._device(config)
                self.config = config

    def _config_for(self, spec: AnyGemmSpec, k: int | None) -> ArrayConfig:
        try:
            if isinstance(self._cores, CoreFamily):
                return self._cores.config_for(spec, k)
            self._cores.check_spec(spec, k)
        except UnsupportedSpecError as error:
            raise UnsupportedSpecError(f"device {self.name}: {error}; device emulator runs it") from error
        return self._cores

    def _device(self, config: ArrayConfig) -> SerialDevice:
        if config not in self._open:
            if self._progress is not None:
                self._progress(f"{self.name}: opening core {config.name}; it is compiled when it is used first")
            self._open[config] = _open_board(self.name, config, self._timeout_s, **self._board_options)
        return self._open[config]

    def run_on_core(self, a: CodeArray | Blocks, b: CodeArray | Blocks, spec: AnyGemmSpec, seed: int) -> GemmResult:
        """See `CoreDevice.run_on_core`."""
        config = self._config_for(spec, depth_of(a))
        device = self._device(config)
        self.config = config
        result = device.run_on_core(a, b, spec, seed)
        self.counters = device.counters
        return result

    def _close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def open_serial_sim(argument: str, *, requirements: Iterable[Requirement] = (), **options: Any) -> SerialSimDevice:
    """Open ``serial-sim:`` with a shape such as ``2x2``, or with the path of a configuration file."""
    name = f"serial-sim:{argument}"
    if match := re.fullmatch(r"(\d+)x(\d+)", argument.strip().lower()):
        return SerialSimDevice(name, CoreFamily(int(match[1]), int(match[2]), requirements), **options)
    if not argument.strip():
        raise ValueError("device 'serial-sim' needs an array shape or a configuration file: serial-sim:2x2")
    path = Path(argument).expanduser()
    if not path.is_file():
        raise ValueError(f"device {name!r}: {argument!r} is neither an array shape such as 2x2 nor an existing file")
    from halfulp.hw.config_file import load_config

    device = SerialSimDevice(name, load_config(path), **options)
    for each in requirements:
        spec, k = each if isinstance(each, tuple) else (each, None)
        device.check(spec, k)
    return device


def _open_board(name: str, config: ArrayConfig, timeout_s: float, **board_options: Any) -> SerialDevice:
    from halfulp.sim.serial_board import VirtualSerialBoard

    board = VirtualSerialBoard(config, **board_options)
    try:
        port = SerialPort(board.path, baud=DEFAULT_BAUD, name=name)
        try:
            return SerialDevice(
                name,
                port,
                baud=DEFAULT_BAUD,
                timeout_s=timeout_s,
                retries=RETRIES,
                expected=config,
                is_simulated=True,
                on_close=board.close,
            )
        except BaseException:
            port.close()
            raise
    except BaseException:
        board.close()
        raise
