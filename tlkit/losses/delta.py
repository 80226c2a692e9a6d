"""DELTA: the backbone goes on computing what it computed when it came."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from tlkit import functional
from tlkit.errors import ConfigurationError, near
from tlkit.finetuning.base import freeze
from tlkit.losses.base import AdaptationLoss, learning_parameters
from tlkit.schedules import Schedule
from tlkit.types import DomainBatch, Encoded, Encoder

__all__ = ["DELTA"]


class DELTA(AdaptationLoss):
    """The distance of the backbone's feature maps from those of a frozen copy of it as it came, on the labelled batch.

    See :func:`tlkit.functional.feature_map_distance`; the distances of several layers are added. Li et al., "DELTA:
    Deep Learning Transfer using Feature Map with Attention for Convolutional Networks", ICLR 2019. Every channel has
    the same attention. The paper weighs channels by how much the loss of a trained head grows without them, which takes
    a pass over the data for each channel before training, and is not here. It also adds up positions where here they
    are averaged, so that its weights do not carry over.

    Both networks are compared in evaluation mode, so that dropout and the other rows of a batch do not enter: the loss
    is 0 at the start, and several ranks compute that of all their rows. A step encodes the labelled rows twice more,
    once without a gradient; the copy is in every checkpoint.

    Args:
        layers: Names of modules of the backbone whose outputs are compared, ``[model.layer3, model.layer4]`` for a
            ResNet of timm; None compares the features that the backbone returns.
        weight: Factor of the loss, a number or a schedule.

    Raises:
        ConfigurationError: When built, if the backbone has no such module, it only holds others, or the backbone does
            not learn; at the first step, if the backbone never calls the module.

    Example:
        >>> from types import SimpleNamespace
        >>> loss = DELTA(layers=["1"])
        >>> loss.build(SimpleNamespace(backbone=nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))))
        >>> any(parameter.requires_grad for parameter in loss.parameters())
        False
    """

    needs_target = False
    accumulates = True
    reference: nn.Module

    def __init__(self, layers: list[str] | None = None, weight: float | Schedule = 1.0) -> None:
        super().__init__(weight)
        self.layers = [""] if layers is None else list(layers)

    def build(self, network: Encoder) -> None:
        """Copy the backbone as it is."""
        learning_parameters(network, self)
        names = dict(network.backbone.named_modules())
        if not self.layers:
            raise ConfigurationError("DELTA(layers=...) is empty: name modules, or leave it out for the features")
        for name in self.layers:
            if name not in names:
                hits = near(name, names)
                raise ConfigurationError(
                    f"DELTA(layers=...): the backbone {type(network.backbone).__name__} has no module {name!r}"
                    + (f": did you mean {' or '.join(map(repr, hits))}?" if hits else "")
                    + " backbone.named_modules() lists all of them"
                )
            if isinstance(names[name], nn.ModuleList | nn.ModuleDict):
                inside = [f"{name}.{child}" for child, _ in names[name].named_children()]
                raise ConfigurationError(
                    f"DELTA(layers=...): {name!r} of {type(network.backbone).__name__} is a "
                    f"{type(names[name]).__name__}, which is never called by itself and has no output: name what is in "
                    f"it, such as {inside[-1] if inside else 'another module'}"
                )
        self.reference = copy.deepcopy(network.backbone)
        freeze(self.reference)

    def step(self, network: Encoder, batch: DomainBatch, source: Encoded, target: Encoded) -> Tensor:
        """Return the summed distances on this rank's labelled rows."""
        assert batch.source is not None  # needs_source
        x = batch.source.x
        # All of the network: a bottleneck behind the backbone must not take these rows into its statistics once more.
        # A compiled backbone would not call the hooks that it was compiled without.
        eager = torch.compiler.set_stance("force_eager")
        with eager, _evaluating(cast(nn.Module, network)), _outputs(network.backbone, self.layers) as ours:
            network(x, "source")
        if never := [name for name in self.layers if name not in ours]:
            backbone = type(network.backbone).__name__
            raise ConfigurationError(
                f"DELTA(layers=...): the backbone {backbone} never calls {never[0]!r} by itself, and there is no "
                "output to compare: name another module, or what is in it; backbone.named_modules() lists all of them"
            )
        with torch.no_grad(), _evaluating(self.reference), _outputs(self.reference, self.layers) as theirs:
            self.reference(x)
        mask = x.get("attention_mask") if isinstance(x, Mapping) else None
        return torch.stack([_distance(ours[name], theirs[name], mask) for name in self.layers]).sum()


def _distance(ours: Any, theirs: Any, mask: Tensor | None) -> Tensor:
    if not isinstance(ours, Tensor):  # transformers' layers may return (hidden states, ...)
        ours, theirs = ours[0], theirs[0]
    by_position = mask is not None and ours.dim() == 3 and ours.shape[:2] == mask.shape
    return functional.feature_map_distance(ours, theirs, mask if by_position else None)


@contextmanager
def _outputs(backbone: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Collect what the named modules return in the forward passes inside."""
    found: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: found.update({name: output})

    hooks = [backbone.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in modes:
            module.training = False  # not train(False), which a backbone may have a method of its own for
        yield
    finally:
        for module, mode in modes:
            module.training = mode
