"""`PynqDevice`: GEMMs on a board that runs PYNQ, on one over the network, or on the virtual board."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfulp.host.core_family import CoreFamily, Requirement
from halfulp.host.device import Device
from halfulp.host.driver import Driver
from halfulp.host.errors import ConnectionLostError, DeviceError, IdentificationError
from halfulp.hw.config import ArrayConfig, UnsupportedSpecError
from halfulp.hw.handoff import CORE_VLNV, config_of_parameters, default_processing_system, read_handoff
from halfulp.numerics.formats import CodeArray
from halfulp.numerics.gemm import GemmResult, GemmSpec

if TYPE_CHECKING:
    import pynq

__all__ = ["PynqDevice", "PynqSimDevice", "load_overlay", "open_pynq", "open_pynq_sim"]

VIRTUAL_MEMORY_BYTES = 512 << 20
"""As much as a PYNQ-Z2 has; pages are committed as they are used."""


class PynqDevice(Device):
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
        super().__init__(name, verify=verify)
        self._on_close = on_close
        self.overlay = overlay
        instance = _core_instance(name, overlay)
        core: Any = overlay
        for part in instance.split("/"):
            core = getattr(core, part)
        self.is_simulated = is_simulated
        self.driver = Driver(core, name=name, timeout_s=timeout_s)
        self._config = self.driver.config
        self.config = self._config
        _compare(name, self._config, config_of_parameters(overlay.ip_dict[instance]["parameters"]))

    def check(self, spec: GemmSpec, k: int | None = None) -> None:
        """See `Device.check`."""
        try:
            self._config.check_spec(spec, k)
        except UnsupportedSpecError as error:
            raise UnsupportedSpecError(f"device {self.name}: {error}; device emulator runs it") from error

    def _run(self, a: CodeArray, b: CodeArray, spec: GemmSpec, seed: int) -> GemmResult:
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


class PynqSimDevice(Device):
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

    def check(self, spec: GemmSpec, k: int | None = None) -> None:
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

    def _config_for(self, spec: GemmSpec, k: int | None) -> ArrayConfig:
        try:
            return self._cores.config_for(spec, k)
        except UnsupportedSpecError as error:
            raise UnsupportedSpecError(f"device {self.name}: {error}; device emulator runs it") from error

    def _board(self, config: ArrayConfig) -> PynqDevice:
        if config not in self._open:
            self._open[config] = _open_board(self.name, config, progress=self._progress, **self._options)
        return self._open[config]

    def _run(self, a: CodeArray, b: CodeArray, spec: GemmSpec, seed: int) -> GemmResult:
        config = self._config_for(spec, a.shape[1])
        board = self._board(config)
        self.config = config
        result = board._run(a, b, spec, seed)
        self.counters = board.counters
        return result

    def _close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def open_pynq(
    argument: str, *, requirements: Iterable[Requirement] = (), progress: Any = None, **options: Any
) -> Device:
    """Open ``pynq:OVERLAY.bit``, on this board, or ``pynq:OVERLAY.bit@HOST[:PORT]``, on one over the network."""
    name = f"pynq:{argument}"
    path, _, host = argument.strip().partition("@")
    if not path:
        raise ValueError("device 'pynq' needs the overlay's file: pynq:OVERLAY.bit, pynq:OVERLAY.bit@HOST")
    _need_pynq(name)
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
    return _checked(device, requirements)


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
    return _checked(device, requirements)


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
        _core_instance(str(bit), overlay)
        _complete(overlay, hardware)
        overlay.download()
    except DeviceError:
        raise
    except Exception as error:
        raise DeviceError(f"PYNQ cannot load {bit}: {type(error).__name__}: {error}".splitlines()[0]) from error
    return overlay


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


def _core_instance(name: str, overlay: Any) -> str:
    """Where in the overlay the core is."""
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


def _compare(name: str, found: ArrayConfig, told: ArrayConfig | None) -> None:
    if told is None or found == told:
        return
    theirs, ours = found.to_dict(), told.to_dict()
    key = next(key for key in ours if ours[key] != theirs[key])
    raise IdentificationError(
        f"{name}: the core has {key} = {theirs[key]!r}, its hand-off file says {ours[key]!r}: two builds"
    )


def _active_device() -> Any:
    from pynq.pl_server.device import Device as PynqHardware

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that XRT is not there, which the error below tells better
            return PynqHardware.active_device
    except RuntimeError as error:
        raise DeviceError(
            "no PYNQ board here: run this on the board, name one as pynq:OVERLAY.bit@HOST, or use pynq-sim:8x8"
        ) from error


def _need_pynq(name: str) -> None:
    try:
        import pynq  # noqa: F401
    except ImportError as error:
        raise DeviceError(f"device {name!r} needs PYNQ: pip install 'halfulp[pynq]' ({error})") from error


def _checked(device: PynqDevice, requirements: Iterable[Requirement]) -> PynqDevice:
    try:
        for each in requirements:
            spec, k = each if isinstance(each, tuple) else (each, None)
            device.check(spec, k)
    except BaseException:
        device.close()
        raise
    return device


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
    _need_pynq(name)
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
