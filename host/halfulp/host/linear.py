"""`GemmLinear`: `torch.nn.Linear` whose three GEMMs run on a device."""

from __future__ import annotations

import torch
from torch import nn

from halfulp.host.ops import linear
from halfulp.host.runner import GemmSite

__all__ = ["GemmLinear"]


class GemmLinear(nn.Linear):
    """A linear layer whose products Y = X·Wᵀ, dX = dY·W, dW = dYᵀ·X run on a device, as its recipe says.

    Parameters, their names and the state dict are those of `nn.Linear`. Weights stay float32; the bias is added and
    its gradient summed in float32 on the host.

    Attributes
    ----------
    site
        `GemmSite`: name, recipe, runner.
    """

    site: GemmSite

    @classmethod
    def from_linear(cls, module: nn.Linear, site: GemmSite) -> GemmLinear:
        """A layer with the parameters of `module` themselves, not copies, so that an optimiser keeps them.

        They may be on the CPU, or on the torch device that the site's device takes tensors from.
        """
        if module.weight.dtype != torch.float32:
            raise TypeError(f"layer {site.name!r}: weights must be float32, not {module.weight.dtype}")
        device = site.runner.device
        if module.weight.device.type not in ("cpu", "meta", device.tensor_device):
            where = " or ".join(sorted({"the CPU", device.tensor_device} - {"cpu"}, reverse=True))
            raise ValueError(
                f"layer {site.name!r}: weights must be on {where} for {device.name}, not on {module.weight.device}"
            )
        made = cls(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
        made.weight, made.bias = module.weight, module.bias
        made.train(module.training)
        made.site = site
        return made

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Y = X·Wᵀ + bias, float32 [..., in_features] to [..., out_features]."""
        position = self.site.runner.position
        output = linear(input, self.weight, position.clone(), self.site.index)[0]
        position[1] += 1
        return output if self.bias is None else output + self.bias

    def extra_repr(self) -> str:
        """The layer's sizes and its recipe in short."""
        return f"{super().extra_repr()}, {self.site.recipe.short_str()}"
