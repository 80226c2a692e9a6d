"""CORAL: match the covariances of the domains."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from tlkit import functional
from tlkit.losses.base import AdaptationLoss, check_on
from tlkit.schedules import Schedule
from tlkit.types import Encoded

__all__ = ["CORAL"]


class CORAL(AdaptationLoss):
    """The squared distance between the covariances of source and target, divided by ``4 d^2``.

    See :func:`tlkit.functional.coral`. Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation",
    ECCV 2016. The value is small, so its weight is usually above 1.

    Args:
        on: What to match: the backbone's ``"features"`` or, as in the paper, the task's ``"outputs"``.
        weight: Factor of the loss, a number or a schedule.

    Raises:
        ConfigurationError: If ``on`` is neither.

    Example:
        >>> import torch
        >>> rows, zeros = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.zeros(2, dtype=torch.int64)
        >>> source = Encoded(rows, rows, None, zeros, zeros)
        >>> target = Encoded(2 * rows, rows, None, zeros + 1, zeros)
        >>> CORAL()(source, target)  # variances 2 and 8: 6^2 / 16
        tensor(2.2500)
    """

    def __init__(self, on: Literal["features", "outputs"] = "features", weight: float | Schedule = 1.0) -> None:
        super().__init__(weight)
        check_on(self, on)
        self.on = on

    def forward(self, source: Encoded, target: Encoded) -> Tensor:
        """Return the CORAL loss of a source and a target batch; each needs two rows."""
        return functional.coral(getattr(source, self.on), getattr(target, self.on))
