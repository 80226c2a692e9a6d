"""MMD: match the kernel mean embeddings of the domains."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from tlkit import functional
from tlkit.functional.mmd import Estimator, check_kernels
from tlkit.losses.base import AdaptationLoss, check_on
from tlkit.schedules import Schedule
from tlkit.types import Encoded

__all__ = ["MMD"]


class MMD(AdaptationLoss):
    """The squared maximum mean discrepancy between source and target, as in DDC (one kernel) and DAN (several).

    See :func:`tlkit.functional.mmd` for the formula. Tzeng et al., "Deep Domain Confusion", 2014; Long et al.,
    "Learning Transferable Features with Deep Adaptation Networks", ICML 2015. DAN matches several layers: list this
    loss twice, once on the features and once on the outputs.

    Args:
        estimator: ``"biased"`` (V-statistic), ``"unbiased"`` (U-statistic) or ``"linear"`` (linear time).
        num_kernels: Number of Gaussian kernels, odd; their bandwidths are powers of two centred on the base bandwidth.
        bandwidth: Base bandwidth as a squared distance; ``None`` for the mean squared distance of each batch.
        on: What to match: the backbone's ``"features"`` or the task's ``"outputs"``.
        weight: Factor of the loss, a number or a schedule.

    Raises:
        ConfigurationError: If an argument is not one of these, or out of its range.

    Example:
        >>> import torch
        >>> rows, zeros = torch.tensor([[0.0], [2.0]]), torch.zeros(2, dtype=torch.int64)
        >>> source = Encoded(rows, rows, None, zeros, zeros)
        >>> target = Encoded(rows + 1, rows, None, zeros + 1, zeros)
        >>> MMD(num_kernels=1, bandwidth=1.0)(source, target)
        tensor(0.4664)
    """

    def __init__(
        self,
        estimator: Estimator = "biased",
        num_kernels: int = 5,
        bandwidth: float | None = None,
        on: Literal["features", "outputs"] = "features",
        weight: float | Schedule = 1.0,
    ) -> None:
        super().__init__(weight)
        check_kernels(estimator, num_kernels, bandwidth)
        self.estimator: Estimator = estimator
        self.num_kernels = num_kernels
        self.bandwidth = bandwidth
        check_on(self, on)
        self.on = on

    def forward(self, source: Encoded, target: Encoded) -> Tensor:
        """Return the squared MMD of a source and a target batch."""
        return functional.mmd(
            getattr(source, self.on),
            getattr(target, self.on),
            estimator=self.estimator,
            num_kernels=self.num_kernels,
            bandwidth=self.bandwidth,
        )
