"""Every public adaptation loss with the arguments that the generic tests of test_all_losses.py walk over."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tlkit.losses import BNM, BSS, CDAN, CORAL, DANN, DELTA, L2SP, MCC, MMD, AdaptationLoss, HashEntropy, HashPairwise
from tlkit.network import Network
from tlkit.tasks import Classification
from tlkit.types import DataSpec, DomainBatch, Encoded, Samples

WIDTH, CLASSES = 5, 3
PARTS = {"task": Classification(), "backbone": nn.Linear(1, WIDTH)}


@dataclass(frozen=True)
class Setting:
    """A loss with its arguments, and what may be expected of it.

    Attributes:
        gradcheck: Arguments that make the gradient that of the value: no detached bandwidth, no reversal; ``None``
            where a part is always detached, so that the loss has a gradient test of its own.
        detached_outputs: Whether no gradient flows to the outputs although the value depends on them.
        vanishes: Whether it is 0 for identical samples.
        symmetric: Whether source and target may be swapped.
        target_only: Whether the source is not looked at.
        source_only: Whether the target is not looked at.
    """

    loss: type[AdaptationLoss]
    arguments: dict[str, Any] = field(default_factory=dict)
    gradcheck: dict[str, Any] | None = field(default_factory=dict)
    detached_outputs: bool = False
    vanishes: bool = True
    symmetric: bool = True
    target_only: bool = False
    source_only: bool = False

    def __str__(self) -> str:
        return "-".join([self.loss.__name__, *(f"{key}={value}" for key, value in self.arguments.items())])

    def make(self, network: Network | None = None, **overrides: Any) -> AdaptationLoss:
        """Build the loss, its layers drawn from a fixed seed, half way through a run."""
        torch.manual_seed(0)
        loss = self.loss(**{**self.arguments, **overrides})
        loss.build(network or SimpleNamespace(num_features=WIDTH, num_probabilities=CLASSES, **PARTS))
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
    *(
        Setting(
            CDAN,
            {"hidden_size": 7, "entropy": entropy},
            gradcheck={"reversal": -1.0},
            detached_outputs=True,
            vanishes=False,
            symmetric=False,
        )
        for entropy in (False, True)
    ),
    Setting(MCC, gradcheck=None, vanishes=False, symmetric=False, target_only=True),
    Setting(BNM, vanishes=False, symmetric=False, target_only=True),
    Setting(HashEntropy, vanishes=False, symmetric=False),
    Setting(HashPairwise, vanishes=False, symmetric=False, source_only=True),
    Setting(BSS, vanishes=False, symmetric=False, source_only=True),
    Setting(BSS, {"k": 2}, vanishes=False, symmetric=False, source_only=True),
]
# Losses on the network itself: they define step(network, batch, source, target) and no forward(source, target).
OF_THE_NETWORK = [
    Setting(L2SP),
    Setting(L2SP, {"beta": 0.5}, vanishes=False),
    Setting(DELTA),
    Setting(DELTA, {"layers": ["0", "3"]}),
]


def encoded(features: Tensor, outputs: Tensor | None = None) -> Encoded:
    """Wrap features, and outputs when a loss uses them, with the rest of an encoded batch."""
    zeros = torch.zeros(len(features), dtype=torch.int64)
    y = torch.arange(len(features)) % CLASSES
    return Encoded(features, features if outputs is None else outputs, y, zeros, zeros)


def value(loss: AdaptationLoss, source: Encoded, target: Encoded) -> Tensor:
    """Return the scalar of a loss that returns a scalar or a dict; the labels of the target are sealed."""
    result = loss(source, replace(target, y=None))
    return result["loss"] if isinstance(result, dict) else result


def network(dtype: torch.dtype = torch.float32) -> Network:
    """Return a network with batch normalisation and dropout, in training mode, from a fixed seed."""
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, WIDTH))
    layers.num_features = WIDTH
    built = Network(layers, Classification())
    built.build(DataSpec(("a",), ("a",), (), classes=("x", "y", "z")))
    return built.to(dtype)


def batch(rows: int = 6, dtype: torch.dtype = torch.float32) -> DomainBatch:
    """Return a source batch for :func:`network`."""
    zeros = torch.zeros(rows, dtype=torch.int64)
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return DomainBatch(Samples(x.to(dtype), zeros, zeros, zeros), None)
