"""`RtlDevice`: GEMMs on the generated Verilog, simulated cycle by cycle in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from halfulp.host.core_device import check_requirements
from halfulp.host.core_family import CoreFamily, Requirement
from halfulp.host.driver import Counters, Driver
from halfulp.host.simulated_device import SimulatedDevice, simulated_cores
from halfulp.hw.config import ArrayConfig
from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec
from halfulp.numerics.formats import CodeArray
from halfulp.numerics.gemm import GemmResult
from halfulp.sim.rtl import RtlCore

__all__ = ["RtlDevice", "open_rtl"]


class DrivenCore:
    """An `RtlCore` with its driver."""

    def __init__(self, core: RtlCore, *, name: str, timeout_s: float) -> None:
        self._core = core
        self.driver = Driver(core, name=name, timeout_s=timeout_s)

    @property
    def counters(self) -> Counters | None:
        """Of its last GEMM; None where the core counts nothing."""
        return self.driver.counters

    def run_on_core(self, a: CodeArray | Blocks, b: CodeArray | Blocks, spec: AnyGemmSpec, seed: int) -> GemmResult:
        """See `CoreDevice.run_on_core`."""
        return self.driver.gemm(a, b, spec, seed=seed)

    def close(self) -> None:
        """Give the simulation back."""
        self._core.close()


class RtlDevice(SimulatedDevice[DrivenCore]):
    """Simulated cores: one fixed one, or as many as the GEMMs need of one array shape.

    A core is generated and compiled when a GEMM first needs it, which takes about a minute, and cached on the disk.

    Parameters
    ----------
    name, cores, verify, progress
        See `SimulatedDevice`.
    timeout_s
        See `Driver`.
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
        super().__init__(name, cores, verify=verify, progress=progress)
        self._timeout_s = timeout_s
        self._core_options = core_options

    def _open_core(self, config: ArrayConfig) -> DrivenCore:
        core = RtlCore(config, **self._core_options)
        try:
            return DrivenCore(core, name=self.name, timeout_s=self._timeout_s)
        except BaseException:
            core.close()
            raise


def open_rtl(argument: str, *, requirements: Iterable[Requirement] = (), **options: Any) -> RtlDevice:
    """Open ``rtl:`` with a shape such as ``8x8``, or with the path of a configuration file."""
    device = RtlDevice(f"rtl:{argument}", simulated_cores("rtl", argument, requirements), **options)
    return check_requirements(device, requirements)
