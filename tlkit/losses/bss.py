"""BSS: no feature direction that the labelled batch hardly uses."""

from __future__ import annotations

from torch import Tensor

from tlkit import functional
from tlkit.errors import ConfigurationError
from tlkit.losses.base import AdaptationLoss, learning_parameters
from tlkit.schedules import Schedule
from tlkit.types import Encoded, Encoder

__all__ = ["BSS"]


class BSS(AdaptationLoss):
    """The sum of squares of the ``k`` smallest singular values of the labelled batch's features.

    See :func:`tlkit.functional.batch_spectral_shrinkage`. Directions that a batch hardly uses transfer badly from few
    labels; they are suppressed. Chen et al., "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage
    for Safe Transfer Learning", NeurIPS 2019. Usual weight: 0.001. The target is not looked at; with several ranks the
    features are those of all ranks' rows.

    Args:
        k: How many singular values, 1 in the paper.
        weight: Factor of the loss, a number or a schedule.

    Raises:
        ConfigurationError: If ``k`` is below 1.

    Example:
        >>> import torch
        >>> zeros = torch.zeros(3, dtype=torch.int64)
        >>> features = torch.diag(torch.tensor([3.0, 1.0, 2.0]))
        >>> BSS()(Encoded(features, features, None, zeros, zeros), None)
        tensor(1.)
    """

    needs_target = False

    def __init__(self, k: int = 1, weight: float | Schedule = 1.0) -> None:
        super().__init__(weight)
        if k < 1:
            raise ConfigurationError(f"BSS(k=...) is a number of singular values from 1 up, got {k}")
        self.k = k

    def build(self, network: Encoder) -> None:
        """Refuse a backbone that does not learn."""
        learning_parameters(network, self)

    def forward(self, source: Encoded, target: Encoded | None) -> Tensor:
        """Return the batch spectral shrinkage of a source batch."""
        return functional.batch_spectral_shrinkage(source.features, self.k)
