"""`PynqSimDevice`: GEMMs on the virtual board, the generated Verilog under the real `pynq` package."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfulp.host.core_device import check_requirements
from halfulp.host.core_family import CoreFamily, Requirement
from halfulp.host.device import Device
from halfulp.host.pynq_device import PynqDevice
from halfulp.host.pynq_overlay import load_overlay, need_pynq
from halfulp.host.simulated_device import SimulatedDevice, array_shape, simulated_cores
from halfulp.hw.config import ArrayConfig
from halfulp.hw.handoff import default_processing_system, read_handoff

if TYPE_CHECKING:
    import pynq

__all__ = ["PynqSimDevice", "open_pynq_sim"]

VIRTUAL_MEMORY_BYTES = 512 << 20
"""As much as a PYNQ-Z2 has; pages are committed as they are used."""


class PynqSimDevice(SimulatedDevice[PynqDevice]):
    """Virtual boards of one array shape: one for each core that the GEMMs need, made when it is first needed.

    Parameters
    ----------
    name, cores, verify, progress
        See `SimulatedDevice`.
    **options
        ``timeout_s``, and what `halfulp.sim.rtl.RtlCore` takes.
    """

    def __init__(
        self,
        name: str,
        cores: CoreFamily,
        *,
        verify: float = 0.0,
        progress: Callable[[str], None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, cores, verify=verify, progress=progress)
        self._options = options

    @property
    def overlay(self) -> pynq.Overlay | None:
        """Of the core that ran or was prepared last; None before."""
        return self.opened.overlay if self.opened is not None else None

    def _open_core(self, config: ArrayConfig) -> PynqDevice:
        return _open_board(self.name, config, **self._options)


def open_pynq_sim(argument: str, *, requirements: Iterable[Requirement] = (), **options: Any) -> Device:
    """Open ``pynq-sim:`` with a shape such as ``8x8``, a configuration file, or an overlay's folder or file."""
    name = f"pynq-sim:{argument}"
    if not argument.strip():
        raise ValueError("device 'pynq-sim' needs a shape, a configuration or an overlay: pynq-sim:8x8")
    path = Path(argument).expanduser()
    is_overlay = path.is_dir() or (path.suffix in (".bit", ".hwh") and path.exists())
    if is_overlay and not array_shape(argument):
        bit = _bitstream_in(path)
        config, processing_system = _read_overlay(bit)
        # `halfulp generate` writes a hand-off file, and no bitstream.
        files = bit if bit.is_file() else None
        device = _open_board(name, config, bit=files, processing_system=processing_system, **options)
        return check_requirements(device, requirements)
    cores = simulated_cores("pynq-sim", argument, requirements)
    if isinstance(cores, ArrayConfig):
        return check_requirements(_open_board(name, cores, **options), requirements)
    return PynqSimDevice(name, cores, **options)


def _open_board(
    name: str,
    config: ArrayConfig,
    *,
    bit: Path | None = None,
    processing_system: str | None = None,
    verify: float = 0.0,
    timeout_s: float = 60.0,
    progress: Callable[[str], None] | None = None,
    **core_options: Any,
) -> PynqDevice:
    """A virtual board of this core, with its overlay loaded; `core_options` go to `halfulp.sim.rtl.RtlCore`."""
    need_pynq(name)
    from halfulp.sim.rtl import RtlCore
    from halfulp.sim.virtual_board import VirtualBoard
    from halfulp.sim.virtual_overlay import virtual_overlay

    if progress is not None:
        progress(f"{name}: opening core {config.name}; it is compiled when it is used first")
    core_options.setdefault("memory_bytes", VIRTUAL_MEMORY_BYTES)
    core = RtlCore(config, **core_options)
    processing_system = processing_system or default_processing_system(config)
    board = VirtualBoard(core, processing_system=processing_system, name=name)
    try:
        overlay = load_overlay(bit or virtual_overlay(config, processing_system=processing_system), device=board)
        return PynqDevice(name, overlay, verify=verify, timeout_s=timeout_s, is_simulated=True, on_close=board.close)
    except BaseException:
        board.close()
        raise


def _bitstream_in(path: Path) -> Path:
    """The overlay in a folder, or beside a file."""
    if path.is_file():
        return path.with_suffix(".bit")
    found = sorted(path.glob("*.hwh"))
    if len(found) != 1:
        raise ValueError(f"{path} must hold one hand-off file (.hwh), not {len(found)}")
    return found[0].with_suffix(".bit")


def _read_overlay(bit: Path) -> tuple[ArrayConfig, str]:
    """The configuration and the processing system that an overlay's hand-off file tells of."""
    handoff = bit.with_suffix(".hwh")
    if not handoff.is_file():
        raise ValueError(f"{handoff} does not exist; an overlay is a bitstream with its hand-off file beside it")
    config, processing_system = read_handoff(handoff)
    if config is None:
        raise ValueError(f"{handoff} does not tell the core's configuration: open pynq-sim:CONFIG.toml instead")
    return config, processing_system
