"""`CoreDevice`: a device with a core behind it, on the board or simulated; tensor scales are the host's part."""

from __future__ import annotations

from abc import abstractmethod

from halfulp.host.device import Device
from halfulp.host.tensor_scales import core_spec, round_core_sums
from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec, BlockGemmSpec
from halfulp.numerics.formats import CodeArray
from halfulp.numerics.gemm import GemmResult, GemmSpec

__all__ = ["CoreDevice", "depth_of"]


class CoreDevice(Device):
    """Runs GEMMs on a core: of plain operands, and of block-scaled ones with the host's rounding after tensor scales.

    Where both tensor scales together are no power of two, the core gives its accumulators as float32, and the host
    multiplies and rounds them.
    """

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
