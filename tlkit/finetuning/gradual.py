"""Layers that begin to learn one after the other."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from tlkit.errors import ConfigurationError
from tlkit.finetuning.base import FineTuning, ParameterGroup
from tlkit.finetuning.layer_decay import several_layers

__all__ = ["GradualUnfreezing"]


class GradualUnfreezing(FineTuning):
    r"""The head learns first, then layer after layer down to the input (Howard and Ruder, ULMFiT, ACL 2018).

    With layers :math:`1, \dots, L` from the input up, layer :math:`l` begins to learn at the share
    :math:`\text{over} \cdot (L + 1 - l) / L` of the training, so that from ``over`` on everything learns. Until then a
    layer is as it came: in evaluation mode (no dropout, batch-norm statistics unchanged), with the learning rate 0,
    and unknown to the optimizer, which gathers no momentum for it.

    A layer's start is a function of training progress alone, and its parameters take part in every backward pass. So a
    resumed run goes on where it was, and several processes keep equal weights. It also means that a step costs as much
    before a layer's start as after it.

    Args:
        over: Share of the training after which everything learns, in (0, 1).
        decay: Factor on the learning rate from a layer to the one below it, as in :class:`LayerDecay`; 1 is none. The
            paper has 1 / 2.6.
        freeze_batch_norm: Keep the backbone's batch-norm statistics as they came for the whole training.

    Raises:
        ConfigurationError: If an argument is out of its range, or the backbone has fewer than two layers.

    Example:
        >>> backbone = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> groups = GradualUnfreezing(over=0.5).groups(backbone)
        >>> [(group.name, group.start) for group in groups]
        [('backbone.0', 0.5), ('backbone.2', 0.25)]
    """

    def __init__(self, over: float = 0.5, decay: float = 1.0, freeze_batch_norm: bool = False) -> None:
        super().__init__(freeze_batch_norm)
        if not 0 < over < 1:
            raise ConfigurationError(f"GradualUnfreezing(over=...) is a share of the training in (0, 1), got {over}")
        if not 0 < decay <= 1:
            raise ConfigurationError(f"GradualUnfreezing(decay=...) lies above 0 and at most at 1, got {decay}")
        self.over, self.decay = over, decay

    def groups(self, backbone: nn.Module) -> list[ParameterGroup]:
        """Return a group a layer, each with its start."""
        layers = several_layers(backbone, "GradualUnfreezing")
        return [
            replace(layer, start=self.over * below_head / len(layers), lr_scale=self.decay**below_head)
            for below_head, layer in zip(range(len(layers), 0, -1), layers, strict=True)
        ]
