"""Learning rates that fall from the head to the input."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from tlkit.errors import ConfigurationError
from tlkit.finetuning.base import FineTuning, ParameterGroup
from tlkit.finetuning.layers import layers_of

__all__ = ["LayerDecay", "several_layers"]


class LayerDecay(FineTuning):
    r"""Every layer learns slower than the one above it (Clark et al., ELECTRA, ICLR 2020; Bao et al., BEiT, ICLR 2022).

    With layers :math:`1, \dots, L` from the input up, layer :math:`l` has the learning rate
    :math:`\eta \, \text{decay}^{L + 1 - l}` where the head has :math:`\eta`: what is general, near the input, changes
    least. The factor is in the optimizer's own learning rates, so that every optimizer and schedule follows it.

    Args:
        decay: Factor from a layer to the one below it, in (0, 1]. Usual: 0.65 to 0.8 for a dozen transformer layers.
        freeze_batch_norm: Keep the backbone's batch-norm statistics as they came, and use them while training too.

    Raises:
        ConfigurationError: If ``decay`` is out of its range, or the backbone has fewer than two layers.

    Example:
        >>> backbone = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> [(group.name, group.lr_scale) for group in LayerDecay(0.5).groups(backbone)]
        [('backbone.0', 0.25), ('backbone.2', 0.5)]
    """

    def __init__(self, decay: float = 0.75, freeze_batch_norm: bool = False) -> None:
        super().__init__(freeze_batch_norm)
        if not 0 < decay <= 1:
            raise ConfigurationError(f"LayerDecay(decay=...) lies above 0 and at most at 1, got {decay}")
        self.decay = decay

    def groups(self, backbone: nn.Module) -> list[ParameterGroup]:
        """Return a group a layer, each with its factor."""
        layers = several_layers(backbone, "LayerDecay")
        return [
            # Without modules: every layer learns from the start, and none has to be held in evaluation mode.
            replace(layer, lr_scale=self.decay ** (len(layers) - number), modules=())
            for number, layer in enumerate(layers)
        ]


def several_layers(backbone: nn.Module, strategy: str) -> list[ParameterGroup]:
    """Return the layers of a backbone that a strategy tells apart.

    Raises:
        ConfigurationError: If there are fewer than two with trainable parameters.
    """
    layers = layers_of(backbone)
    if len(layers) < 2:
        raise ConfigurationError(
            f"finetuning: {strategy} tells layers apart, and {type(backbone).__name__} has {len(layers)} with "
            "trainable parameters: use Full, or give the backbone a method layer_groups() that returns "
            "[(name, modules), ...] from the input to the features"
        )
    return layers
