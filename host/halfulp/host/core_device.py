"""`CoreDevice`: a device with a core behind it, on the board or simulated; tensor scales are the host's part."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TypeVar

from halfulp.host.core_family import CoreFamily, Requirement
from halfulp.host.device import Device
from halfulp.host.tensor_scales import core_spec, round_core_sums
from halfulp.hw.config import ArrayConfig, UnsupportedSpecError
from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec, BlockGemmSpec
from halfulp.numerics.formats import CodeArray
from halfulp.numerics.gemm import GemmResult, GemmSpec

__all__ = ["CoreDevice", "check_requirements", "depth_of", "refusal"]

AnyDevice = TypeVar("AnyDevice", bound=Device)


class CoreDevice(Device):
    """Runs GEMMs on a core: of plain operands, and of block-scaled ones with the host's rounding after tensor scales.

    Where both tensor scales together are no power of two, the core gives its accumulators as float32, and the host
    multiplies and rounds them.

    Parameters
    ----------
    name, verify
        See `Device`.
    cores
        The one core that there is, or the `CoreFamily` to choose from.
    """

    def __init__(self, name: str, cores: ArrayConfig | CoreFamily, *, verify: float = 0.0) -> None:
        super().__init__(name, verify=verify)
        self._cores = cores
        self.config = cores if isinstance(cores, ArrayConfig) else None

    def check(self, spec: AnyGemmSpec, k: int | None = None) -> None:
        """See `Device.check`. Builds nothing."""
        self.config_for(spec, k)

    def config_for(self, spec: AnyGemmSpec, k: int | None = None) -> ArrayConfig:
        """The core that runs `spec` with that K; raise `UnsupportedSpecError` where none does."""
        try:
            if isinstance(self._cores, CoreFamily):
                return self._cores.config_for(spec, k)
            self._cores.check_spec(spec, k)
        except UnsupportedSpecError as error:
            raise refusal(self.name, error) from error
        return self._cores

    @abstractmethod
    def run_on_core(self, a: CodeArray | Blocks, b: CodeArray | Blocks, spec: AnyGemmSpec, seed: int) -> GemmResult:
        """Run a GEMM whose operands and spec have been checked; tensor scales of blocks are 1."""

    def _run(self, a: CodeArray, b: CodeArray, spec: GemmSpec, seed: int) -> GemmResult:
        return self.run_on_core(a, b, spec, seed)

    def _run_blocks(self, a: Blocks, b: Blocks, spec: BlockGemmSpec, seed: int) -> GemmResult:
        scales = a.tensor_scale, b.tensor_scale
        asked, is_rounded_here = core_spec(spec, scales)
        result = self.run_on_core(a._replace(tensor_scale=1.0), b._replace(tensor_scale=1.0), asked, seed)
        if not is_rounded_here:
            return result
        return round_core_sums(result.codes, spec, scales, seed=seed, overflow=result.overflow)


def depth_of(a: CodeArray | Blocks) -> int:
    """K of an operand A, [M, K]."""
    return (a.codes if isinstance(a, Blocks) else a).shape[1]


def refusal(name: str, error: UnsupportedSpecError) -> UnsupportedSpecError:
    """What the device of that name raises where its core cannot run a GEMM: it says what can."""
    return UnsupportedSpecError(f"device {name}: {error}; device emulator runs it")


def check_requirements(device: AnyDevice, requirements: Iterable[Requirement]) -> AnyDevice:
    """The device, if it runs all that will be asked for; else it is closed, and the refusal raised."""
    try:
        for each in requirements:
            spec, k = each if isinstance(each, tuple) else (each, None)
            device.check(spec, k)
    except BaseException:
        device.close()
        raise
    return device
