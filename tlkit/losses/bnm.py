"""BNM: predictions on the target that are certain and diverse."""

from __future__ import annotations

from torch import Tensor

from tlkit import functional
from tlkit.losses.base import AdaptationLoss
from tlkit.types import Encoded

__all__ = ["BNM"]


class BNM(AdaptationLoss):
    """The negative nuclear norm of the target's predictions, divided by the batch size; the source is not looked at.

    See :func:`tlkit.functional.batch_nuclear_norm`. Cui et al., "Towards Discriminability and Diversity: Batch
    Nuclear-norm Maximization under Label Insufficient Situations", CVPR 2020. It is negative; usual weight: 1. With
    several ranks the norm is that of all ranks' rows, which is not the mean of the ranks' norms.

    Args:
        weight: Factor of the loss, a number or a schedule.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> loss = BNM()
        >>> loss.build(SimpleNamespace(task=SimpleNamespace(probabilities=lambda outputs: outputs.softmax(1))))
        >>> zeros = torch.zeros(4, dtype=torch.int64)
        >>> certain = Encoded(torch.zeros(4, 2), 100 * torch.eye(4), None, zeros, zeros)
        >>> loss(certain, certain)
        tensor(-1.)
    """

    needs_source = False
    needs_probabilities = True

    def forward(self, source: Encoded | None, target: Encoded) -> Tensor:
        """Return the negative batch nuclear norm of a target batch."""
        return -functional.batch_nuclear_norm(self.probabilities(target.raised().outputs))
