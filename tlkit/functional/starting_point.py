"""How far parameters are from where they started."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tlkit.functional.samples import full_precision

__all__ = ["l2_sp"]


def l2_sp(parameters: Sequence[Tensor], start: Tensor) -> Tensor:
    r"""Return half the squared distance of parameters from their starting point.

    .. math:: \tfrac12 \lVert w - w^0 \rVert_2^2

    The sum is over all numbers in all parameters, not their mean: the penalty of Li et al., "Explicit Inductive Bias
    for Transfer Learning with Convolutional Networks", ICML 2018, without its factor :math:`\alpha`. Half precision is
    raised to float32.

    Args:
        parameters: Tensors of any shapes with ``n`` numbers in all.
        start: ``(n,)``, the starting values in the order of the parameters, each flattened.

    Returns:
        A scalar in float32, or float64 for float64 parameters.

    Example:
        >>> l2_sp([torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])], torch.tensor([1.0, 0.0, 0.0]))
        tensor(6.5000)
    """
    moved = torch.cat([full_precision(parameter).flatten() for parameter in parameters]) - full_precision(start)
    return moved.square().sum() / 2
