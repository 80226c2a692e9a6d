"""Minimum class confusion: how far a classifier mixes its classes up on one sample."""

from __future__ import annotations

import torch
from torch import Tensor

from tlkit.functional.samples import autocast_off, check_probabilities

__all__ = ["certainty", "class_confusion"]


def certainty(probabilities: Tensor) -> Tensor:
    """Return how much each row counts by the entropy H of its prediction: ``1 + exp(-H)``, scaled to mean 1.

    The entropy conditioning of CDAN (Long et al., NeurIPS 2018), taken up by MCC (Jin et al., ECCV 2020).

    Args:
        probabilities: ``(b, c)``, rows that sum to 1, float32 or float64.

    Returns:
        ``(b,)`` weights.

    Example:
        >>> certainty(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))  # 2 and 1.5, over their mean
        tensor([1.1429, 0.8571])
    """
    weights = 1 + torch.exp(-torch.special.entr(probabilities).sum(1))
    return weights / weights.mean()


def class_confusion(probabilities: Tensor) -> Tensor:
    r"""Return the mean share of class correlation that lies between different classes.

    .. math::
        C = P^\top W P, \qquad \mathrm{MCC} = \frac1c \sum_j \sum_{k \neq j} \frac{C_{jk}}{\sum_l C_{jl}}, \qquad
        W_{ii} = \frac{b\,(1 + e^{-H(p_i)})}{\sum_l (1 + e^{-H(p_l)})}

    Rows that are certain count more; no gradient flows through their weights W. It is 0 when every prediction is
    certain, and 1 - 1/c when every prediction is uniform. Jin et al., "Minimum Class Confusion for Versatile Domain
    Adaptation", ECCV 2020, eq. 3 to 6; the paper takes probabilities at temperature 2.5.

    Half precision is raised to float32.

    Args:
        probabilities: ``(b, c)``, rows that sum to 1.

    Returns:
        A scalar in float32, or float64 for float64 input.

    Raises:
        ConfigurationError: If the input is not a floating point matrix with a row and two columns at least.

    Example:
        >>> class_confusion(torch.eye(3))
        tensor(0.)
        >>> class_confusion(torch.full((4, 2), 0.5))
        tensor(0.5000)
    """
    p = check_probabilities(probabilities, "class_confusion")
    with autocast_off(p):
        correlation = p.T @ (p * certainty(p.detach())[:, None])
        rows = correlation.sum(1)
        # A class that no row gives any probability has a zero row, and shares nothing with any other.
        return ((rows - correlation.diagonal()) / rows.clamp(min=torch.finfo(p.dtype).tiny)).mean()
