"""The emulator by torch operations, on any device that torch has: ``emulator:cuda``, ``emulator:cpu``."""

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np
import torch

from halfulp.host.device import AnyGemmSpec, Codes, EmulatorDevice
from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.formats import CodeArray
from halfulp.numerics.gemm import GemmResult, GemmSpec
from halfulp.sim.torch_gemm import tensor_gemm

__all__ = ["TorchEmulatorDevice"]


class TorchEmulatorDevice(EmulatorDevice):
    """The functional model by torch operations: the codes of every other device, from tensors that stay where they are.

    Block-scaled operands go by the plain emulator.

    Parameters
    ----------
    where
        A torch device: ``cuda``, ``cuda:1``, ``cpu``.
    verify
        See `Device`.
    """

    def __init__(self, where: str, *, verify: float = 0.0) -> None:
        super().__init__(verify=verify)
        self.name = f"emulator:{where}"
        try:
            self.torch_device = torch.device(where)
            torch.empty(0, device=self.torch_device)
            self.tensor_device = self.torch_device.type
        except (RuntimeError, AssertionError) as error:  # the latter of a torch built without CUDA
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"emulator:{where}: torch has no such device here: {reason}") from None

    def _run(self, a: CodeArray, b: CodeArray, spec: GemmSpec, seed: int) -> GemmResult:
        left, right = (torch.from_numpy(np.ascontiguousarray(x)).to(self.torch_device) for x in (a, b))
        found = tensor_gemm(left, right, spec, seed=seed)
        return GemmResult(found.codes.cpu().numpy(), found.invalid, found.overflow)

    def gemm(self, a: Codes | Blocks, b: Codes | Blocks, spec: AnyGemmSpec, *, seed: int = 0) -> Any:
        """See `Device.gemm`. Codes as tensors, at least one of them on this device, come back as a tensor on it.

        What is not on it yet is copied to it; the result of operands that are all on the CPU goes back there.
        """
        here = [isinstance(x, torch.Tensor) and x.device.type == self.torch_device.type for x in (a, b)]
        if not any(here) or not isinstance(spec, GemmSpec):
            return super().gemm(a, b, spec, seed=seed)
        if self._verifier is not None:
            on_cpu: Any = [x.cpu() if isinstance(x, torch.Tensor) else x for x in (a, b)]
            result = super().gemm(on_cpu[0], on_cpu[1], spec, seed=seed)
            return result._replace(codes=cast(Any, result.codes).to(self.torch_device))
        left, right = (torch.as_tensor(cast(Any, x)).detach().to(self.torch_device) for x in (a, b))
        self.check(spec, left.shape[1] if left.ndim == 2 else None)
        with self._lock:
            if self._is_closed:
                raise ValueError(f"device {self.name} has been closed")
            start = time.perf_counter()
            found = tensor_gemm(left, right, spec, seed=seed)
            self._count(left.shape[0] * left.shape[1] * right.shape[1], time.perf_counter() - start)
        return GemmResult(cast(Any, found.codes), found.invalid, found.overflow)
