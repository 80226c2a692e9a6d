"""Gradient reversal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["gradient_reversal"]


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, coefficient: float) -> Tensor:
        ctx.coefficient = coefficient
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return gradients[0] * -ctx.coefficient, None


def gradient_reversal(x: Tensor, coefficient: float = 1.0) -> Tensor:
    r"""Return ``x`` unchanged; on the way back multiply the gradient by ``-coefficient``.

    A discriminator behind it descends on its loss while whatever produced ``x`` ascends, with one optimizer.
    Ganin and Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015.

    Args:
        x: A tensor of any shape and floating point type.
        coefficient: Scale of the reversed gradient. At 0 the gradient is zero, not absent.

    Returns:
        A tensor equal to ``x``.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> gradient_reversal(3 * x, 0.5).sum().backward()
        >>> x.grad
        tensor([-1.5000, -1.5000])
    """
    result: Tensor = _Reverse.apply(x, float(coefficient))
    return result
