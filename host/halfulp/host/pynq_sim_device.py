"""`PynqSimDevice`: GEMMs on the virtual board, the generated Verilog under the real `pynq` package."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfulp.host.core_device import CoreDevice, depth_of
from halfulp.host.core_family import CoreFamily, Requirement
from halfulp.host.device import Device
from halfulp.host.driver import Driver
from halfulp.host.pynq_device import PynqDevice, check_requirements
from halfulp.host.pynq_overlay import load_overlay, need_pynq
from halfulp.hw.config import ArrayConfig, UnsupportedSpecError
from halfulp.hw.handoff import default_processing_system, read_handoff
from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec
from halfulp.numerics.formats import CodeArray
from halfulp.numerics.gemm import GemmResult

if TYPE_CHECKING:
    import pynq

__all__ = ["PynqSimDevice", "open_pynq_sim"]

VIRTUAL_MEMORY_BYTES = 512 << 20
"""As much as a PYNQ-Z2 has; pages are committed as they are used."""


class PynqSimDevice(CoreDevice):
    """Virtual boards of one array shape: one for each core that the GEMMs need, made when it is first needed.

    Parameters
    ----------
    name
        For messages.
    cores
        To choose from.
    verify
        See `Device`.
    progress
        Called with a line of text before a core is opened, for compiling it may take a minute.
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
        super().__init__(name, verify=verify)
        self._cores = cores
        self._progress = progress
        self._options = options
        self._open: dict[ArrayConfig, PynqDevice] = {}

    is_simulated = True

    @property
    def driver(self) -> Driver | None:
        """Of the core that ran or was prepared last; None before."""
        return self._open[self.config].driver if self.config is not None else None

    @property
    def overlay(self) -> pynq.Overlay | None:
        """Of the core that ran or was prepared last; None before."""
        return self._open[self.config].overlay if self.config is not None else None

    def check(self, spec: AnyGemmSpec, k: int | None = None) -> None:
        """See `Device.check`. Builds nothing."""
        self._config_for(spec, k)

    def prepare(self, *requirements: Requirement) -> None:
        """See `Device.prepare`."""
        for each in requirements:
            spec, k = each if isinstance(each, tuple) else (each, None)
            config = self._config_for(spec, k)
            with self._lock:
                self._board(config)
                self.config = config

    def _config_for(self, spec: AnyGemmSpec, k: int | None) -> ArrayConfig:
        try:
            return self._cores.config_for(spec, k)
        except UnsupportedSpecError as error:
            raise UnsupportedSpecError(f"device {self.name}: {error}; device emulator runs it") from error

    def _board(self, config: ArrayConfig) -> PynqDevice:
        if config not in self._open:
            self._open[config] = _open_board(self.name, config, progress=self._progress, **self._options)
        return self._open[config]

    def run_on_core(self, a: CodeArray | Blocks, b: CodeArray | Blocks, spec: AnyGemmSpec, seed: int) -> GemmResult:
        """See `CoreDevice.run_on_core`."""
        config = self._config_for(spec, depth_of(a))
        board = self._board(config)
        self.config = config
        result = board.run_on_core(a, b, spec, seed)
        self.counters = board.counters
        return result

    def _close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def open_pynq_sim(argument: str, *, requirements: Iterable[Requirement] = (), **options: Any) -> Device:
    """Open ``pynq-sim:`` with a shape such as ``8x8``, a configuration file, or an overlay's folder or file."""
    name = f"pynq-sim:{argument}"
    if match := re.fullmatch(r"(\d+)x(\d+)", argument.strip().lower()):
        return PynqSimDevice(name, CoreFamily(int(match[1]), int(match[2]), requirements), **options)
    if not argument.strip():
        raise ValueError("device 'pynq-sim' needs a shape, a configuration or an overlay: pynq-sim:8x8")
    path = Path(argument).expanduser()
    if not path.exists():
        raise ValueError(f"device {name!r}: {argument!r} is neither an array shape such as 8x8 nor an existing file")
    if path.is_dir() or path.suffix in (".bit", ".hwh"):
        bit = _bitstream_in(path)
        config, processing_system = _read_overlay(bit)
        # `halfulp generate` writes a hand-off file, and no bitstream.
        files = bit if bit.is_file() else None
        device = _open_board(name, config, bit=files, processing_system=processing_system, **options)
    else:
        from halfulp.hw.config_file import load_config

        device = _open_board(name, load_config(path), **options)
    return check_requirements(device, requirements)


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
