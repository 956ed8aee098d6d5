"""`GemmRunner`: runs the GEMMs of a converted network on one device, each with its own seed, and counts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from halfulp.host.device import Device, decode_values
from halfulp.host.operands import Operand, OperandCache, on_cpu
from halfulp.host.recipe import OPERANDS, GemmRole, Recipe
from halfulp.host.seeds import gemm_seed
from halfulp.numerics.block_formats import BlockFormat, Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec, BlockGemmSpec
from halfulp.numerics.formats import CodeArray, Format
from halfulp.numerics.gemm import GemmResult, GemmSpec
from halfulp.numerics.random_bits import check_seed
from halfulp.sim.torch_rounding import codes_as_integers, tensor_values

__all__ = ["GemmCall", "GemmCounts", "GemmRunner", "GemmSite"]


class GemmCall(NamedTuple):
    """One GEMM that was run: which, and what came out."""

    layer: str
    role: str
    step: int
    call: int
    spec: AnyGemmSpec
    seed: int
    result: GemmResult


@dataclass
class GemmCounts:
    """Work done: GEMM calls, multiply-accumulates, and the core's clock cycles (None where the device has no clock)."""

    gemms: int = 0
    macs: int = 0
    cycles: int | None = None

    def add(self, macs: int, cycles: int | None) -> None:
        """Count one GEMM."""
        self.gemms += 1
        self.macs += macs
        if cycles is not None:
            self.cycles = (self.cycles or 0) + cycles

    def __add__(self, other: GemmCounts) -> GemmCounts:
        counted = [each.cycles for each in (self, other) if each.cycles is not None]
        return GemmCounts(self.gemms + other.gemms, self.macs + other.macs, sum(counted) if counted else None)


class GemmRunner:
    """Runs the GEMMs of one network on one device.

    Parameters
    ----------
    device
        An opened `Device`.
    seed
        The run's seed, 64 bits: with the layer's name, the role, the step and the call it gives each GEMM's own.
    observer
        Called after each GEMM with its `GemmCall`: records, compares, traces.

    Attributes
    ----------
    position
        int64 tensor [2]: the training step, and how many layers have run in it. The ops read it, layers advance it; as
        a tensor it keeps its meaning in a compiled graph.
    counts
        `GemmCounts`.
    operands
        The `OperandCache`.
    """

    def __init__(self, device: Device, *, seed: int = 0, observer: Callable[[GemmCall], None] | None = None) -> None:
        self.device = device
        self.seed = check_seed(seed)
        self.observer = observer
        self.position = torch.zeros(2, dtype=torch.int64)
        self.counts = GemmCounts()
        self.operands = OperandCache()

    @property
    def step(self) -> int:
        """The training step, for the seeds. Setting it also starts the count of calls anew."""
        return int(self.position[0])

    @step.setter
    def step(self, step: int) -> None:
        self.position[0] = step
        self.position[1] = 0

    def operand(self, x: torch.Tensor, site: GemmSite, gemm: str, role: str, *, step: int, call: int) -> Operand:
        """`x` as the operand that it is, by its tensor `role`, in the GEMM called `gemm` of the layer `site`."""
        tensor_role = site.recipe.tensor(role)
        fmt = _operand_format(site.recipe.gemm(gemm), gemm, role)
        seed = 0
        if tensor_role.rounding.is_stochastic:
            # A weight is quantised once a step, whichever call comes first: evaluation or a restart in between must
            # not change its codes.
            counted = 0 if role == "weight" else call
            seed = gemm_seed(self.seed, layer=site.name, role=role, step=step, call=counted)
        operand = self.operands.get(x, fmt, tensor_role, seed=seed, axis=_K_AXES[gemm, role])
        if operand.invalid:
            raise ValueError(f"layer {site.name!r}, step {step}: the {role} has NaN, which {fmt} has no code for")
        return operand

    def gemm(self, a: Operand, b: Operand, site: GemmSite, role: str, *, step: int, call: int) -> torch.Tensor:
        """Run one GEMM on operands A [M, K] and B [K, N]; float32 [M, N], on A's torch device.

        The device undoes the scales.
        """
        m, k = a.codes.shape
        n = b.codes.shape[1]
        if 0 in (m, n, k):
            return torch.zeros(m, n, device=a.codes.device)
        gemm = site.recipe.gemm(role)
        seed = gemm_seed(self.seed, layer=site.name, role=role, step=step, call=call)
        if isinstance(gemm.spec, BlockGemmSpec):
            spec = gemm.spec
            result = self.device.gemm(_blocks(a), _blocks(b), spec, seed=seed)
        else:
            spec = _scaled(gemm.spec, -(a.exponent + b.exponent))
            result = self.device.gemm(a.codes, b.codes, spec, seed=seed)
        counters = self.device.counters
        self.counts.add(m * n * k, counters.cycles if counters is not None else None)
        if self.observer is not None:
            self.observer(GemmCall(site.name, role, step, call, spec, seed, result))
        return _values(result.codes, gemm.out).to(a.codes.device)


class GemmSite:
    """One converted layer, as the ops know it: its name, its recipe, its runner, and the number that stands for it.

    Ops of `torch.library` take tensors and numbers only, so a layer is passed to them by `index`. A site stays
    registered while some layer holds it; copies of a layer share it, device included.
    """

    def __init__(self, name: str, recipe: Recipe, runner: GemmRunner) -> None:
        self.name = name
        self.recipe = recipe
        self.runner = runner
        self.index = -1

    def __deepcopy__(self, memo: dict[int, object]) -> GemmSite:
        return self


_K_AXES = {
    ("output", "activation"): 1,
    ("output", "weight"): 1,
    ("grad_input", "gradient"): 1,
    ("grad_input", "weight"): 0,
    ("grad_weight", "gradient"): 0,
    ("grad_weight", "activation"): 0,
}
"""The axis of each tensor, as a matrix [samples, features] or [out_features, in_features], that is a GEMM's K."""


def _operand_format(gemm: GemmRole, role: str, tensor_role: str) -> Format | BlockFormat:
    return gemm.a if OPERANDS[role][0] == tensor_role else gemm.b


def _blocks(x: Operand) -> Blocks:
    assert x.scales is not None  # of an operand in a block-scaled format
    return Blocks(x.codes.cpu().numpy(), x.scales.cpu().numpy(), x.tensor_scale)


def _values(codes: CodeArray | torch.Tensor, fmt: Format) -> torch.Tensor:
    """The values of codes as `decode_values` has them, where the codes are."""
    if not isinstance(codes, torch.Tensor) or on_cpu(codes):
        return torch.from_numpy(decode_values(np.asarray(codes), fmt))
    if fmt.name == "float32":
        return codes.contiguous().view(torch.float32)
    return tensor_values(codes_as_integers(codes), fmt).to(torch.float32)


@lru_cache(maxsize=4096)
def _scaled(spec: GemmSpec, scale: int) -> GemmSpec:
    """`spec` with its scale; kept, because making one costs as much as a small GEMM."""
    return GemmSpec(
        a=spec.a,
        b=spec.b,
        out=spec.out,
        accumulator=spec.accumulator,
        rounding=spec.rounding,
        scale=scale,
        overflow=spec.overflow,
    )
