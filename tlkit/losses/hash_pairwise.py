"""Hash pairwise: source codes that are near each other if, and only if, their classes are the same."""

from __future__ import annotations

from torch import Tensor

from tlkit import functional
from tlkit.errors import ConfigurationError
from tlkit.losses.base import AdaptationLoss
from tlkit.schedules import Schedule
from tlkit.types import Encoded

__all__ = ["HashPairwise"]


class HashPairwise(AdaptationLoss):
    """HashNet's weighted likelihood of all pairs of source rows; the target is not looked at.

    See :func:`tlkit.functional.pairwise_likelihood`. Cao et al., "HashNet: Deep Learning to Hash by Continuation", ICCV
    2017. It is supervised, and stands among the adaptation losses because those see the rows of all ranks: a mean over
    each rank's own pairs would not be the mean over all pairs. It joins the supervised loss of
    :class:`tlkit.tasks.Hashing`, and needs no target domain.

    Args:
        scale: Factor of the mean product over bits; the authors' code takes 10.
        weight: Factor of the loss, a number or a schedule.

    Raises:
        ConfigurationError: If ``scale`` is not positive.

    Example:
        >>> import torch
        >>> zeros = torch.zeros(2, dtype=torch.int64)
        >>> codes = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
        >>> HashPairwise()(Encoded(codes, codes, torch.tensor([0, 1]), zeros, zeros), None)  # log(1 + exp(-10))
        tensor(4.5399e-05)
    """

    needs_target = False
    needs_classes = True

    def __init__(self, scale: float = 10.0, weight: float | Schedule = 1.0) -> None:
        super().__init__(weight)
        if scale <= 0:
            raise ConfigurationError(f"HashPairwise(scale=...) must be positive, got {scale}")
        self.scale = scale

    def forward(self, source: Encoded, target: Encoded | None) -> Tensor:
        """Return the loss of a labelled source batch."""
        assert source.y is not None
        return functional.pairwise_likelihood(source.outputs, source.y, self.scale)
