"""Networks: their layers, and initial weights that depend on the seed alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halfulp.models.networks import build_network, mlp


def sizes(network: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]


def test_the_mlp_has_the_layers_asked_for():
    assert sizes(mlp(784, 10)) == [(784, 128), (128, 10)]
    assert sizes(mlp(784, 10, hidden=(1000, 1000))) == [(784, 1000), (1000, 1000), (1000, 10)]
    assert sizes(mlp(64, 10, hidden=())) == [(64, 10)]
    assert list(mlp(4, 2).state_dict()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]


def test_initial_weights_depend_on_the_seed_alone():
    def weights(seed: int):
        torch.rand(3)  # whatever was drawn before
        return torch.cat([p.flatten() for p in build_network("mlp", 8, 3, hidden=(5,), seed=seed).parameters()])

    state = torch.random.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    weights(2**64 - 1)
    torch.random.set_rng_state(state)
    expected = torch.rand(4)
    torch.random.set_rng_state(state)
    build_network("mlp", 8, 3, hidden=(5,), seed=1)
    assert torch.equal(torch.rand(4), expected)  # torch's own generator was left alone


def test_wrong_sizes_and_names_are_told():
    with pytest.raises(ValueError, match="layer sizes must be at least 1, not 0"):
        mlp(4, 2, hidden=(0,))
    with pytest.raises(TypeError, match=r"layer sizes must be integers, not 1\.5"):
        mlp(4, 2, hidden=(1.5,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown network 'mpl'; nearest: 'mlp'"):
        build_network("mpl", 8, 3, hidden=(5,), seed=1)
