"""`PynqDevice`: GEMMs on a board that runs PYNQ, here or over the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from halfulp.host.core_device import CoreDevice, check_requirements
from halfulp.host.core_family import Requirement
from halfulp.host.device import Device
from halfulp.host.driver import Driver
from halfulp.host.errors import ConnectionLostError, IdentificationError
from halfulp.host.pynq_overlay import core_instance, load_overlay, need_pynq
from halfulp.hw.config import ArrayConfig
from halfulp.hw.handoff import config_of_parameters
from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec
from halfulp.numerics.formats import CodeArray
from halfulp.numerics.gemm import GemmResult

if TYPE_CHECKING:
    import pynq

__all__ = ["PynqDevice", "open_pynq"]


class PynqDevice(CoreDevice):
    """The core of a loaded overlay.

    Parameters
    ----------
    name
        For messages.
    overlay
        A `pynq.Overlay` that was made after `halfulp.host.pynq_core` was imported; `load_overlay` sees to it.
    verify
        See `Device`.
    timeout_s
        See `Driver`.
    is_simulated
        Whether the core is a simulation.
    on_close
        Called when the device is closed.

    Attributes
    ----------
    overlay
        As given.
    driver
        Of the core; its bus is the overlay's `HalfulpCore`.

    Raises
    ------
    IdentificationError
        Where the overlay has no core, or the core is not the one that its hand-off file tells of.
    """

    def __init__(
        self,
        name: str,
        overlay: pynq.Overlay,
        *,
        verify: float = 0.0,
        timeout_s: float = 30.0,
        is_simulated: bool = False,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_close = on_close
        self.overlay = overlay
        instance = core_instance(name, overlay)
        core: Any = overlay
        for part in instance.split("/"):
            core = getattr(core, part)
        self.is_simulated = is_simulated
        self.driver = Driver(core, name=name, timeout_s=timeout_s)
        super().__init__(name, self.driver.config, verify=verify)
        _compare(name, self.driver.config, config_of_parameters(overlay.ip_dict[instance]["parameters"]))

    def run_on_core(self, a: CodeArray | Blocks, b: CodeArray | Blocks, spec: AnyGemmSpec, seed: int) -> GemmResult:
        """See `CoreDevice.run_on_core`."""
        result = self.driver.gemm(a, b, spec, seed=seed)
        self.counters = self.driver.counters
        return result

    def _close(self) -> None:
        try:
            # A board that is gone has nothing that runs any more.
            with suppress(ConnectionLostError):
                self.driver.close()
        finally:
            self._on_close()


def open_pynq(
    argument: str, *, requirements: Iterable[Requirement] = (), progress: Any = None, **options: Any
) -> Device:
    """Open ``pynq:OVERLAY.bit``, on this board, or ``pynq:OVERLAY.bit@HOST[:PORT]``, on one over the network.

    The environment's PYNQ_REMOTE_DEVICES names the board where the argument does not.
    """
    name = f"pynq:{argument}"
    path, at, host = argument.strip().rpartition("@")
    if not at or "/" in host:  # a folder may have an @ in its name
        path, host = argument.strip(), ""
    # As PYNQ itself does where it is told of boards elsewhere.
    host = host or os.environ.get("PYNQ_REMOTE_DEVICES", "").partition(",")[0].strip()
    if not path:
        raise ValueError("device 'pynq' needs the overlay's file: pynq:OVERLAY.bit, pynq:OVERLAY.bit@HOST")
    need_pynq(name)
    hardware, close = None, (lambda: None)
    if host:
        from halfulp.host.pynq_network import connect

        hardware = connect(host)
        close = hardware.close
    try:
        overlay = load_overlay(path, device=hardware)
        device = PynqDevice(name, overlay, on_close=close, **options)
    except BaseException:
        close()
        raise
    return check_requirements(device, requirements)


def _compare(name: str, found: ArrayConfig, told: ArrayConfig | None) -> None:
    if told is None or found == told:
        return
    theirs, ours = found.to_dict(), told.to_dict()
    key = next(key for key in ours if ours[key] != theirs[key])
    raise IdentificationError(
        f"{name}: the core has {key} = {theirs[key]!r}, its hand-off file says {ours[key]!r}: two builds"
    )
