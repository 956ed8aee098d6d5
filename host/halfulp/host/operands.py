"""Tensors as codes: scaling, quantising, and keeping the codes for as long as the tensor does not change."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.weak import WeakTensorKeyDictionary

from halfulp.host.recipe import TensorRole
from halfulp.host.scaling import scale_exponent
from halfulp.numerics.block_formats import BlockFormat
from halfulp.numerics.formats import Format
from halfulp.sim.block_quantise import quantise_blocks
from halfulp.sim.quantise import quantise
from halfulp.sim.torch_rounding import quantise_tensor

__all__ = ["CODE_DTYPES", "Operand", "OperandCache", "on_cpu", "quantise_operand"]

CODE_DTYPES = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}
"""Torch dtype of codes, by the format's container bytes."""


def on_cpu(x: torch.Tensor) -> bool:
    """Whether NumPy and the compiled kernels can take a tensor as it is; others go by torch operations."""
    return x.device.type == "cpu"


class Operand(NamedTuple):
    """A quantised tensor: value = codes · 2**-exponent, or codes · scale of the block · tensor scale.

    codes: of the tensor's shape, dtype of `CODE_DTYPES`; exponent: s, the power of two that the tensor was multiplied
    by; invalid: a NaN had no code; scales: of a block-scaled format, uint8, one a block of the tensor as a matrix,
    else None; tensor_scale: of a block-scaled format, else 1.
    """

    codes: torch.Tensor
    exponent: int
    invalid: bool
    scales: torch.Tensor | None = None
    tensor_scale: float = 1.0

    @property
    def factor_bits(self) -> int:
        """What scales the whole tensor as an integer: the exponent, or the float32 tensor scale's bits."""
        if self.scales is None:
            return self.exponent
        return int(np.float32(self.tensor_scale).view(np.int32))

    @classmethod
    def restored(
        cls, codes: torch.Tensor, scales: torch.Tensor, factor_bits: int, fmt: Format | BlockFormat
    ) -> Operand:
        """The operand of these codes, scales (empty of plain formats) and `factor_bits`."""
        if isinstance(fmt, BlockFormat):
            return cls(codes, 0, False, scales, float(np.int32(factor_bits).view(np.float32)))
        return cls(codes, factor_bits, False)


def _magnitude(x: torch.Tensor) -> tuple[float, bool]:
    """The largest finite |x|, exactly (0 where nothing is finite), and whether some x is NaN."""
    if x.numel() == 0:
        return 0.0, False
    low, high = (extreme.item() for extreme in torch.aminmax(x))  # NaN where any x is
    if math.isfinite(low) and math.isfinite(high):
        return max(-low, high), False
    finite = torch.where(torch.isfinite(x), x, torch.zeros_like(x))
    return finite.abs().amax().item(), math.isnan(low)


def quantise_operand(
    x: torch.Tensor, fmt: Format | BlockFormat, role: TensorRole, *, seed: int = 0, axis: int = 1
) -> Operand:
    """Scale and quantise a float32 tensor as its role says, rounding once, saturating.

    A stochastic quantiser rounds element (i, j) of the tensor seen as a matrix (its last dimension the columns) with
    the random bits that contract section 4 gives output (i, j) under `seed`. The scale comes from the finite elements;
    infinities and NaN become what the format has for them. Block-scaled formats have their blocks along `axis`, 0 or 1,
    of that matrix, and scales of their own. Codes and scales lie on the tensor's torch device.
    """
    if x.dtype != torch.float32:
        raise TypeError(f"a tensor to be quantised must be float32, not {x.dtype}")
    if isinstance(fmt, BlockFormat):
        matrix = x.detach().reshape(math.prod(x.shape[:-1]), x.shape[-1]).cpu().numpy()
        blocks = quantise_blocks(matrix, fmt, role.rounding, axis=axis, seed=seed)
        codes, scales = torch.from_numpy(blocks.codes), torch.from_numpy(blocks.scales)
        return Operand(codes.reshape(x.shape).to(x.device), 0, False, scales.to(x.device), blocks.tensor_scale)
    amax, has_nan = _magnitude(x)
    s = scale_exponent(amax, fmt, margin=role.margin) if role.scaling == "dynamic" else 0
    if on_cpu(x):
        codes = torch.from_numpy(quantise(x.detach().numpy(), fmt, role.rounding, seed=seed, scale=s))
    else:
        codes = quantise_tensor(x, fmt, role.rounding, seed=seed, scale=s).codes
    return Operand(codes, s, has_nan and not fmt.has_nan)


class _Entry(NamedTuple):
    version: int
    key: tuple[object, ...]
    operand: Operand


class OperandCache:
    """Operands kept for as long as their tensor lives and its version does not change.

    A version is torch's own counter of in-place changes, which optimisers and `load_state_dict` raise. It does not see
    writes through ``tensor.data`` or ``tensor.numpy()``: call `clear` after those.

    Attributes
    ----------
    quantisations
        How many tensors were quantised, not counting those that were found here.
    """

    def __init__(self) -> None:
        self._entries: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.quantisations = 0

    def clear(self) -> None:
        """Forget all operands."""
        self._entries = WeakTensorKeyDictionary()

    def get(
        self, x: torch.Tensor, fmt: Format | BlockFormat, role: TensorRole, *, seed: int = 0, axis: int = 1
    ) -> Operand:
        """The operand of `x` [..., columns], quantised now or before. Its codes must not be written to."""
        along = axis if isinstance(fmt, BlockFormat) else None
        key = (fmt, role, seed if role.rounding.is_stochastic else 0, along)
        # An inference tensor counts no versions: nothing would tell that it changed.
        version = None if x.is_inference() else x._version
        kept: list[_Entry] = (self._entries.get(x) or []) if version is not None else []
        for entry in kept:
            if entry.key == key and entry.version == version:
                return entry.operand
        operand = quantise_operand(x, fmt, role, seed=seed, axis=axis)
        self.quantisations += 1
        if version is not None:
            current = [entry for entry in kept if entry.version == version]
            self._entries[x] = [*current, _Entry(version, key, operand)]
        return operand
