"""`RtlDevice`: GEMMs on the generated Verilog, simulated cycle by cycle in this process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from halfulp.host.core_device import CoreDevice, depth_of
from halfulp.host.core_family import CoreFamily, Requirement
from halfulp.host.driver import Driver
from halfulp.hw.config import ArrayConfig, UnsupportedSpecError
from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec
from halfulp.numerics.formats import CodeArray
from halfulp.numerics.gemm import GemmResult
from halfulp.sim.rtl import RtlCore

__all__ = ["RtlDevice", "open_rtl"]


class RtlDevice(CoreDevice):
    """Simulated cores: one fixed one, or as many as the GEMMs need of one array shape.

    A core is generated and compiled when a GEMM first needs it, which takes about a minute, and cached on the disk.

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
        Called with a line of text before a core is opened, for this may take a minute.
    **core_options
        To `RtlCore`: latency, bandwidth and stalls of its memory, a file for waves.
    """

    def __init__(
        self,
        name: str,
        cores: ArrayConfig | CoreFamily,
        *,
        verify: float = 0.0,
        timeout_s: float = 60.0,
        progress: Callable[[str], None] | None = None,
        **core_options: Any,
    ) -> None:
        super().__init__(name, verify=verify)
        self._cores = cores
        self._timeout_s = timeout_s
        self._progress = progress
        self._core_options = core_options
        self._open: dict[ArrayConfig, tuple[RtlCore, Driver]] = {}
        self.config = cores if isinstance(cores, ArrayConfig) else None

    def check(self, spec: AnyGemmSpec, k: int | None = None) -> None:
        """See `Device.check`. Builds nothing."""
        self._config_for(spec, k)

    def prepare(self, *requirements: Requirement) -> None:
        """Build and open the cores that these GEMMs need, now rather than at the first of them."""
        for each in requirements:
            spec, k = each if isinstance(each, tuple) else (each, None)
            config = self._config_for(spec, k)
            with self._lock:
                self._driver(config)

    def _config_for(self, spec: AnyGemmSpec, k: int | None) -> ArrayConfig:
        try:
            if isinstance(self._cores, CoreFamily):
                return self._cores.config_for(spec, k)
            self._cores.check_spec(spec, k)
        except UnsupportedSpecError as error:
            raise _refusal(self.name, error) from error
        return self._cores

    def _driver(self, config: ArrayConfig) -> Driver:
        if config not in self._open:
            if self._progress is not None:
                self._progress(f"{self.name}: opening core {config.name}; it is compiled when it is used first")
            core = RtlCore(config, **self._core_options)
            try:
                driver = Driver(core, name=self.name, timeout_s=self._timeout_s)
            except BaseException:
                core.close()
                raise
            self._open[config] = core, driver
        return self._open[config][1]

    def run_on_core(self, a: CodeArray | Blocks, b: CodeArray | Blocks, spec: AnyGemmSpec, seed: int) -> GemmResult:
        """See `CoreDevice.run_on_core`."""
        config = self._config_for(spec, depth_of(a))
        driver = self._driver(config)
        self.config = config
        result = driver.gemm(a, b, spec, seed=seed)
        self.counters = driver.counters
        return result

    def _close(self) -> None:
        for core, _ in self._open.values():
            core.close()
        self._open.clear()


def open_rtl(argument: str, *, requirements: Iterable[Requirement] = (), **options: Any) -> RtlDevice:
    """Open ``rtl:`` with a shape such as ``8x8``, or with the path of a configuration file."""
    name = f"rtl:{argument}"
    if match := re.fullmatch(r"(\d+)x(\d+)", argument.strip().lower()):
        try:
            family = CoreFamily(int(match[1]), int(match[2]), requirements)
        except UnsupportedSpecError as error:
            raise _refusal(name, error) from error
        return RtlDevice(name, family, **options)
    if not argument.strip():
        raise ValueError("device 'rtl' needs an array shape or a configuration file: rtl:8x8, rtl:CONFIG.toml")
    path = Path(argument).expanduser()
    if not path.is_file():
        raise ValueError(f"device {name!r}: {argument!r} is neither an array shape such as 8x8 nor an existing file")
    from halfulp.hw.config_file import load_config

    device = RtlDevice(name, load_config(path), **options)
    for each in requirements:
        spec, k = each if isinstance(each, tuple) else (each, None)
        device.check(spec, k)
    return device


def _refusal(name: str, error: UnsupportedSpecError) -> UnsupportedSpecError:
    return UnsupportedSpecError(f"device {name}: {error}; device emulator runs it")
