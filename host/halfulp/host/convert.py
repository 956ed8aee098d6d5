"""`convert`: move the GEMMs of a network's linear layers to a device, in place."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from halfulp.host.device import Device, open_device
from halfulp.host.linear import GemmLinear
from halfulp.host.ops import new_site
from halfulp.host.recipe import Recipe, get_recipe, requirements
from halfulp.host.runner import GemmRunner

__all__ = ["convert", "find_runner"]


def convert(
    model: nn.Module,
    recipe: str | Recipe,
    *,
    device: Device | GemmRunner | str,
    seed: int = 0,
    module_filter: Callable[[nn.Linear, str], bool] | None = None,
) -> nn.Module:
    """Swap each `nn.Linear` of `model` for a `GemmLinear` on `device`, in place.

    Parameters and their names stay, so optimisers made before keep working, and a converted and an unconverted network
    load each other's state dict. Layers that the recipe leaves in float32 are not touched. Layers of an earlier
    conversion follow the new recipe.

    Parameters
    ----------
    model
        The network. Where it is a single `nn.Linear`, the swapped layer is returned and `model` stays as it is.
    recipe
        A `Recipe` or its name.
    device
        An opened device, or its name (``"emulator"``, ``"rtl:8x8"``; opened for what the recipe needs); or a
        `GemmRunner`, which brings its own seed.
    seed
        Of all random bits of the run, 64 bits.
    module_filter
        Called with each linear layer and its name; False leaves that layer alone. Subclasses of `nn.Linear` are left
        alone in any case: they may compute something else.

    Returns
    -------
    The converted network. `find_runner` gives its runner, on which a training loop sets the step.

    Raises
    ------
    UnsupportedSpecError
        Where the device cannot run one of the recipe's GEMMs; the network is unchanged then.

    Examples
    --------
    >>> import torch
    >>> net = convert(torch.nn.Sequential(torch.nn.Linear(4, 2)), "fp8-hybrid", device="golden", seed=7)
    >>> net(torch.ones(1, 4)).sum().backward()
    >>> net[0].weight.grad.shape
    torch.Size([2, 4])
    """
    recipe = get_recipe(recipe)
    specs = requirements(recipe)
    if isinstance(device, str):
        device = open_device(device, requirements=specs)
    runner = device if isinstance(device, GemmRunner) else GemmRunner(device, seed=seed)
    for spec in specs:
        runner.device.check(spec)

    def swapped(module: nn.Module, name: str) -> nn.Module:
        # Exactly nn.Linear: torch's own subclasses are parameter holders that others compute with.
        if type(module) is not nn.Linear and type(module) is not GemmLinear:
            return module
        layer_recipe = recipe.for_layer(name)
        if not layer_recipe.is_offloaded or (module_filter is not None and not module_filter(module, name)):
            return module
        return GemmLinear.from_linear(module, new_site(name, layer_recipe, runner))

    for name, parent in list(model.named_modules()):
        for child_name, child in list(parent.named_children()):
            replacement = swapped(child, f"{name}.{child_name}" if name else child_name)
            if replacement is not child:
                setattr(parent, child_name, replacement)
    return swapped(model, "")


def find_runner(model: nn.Module) -> GemmRunner:
    """The runner of a converted network; raise where no layer of it is converted."""
    for module in model.modules():
        if isinstance(module, GemmLinear):
            return module.site.runner
    raise ValueError(f"no layer of {type(model).__name__} is converted")
