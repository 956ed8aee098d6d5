"""`TrainingConfig`: what determines a training run's weights, bit for bit."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from halfulp.host.recipe import get_recipe
from halfulp.models.data import DATASETS
from halfulp.models.networks import NETWORKS
from halfulp.numerics.random_bits import check_seed

__all__ = ["TrainingConfig"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What determines a run's weights, bit for bit; the device does not.

    Parameters
    ----------
    network, data, recipe
        Names in `NETWORKS`, `DATASETS`, `RECIPES`.
    hidden
        Sizes of the hidden layers.
    epochs
        Passes over the training images.
    batch_size
        Training images a step; the last step of an epoch takes what is left.
    learning_rate, momentum
        Of `torch.optim.SGD`; the loss is the mean cross-entropy of a batch.
    seed
        64 bits, from which initial weights, order of the images and all random bits follow.
    """

    network: str = "mlp"
    data: str = "mnist5k"
    recipe: str = "fp8-hybrid"
    hidden: tuple[int, ...] = (128,)
    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        NETWORKS.get(self.network)
        DATASETS.get(self.data)
        object.__setattr__(self, "recipe", get_recipe(self.recipe).name)
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_seed(self.seed)
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        for size in self.hidden:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"hidden sizes must be integers of at least 1, not {size!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, not {self.momentum!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `from_dict` reads it back."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainingConfig:
        """Build from what `to_dict` gave."""
        return cls(**data)
