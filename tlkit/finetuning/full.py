"""All of the backbone learns, or none of it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tlkit.errors import BackboneError, ConfigurationError
from tlkit.finetuning.base import FineTuning, ParameterGroup, freeze
from tlkit.finetuning.layers import layers_of

__all__ = ["Full", "LinearProbe"]


class Full(FineTuning):
    """The whole backbone learns from the start (Yosinski et al., NeurIPS 2014).

    What happens without a strategy too; name it to keep batch normalisation as it came. The statistics of a pretrained
    backbone are better than those of a few small batches.

    Args:
        freeze_batch_norm: Keep the backbone's batch-norm statistics as they came, and use them while training too.
            Scale and shift still learn.
        freeze_first: How many of the backbone's layers, those nearest to the input, never learn and stay in evaluation
            mode. They hold the most general features and cost the most: nothing is propagated back through them.

    Raises:
        BackboneError: In ``prepare`` if the backbone has no more layers than are to be frozen.

    Example:
        >>> backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        >>> strategy = Full(freeze_batch_norm=True)
        >>> groups = strategy.groups(backbone)
        >>> strategy.hold(backbone.train(), groups, progress=0.0)
        >>> backbone[0].training, backbone[1].training
        (True, False)
    """

    def __init__(self, freeze_batch_norm: bool = False, freeze_first: int = 0) -> None:
        super().__init__(freeze_batch_norm)
        if freeze_first < 0:
            raise ConfigurationError(f"Full(freeze_first=...) is a number of layers from 0 up, got {freeze_first}")
        self.freeze_first = freeze_first
        self._frozen: list[nn.Module] = []

    def prepare(self, backbone: nn.Module) -> None:
        """Take the gradient of the first layers away, for good."""
        if not self.freeze_first:
            return
        layers = layers_of(backbone)
        if len(layers) <= self.freeze_first:
            raise BackboneError(
                f"Full(freeze_first={self.freeze_first}) would freeze all {len(layers)} layers of "
                f"{type(backbone).__name__}: freeze fewer, or use LinearProbe"
            )
        for layer in layers[: self.freeze_first]:
            for parameter in layer.parameters:
                parameter.requires_grad = False
            self._frozen += layer.modules

    def groups(self, backbone: nn.Module) -> list[ParameterGroup]:
        """Return the trainable parameters in one group."""
        if self.freeze_first:
            # Also what has taken the place of a layer since: batch norm by domain, or synchronised over ranks.
            known = set(self._frozen)
            for module in backbone.modules():
                # With those of its children: a network that owns a frozen parameter itself (a class token) goes on.
                inside = list(module.parameters())
                if inside and module not in known and not any(parameter.requires_grad for parameter in inside):
                    self._frozen.append(module)
        return super().groups(backbone)

    def hold(self, backbone: nn.Module, groups: Sequence[ParameterGroup], progress: float) -> None:
        """Put the frozen layers, and batch normalisation if it is frozen, into evaluation mode."""
        super().hold(backbone, groups, progress)
        for module in self._frozen:
            module.train(False)


class LinearProbe(FineTuning):
    """The backbone stays as it came and only the head learns (Alain and Bengio, 2016; Kornblith et al., CVPR 2019).

    The backbone is always in evaluation mode: no dropout, batch-norm statistics as they came. Its parameters take no
    gradient, so that a training step keeps no activations and costs little more than a prediction.

    Adaptation losses that act on features have nothing to move then; those on the task's outputs have the head.

    Example:
        >>> import torch
        >>> backbone, strategy = nn.Sequential(nn.Linear(4, 3), nn.Dropout()), LinearProbe()
        >>> strategy.prepare(backbone)
        >>> strategy.groups(backbone)
        []
        >>> strategy.hold(backbone.train(), [], progress=0.0)
        >>> backbone(torch.rand(2, 4)).requires_grad, backbone[1].training
        (False, False)
    """

    trains_batch_norm = False

    def __init__(self) -> None:
        super().__init__()

    def prepare(self, backbone: nn.Module) -> None:
        """Take the gradient of every parameter away, for good."""
        freeze(backbone)

    def hold(self, backbone: nn.Module, groups: Sequence[ParameterGroup], progress: float) -> None:
        """Keep the whole backbone in evaluation mode."""
        backbone.train(False)
