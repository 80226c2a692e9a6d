"""The spectrum of a batch of features."""

from __future__ import annotations

import torch
from torch import Tensor

from tlkit.errors import ConfigurationError
from tlkit.functional.samples import autocast_off, full_precision

__all__ = ["batch_spectral_shrinkage"]


def batch_spectral_shrinkage(features: Tensor, k: int = 1) -> Tensor:
    r"""Return the sum of squares of the ``k`` smallest singular values of a batch of features.

    .. math:: \sum_{i=1}^{k} \sigma_{-i}^2

    where :math:`\sigma_{-i}` is the ``i``-th smallest of the ``min(b, d)`` singular values. It is not divided by the
    number of rows, as in Chen et al., "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for
    Safe Transfer Learning", NeurIPS 2019. Half precision is raised to float32.

    Args:
        features: ``(b, d)``.
        k: How many singular values.

    Returns:
        A scalar in float32, or float64 for float64 input.

    Raises:
        ConfigurationError: If the input is not a floating point matrix, or has fewer than ``k`` singular values.

    Example:
        >>> batch_spectral_shrinkage(torch.diag(torch.tensor([3.0, 1.0, 2.0])), k=2)
        tensor(5.)
    """
    shape = tuple(features.shape)
    if len(shape) != 2 or not features.is_floating_point():
        raise ConfigurationError(
            "batch_spectral_shrinkage(features=...) takes a floating point matrix of shape (rows, features), got "
            f"{features.dtype} of shape {shape}"
        )
    if not 1 <= k <= min(shape):
        raise ConfigurationError(
            f"batch_spectral_shrinkage(k={k}) needs at least one and at most the {min(shape)} singular values of "
            f"features of shape {shape}: lower k, or raise the batch size"
        )
    matrix = full_precision(features)
    with autocast_off(matrix):
        if not matrix.isfinite().all():  # the decomposition raises; a diverged run has to be seen as NaN
            return matrix.sum() * torch.nan
        # svdvals takes another algorithm with a gradient than without, and its values then differ in the last digit.
        descending: Tensor = torch.linalg.svd(matrix, full_matrices=False).S
        return descending[-k:].square().sum()
