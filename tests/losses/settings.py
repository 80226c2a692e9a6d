"""Every public adaptation loss with the arguments that the generic tests of test_all_losses.py walk over."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tlkit.losses import CORAL, DANN, MMD, AdaptationLoss
from tlkit.types import Encoded

WIDTH, CLASSES = 5, 3


@dataclass(frozen=True)
class Setting:
    """A loss with its arguments, and what may be expected of it.

    Attributes:
        gradcheck: Arguments that make the gradient that of the value: no detached bandwidth, no reversal.
        vanishes: Whether it is 0 for identical samples.
        symmetric: Whether source and target may be swapped.
    """

    loss: type[AdaptationLoss]
    arguments: dict[str, Any] = field(default_factory=dict)
    gradcheck: dict[str, Any] = field(default_factory=dict)
    vanishes: bool = True
    symmetric: bool = True

    def __str__(self) -> str:
        return "-".join([self.loss.__name__, *(f"{key}={value}" for key, value in self.arguments.items())])

    def make(self, **overrides: Any) -> AdaptationLoss:
        """Build the loss, its layers drawn from a fixed seed, half way through a run."""
        torch.manual_seed(0)
        loss = self.loss(**{**self.arguments, **overrides})
        loss.build(SimpleNamespace(num_features=WIDTH, num_outputs=CLASSES))
        loss.progress = 0.5
        return loss


FIXED = {"bandwidth": 2.0}
SETTINGS = [
    Setting(MMD, gradcheck=FIXED),
    Setting(MMD, {"on": "outputs", "num_kernels": 1}, gradcheck=FIXED),
    Setting(MMD, {"estimator": "unbiased", "num_kernels": 3}, gradcheck=FIXED, vanishes=False),
    Setting(MMD, {"estimator": "linear"}, gradcheck=FIXED),
    Setting(MMD, {"bandwidth": 0.5}),
    Setting(CORAL),
    Setting(CORAL, {"on": "outputs"}),
    Setting(DANN, {"hidden_size": 7}, gradcheck={"reversal": -1.0}, vanishes=False, symmetric=False),
    Setting(
        DANN,
        {"hidden_size": 4, "num_layers": 1, "reversal": 0.5},
        gradcheck={"reversal": -1.0},
        vanishes=False,
        symmetric=False,
    ),
]


def encoded(features: Tensor, outputs: Tensor | None = None) -> Encoded:
    """Wrap features, and outputs when a loss uses them, with the rest of an encoded batch."""
    zeros = torch.zeros(len(features), dtype=torch.int64)
    return Encoded(features, features if outputs is None else outputs, None, zeros, zeros)


def value(loss: AdaptationLoss, source: Encoded, target: Encoded) -> Tensor:
    """Return the scalar of a loss that returns a scalar or a dict."""
    result = loss(source, target)
    return result["loss"] if isinstance(result, dict) else result
