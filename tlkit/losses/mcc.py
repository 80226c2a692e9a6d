"""MCC: predictions on the target that do not mix classes up."""

from __future__ import annotations

from torch import Tensor

from tlkit import functional
from tlkit.errors import ConfigurationError
from tlkit.losses.base import AdaptationLoss
from tlkit.schedules import Schedule
from tlkit.types import Encoded

__all__ = ["MCC"]


class MCC(AdaptationLoss):
    """Minimum class confusion on the target's predictions; the source is not looked at.

    See :func:`tlkit.functional.class_confusion`. Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation",
    ECCV 2020. Usual weight: 1.

    Args:
        temperature: What the logits are divided by before the softmax, so that certain rows do not drown the others.
        weight: Factor of the loss, a number or a schedule.

    Raises:
        ConfigurationError: If ``temperature`` is not positive.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> loss = MCC()
        >>> loss.build(SimpleNamespace(task=SimpleNamespace(probabilities=lambda outputs: outputs.softmax(1))))
        >>> zeros = torch.zeros(2, dtype=torch.int64)
        >>> undecided = Encoded(torch.zeros(2, 4), torch.zeros(2, 2), None, zeros, zeros)
        >>> loss(undecided, undecided)
        tensor(0.5000)
    """

    needs_source = False
    needs_probabilities = True

    def __init__(self, temperature: float = 2.5, weight: float | Schedule = 1.0) -> None:
        super().__init__(weight)
        if temperature <= 0:
            raise ConfigurationError(f"MCC(temperature=...) must be positive, got {temperature}")
        self.temperature = temperature

    def forward(self, source: Encoded | None, target: Encoded) -> Tensor:
        """Return the class confusion of a target batch."""
        outputs = target.raised().outputs
        return functional.class_confusion(self.probabilities(outputs / self.temperature))
