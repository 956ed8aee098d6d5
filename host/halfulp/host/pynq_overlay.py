"""Loading an overlay on a PYNQ board, and finding the core in it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfulp.host.errors import DeviceError, IdentificationError
from halfulp.hw.handoff import CORE_VLNV

if TYPE_CHECKING:
    import pynq

__all__ = ["core_instance", "load_overlay", "need_pynq"]


def load_overlay(path: str | Path, *, device: Any = None) -> pynq.Overlay:
    """Load an overlay and bind our driver to its core.

    Parameters
    ----------
    path
        Bitstream file, with its hand-off file (.hwh) beside it.
    device
        A `pynq.Device`; None: the active one.

    Raises
    ------
    DeviceError
        Where there is no such file, no board, or PYNQ does not get the overlay loaded.
    IdentificationError
        Where the hand-off file has no core of ours. The overlay is not loaded then: on a real board, looking for
        registers that are not there stops the processor.
    """
    import pynq

    import halfulp.host.pynq_core  # noqa: F401  (binds the driver)

    bit = Path(path).expanduser().absolute()
    for file in (bit, bit.with_suffix(".hwh")):
        if not file.is_file():
            raise DeviceError(
                f"{file} does not exist; an overlay is a bitstream with its hand-off file (.hwh) beside it"
            )
    hardware = device if device is not None else _active_device()
    # PYNQ keeps the clocks of the first device that it has seen.
    if "_real_instance" in vars(pynq.Clocks):
        del pynq.Clocks._real_instance
    try:
        with warnings.catch_warnings():
            # Of a core of another version, of which the next line tells.
            warnings.filterwarnings("ignore", f"IP .* is of type {CORE_VLNV.rpartition(':')[0]}", UserWarning)
            overlay = pynq.Overlay(str(bit), download=False, device=hardware)
        core_instance(str(bit), overlay)
        _complete(overlay, hardware)
        overlay.download()
    except DeviceError:
        raise
    except Exception as error:
        raise DeviceError(f"PYNQ cannot load {bit}: {type(error).__name__}: {error}".splitlines()[0]) from error
    return overlay


def core_instance(name: str, overlay: Any) -> str:
    """Name of the core in an overlay, below its hierarchies; `name` is what messages begin with.

    Raises
    ------
    IdentificationError
        Where there is no core of ours, or one of another version.
    """
    kinds = {instance: str(details.get("type")) for instance, details in overlay.ip_dict.items()}
    for instance, kind in kinds.items():
        if kind == CORE_VLNV:
            return instance
    ours, _, version = CORE_VLNV.rpartition(":")
    for kind in kinds.values():
        if kind.startswith(f"{ours}:"):
            theirs = kind.rpartition(":")[2]
            raise IdentificationError(f"{name}: the overlay's core has version {theirs}; this driver knows {version}")
    has = ", ".join(sorted(kind.split(":")[2] for kind in kinds.values() if kind.count(":") == 3)) or "nothing"
    raise IdentificationError(f"{name}: the overlay has no halfulp core; it has {has}")


def need_pynq(name: str) -> None:
    """Raise DeviceError with what to install where PYNQ is missing; `name` is the device that needs it."""
    try:
        import pynq  # noqa: F401
    except ImportError as error:
        raise DeviceError(f"device {name!r} needs PYNQ: pip install 'halfulp[pynq]' ({error})") from error


def _complete(overlay: Any, hardware: Any) -> None:
    """Mend what PYNQ would stumble over."""
    for n, clock in overlay.clock_dict.items():
        # pynqmetadata 0.2 has no rate for a Zynq-7000, and PYNQ 4.0 divides by it.
        if clock.get("frequency") is None:
            parameters = overlay.ip_dict[overlay.parser.ps_name]["parameters"]
            clock["frequency"] = float(parameters.get(f"PCW_ACT_FPGA{n}_PERIPHERAL_FREQMHZ", 100.0))
    if hardware.has_capability("REMOTE"):
        from halfulp.host.pynq_network import remote_file_name

        overlay.binfile_name = remote_file_name(overlay.bitfile_name)
        for details in overlay.ip_dict.values():
            details["interrupts"].clear()  # PYNQ cannot serve them from afar and would warn of each


def _active_device() -> Any:
    from pynq.pl_server.device import Device as PynqHardware

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that XRT is not there, which the error below tells better
            return PynqHardware.active_device
    except RuntimeError as error:
        raise DeviceError(
            "no PYNQ board here: run this on the board, name one as pynq:OVERLAY.bit@HOST, or use pynq-sim:8x8 "
            f"({error})"
        ) from error
