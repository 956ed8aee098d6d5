"""`SerialSimDevice`: GEMMs on virtual serial boards, the generated Verilog behind its serial pins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from halfulp.host.core_device import check_requirements
from halfulp.host.core_family import CoreFamily, Requirement
from halfulp.host.serial_device import DEFAULT_BAUD, SerialDevice
from halfulp.host.serial_port import SerialPort
from halfulp.host.simulated_device import SimulatedDevice, simulated_cores
from halfulp.hw.config import ArrayConfig

__all__ = ["SerialSimDevice", "open_serial_sim"]

RETRIES = 40
"""More than on a real line, for a simulation may have to wait for a busy processor."""


class SerialSimDevice(SimulatedDevice[SerialDevice]):
    """Virtual serial boards: one fixed one, or one for each core of an array shape that the GEMMs need.

    Parameters
    ----------
    name, cores, verify, progress
        See `SimulatedDevice`.
    timeout_s
        See `Driver`.
    reply_timeout_s
        See `SerialLink`.
    **board_options
        To `halfulp.sim.serial_board.VirtualSerialBoard`.
    """

    def __init__(
        self,
        name: str,
        cores: ArrayConfig | CoreFamily,
        *,
        verify: float = 0.0,
        timeout_s: float = 60.0,
        reply_timeout_s: float = 0.25,
        progress: Callable[[str], None] | None = None,
        **board_options: Any,
    ) -> None:
        super().__init__(name, cores, verify=verify, progress=progress)
        self._timeouts = {"timeout_s": timeout_s, "reply_timeout_s": reply_timeout_s}
        self._board_options = board_options

    def _open_core(self, config: ArrayConfig) -> SerialDevice:
        return _open_board(self.name, config, self._timeouts, **self._board_options)


def open_serial_sim(argument: str, *, requirements: Iterable[Requirement] = (), **options: Any) -> SerialSimDevice:
    """Open ``serial-sim:`` with a shape such as ``2x2``, or with the path of a configuration file."""
    cores = simulated_cores("serial-sim", argument, requirements, example="2x2")
    return check_requirements(SerialSimDevice(f"serial-sim:{argument}", cores, **options), requirements)


def _open_board(name: str, config: ArrayConfig, timeouts: dict[str, float], **board_options: Any) -> SerialDevice:
    from halfulp.sim.serial_board import VirtualSerialBoard

    board = VirtualSerialBoard(config, **board_options)
    try:
        port = SerialPort(board.path, baud=DEFAULT_BAUD, name=name)
        try:
            return SerialDevice(
                name,
                port,
                baud=DEFAULT_BAUD,
                retries=RETRIES,
                expected=config,
                is_simulated=True,
                on_close=board.close,
                **timeouts,
            )
        except BaseException:
            port.close()
            raise
    except BaseException:
        board.close()
        raise
