"""Sums that can be had where only deterministic algorithms are allowed."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cumulative_sum"]


def cumulative_sum(x: Tensor, dim: int) -> Tensor:
    """Return ``x.cumsum(dim)``, also under ``torch.use_deterministic_algorithms(True)``.

    On CUDA the cumulative sum of floating-point numbers has no deterministic implementation in older releases of torch
    (2.6 among them), which refuse it then: it is done on the CPU there.

    Args:
        x: Of any shape.
        dim: Along which to sum.

    Returns:
        Of the shape, type and device of ``x`` (int64 for other integers).

    Example:
        >>> cumulative_sum(torch.tensor([[1.0, 2.0, 4.0]]), dim=1)
        tensor([[1., 3., 7.]])
    """
    if x.is_cuda and x.is_floating_point() and torch.are_deterministic_algorithms_enabled():
        return x.cpu().cumsum(dim).to(x.device)
    return x.cumsum(dim)
