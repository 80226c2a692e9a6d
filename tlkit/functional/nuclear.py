"""The nuclear norm of a batch of predictions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tlkit.functional.samples import autocast_off, check_probabilities, first_derivative_only

__all__ = ["batch_nuclear_norm"]


def batch_nuclear_norm(probabilities: Tensor) -> Tensor:
    r"""Return the nuclear norm of a batch of predictions, divided by the number of rows.

    .. math:: \frac1b \lVert P \rVert_* = \frac1b \sum_k \sigma_k(P)

    The larger it is, the more certain the predictions and the more different classes are among them; it is at most
    ``sqrt(min(b, c) / b)``. BNM maximises it on the target: Cui et al., "Towards Discriminability and Diversity: Batch
    Nuclear-norm Maximization under Label Insufficient Situations", CVPR 2020, eq. 10.

    The gradient is ``U V^T / b`` of the singular vectors, which is finite for repeated singular values too, where the
    derivative of the singular value decomposition is not; of a singular value of 0 the subgradient 0 is taken. Half
    precision is raised to float32. First derivatives only.

    Args:
        probabilities: ``(b, c)``, rows that sum to 1.

    Returns:
        A scalar in float32, or float64 for float64 input.

    Raises:
        ConfigurationError: If the input is not a floating point matrix with a row and two columns at least.

    Example:
        >>> batch_nuclear_norm(torch.eye(4))
        tensor(1.)
        >>> batch_nuclear_norm(torch.full((4, 4), 0.25))  # one singular value, 1
        tensor(0.2500)
    """
    p = check_probabilities(probabilities, "batch_nuclear_norm")
    with autocast_off(p):
        norm: Tensor = _NuclearNorm.apply(p)
        return norm / len(p)


class _NuclearNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        if not matrix.isfinite().all():  # the decomposition raises; a diverged run has to be seen as NaN
            ctx.save_for_backward(torch.full_like(matrix, torch.nan))
            return matrix.new_tensor(torch.nan)
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        tolerance = values[0] * max(matrix.shape) * torch.finfo(matrix.dtype).eps
        ctx.save_for_backward((left * (values > tolerance)) @ right)
        norm: Tensor = values.sum()
        return norm

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        first_derivative_only("batch_nuclear_norm")
        direction: Tensor = ctx.saved_tensors[0]
        return gradient * direction
