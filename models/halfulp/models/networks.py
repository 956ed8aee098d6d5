"""Networks, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from halfulp.numerics.names import Registry

__all__ = ["NETWORKS", "build_network", "mlp"]


def mlp(features: int, classes: int, *, hidden: Sequence[int] = (128,)) -> nn.Sequential:
    """A multilayer perceptron with ReLU between its layers: features, the hidden sizes, classes.

    784-1000-1000-10 is the network of Gupta et al. 2015, section 4.1. Layers are called ``fc1``, ``fc2`` and so on.
    """
    sizes = [features, *hidden, classes]
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"layer sizes must be integers, not {size!r}")
        if size < 1:
            raise ValueError(f"layer sizes must be at least 1, not {size}")
    network = nn.Sequential()
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        network.add_module(f"fc{number}", nn.Linear(inputs, outputs))
        if number < len(sizes) - 1:
            network.add_module(f"relu{number}", nn.ReLU())
    return network


NETWORKS: Registry[Callable[..., nn.Module]] = Registry("network")
"""All named networks: called with features and classes of the data, and options of their own."""

NETWORKS.register("mlp", mlp)


def build_network(name: str, features: int, classes: int, *, hidden: Sequence[int], seed: int) -> nn.Module:
    """A network with initial weights that depend on nothing but its shape and `seed` (64 bits).

    Torch's own generator is left as it was.
    """
    make = NETWORKS.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(features, classes, hidden=tuple(hidden))
