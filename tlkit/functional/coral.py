"""Correlation alignment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tlkit.functional.samples import autocast_off, first_derivative_only, gram_matrix, two_samples

__all__ = ["coral"]


def coral(source: Tensor, target: Tensor) -> Tensor:
    r"""Return the CORAL loss, the squared distance between the covariances of two samples.

    .. math:: \frac{1}{4 d^2} \lVert C_s - C_t \rVert_F^2

    with unbiased covariances (divided by ``n - 1``) and the scale of the paper: Sun and Saenko, "Deep CORAL:
    Correlation Alignment for Deep Domain Adaptation", ECCV 2016. Other libraries leave out the 4, or add the distance
    of the means; this does neither.

    With fewer rows than features, ``n + m < d``, the covariances are never formed: the same value comes from the Gram
    matrices of the centred rows, in float64 (see :class:`_ThroughGram`). Half precision is raised to float32. First
    derivatives only.

    Args:
        source: ``(n, d)`` rows, n at least 2.
        target: ``(m, d)`` rows, m at least 2.

    Returns:
        A scalar in float32, or float64 for float64 input.

    Raises:
        ConfigurationError: If a side has one row (its covariance is undefined) or the samples do not fit.

    Example:
        >>> source = torch.tensor([[0.0, 0.0], [2.0, 0.0]])  # covariance [[2, 0], [0, 0]]
        >>> target = torch.tensor([[0.0, 1.0], [0.0, 5.0]])  # covariance [[0, 0], [0, 8]]
        >>> coral(source, target)  # (2^2 + 8^2) / 16
        tensor(4.2500)
    """
    source, target = two_samples(source, target, "coral", least=2)
    width = source.shape[1]
    # mps has no float64
    through_gram = len(source) + len(target) < width and source.device.type != "mps"
    with autocast_off(source):
        squared: Tensor = (_ThroughGram if through_gram else _ThroughCovariance).apply(source, target)
        return squared / (4 * width * width)


class _ThroughGram(torch.autograd.Function):
    r"""``||Cs - Ct||^2`` as ``||Xs Xs'||^2 / (n-1)^2 + ||Xt Xt'||^2 / (m-1)^2 - 2 ||Xs Xt'||^2 / ((n-1)(m-1))``.

    The sum cancels where the covariances are nearly equal: an error of ``eps * ||C||^2`` swamps the value once
    ``||Cs - Ct|| < sqrt(eps) * ||C||``. In float64 that is 1.5e-8 of ``||C||``, below the rounding of a float32
    covariance, so value and gradient are taken in float64 and no fallback is needed.
    """

    @staticmethod
    def forward(ctx: Any, source: Tensor, target: Tensor) -> Tensor:
        n, m = len(source), len(target)
        rows = torch.cat([source, target]).double()
        rows[:n] -= rows[:n].mean(0)
        rows[n:] -= rows[n:].mean(0)
        gram = gram_matrix(rows, n)
        signed = gram.clone()
        signed[:n, :n].div_((n - 1) ** 2)
        signed[n:, n:].div_((m - 1) ** 2)
        signed[:n, n:].div_(-(n - 1) * (m - 1))
        signed[n:, :n].div_(-(n - 1) * (m - 1))
        ctx.save_for_backward(rows, signed)
        ctx.split, ctx.dtype = n, source.dtype
        return gram.mul_(signed).sum().to(source.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        first_derivative_only("coral")
        rows, signed = ctx.saved_tensors
        with autocast_off(rows):
            both = (signed @ rows).mul_(4 * gradient).to(ctx.dtype)
        return both[: ctx.split], both[ctx.split :]


class _ThroughCovariance(torch.autograd.Function):
    """``||Cs - Ct||^2`` from the two covariances, subtracted entry by entry before they are squared."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, target: Tensor) -> Tensor:
        first, second = source - source.mean(0), target - target.mean(0)
        difference = (first.T @ first).div_(len(source) - 1)
        difference.addmm_(second.T, second, alpha=-1 / (len(target) - 1))
        ctx.save_for_backward(first, second, difference)
        return difference.square().sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        first_derivative_only("coral")
        first, second, difference = ctx.saved_tensors
        with autocast_off(first):
            scale = 4 * gradient
            return (
                (first @ difference).mul_(scale / (len(first) - 1)),
                (second @ difference).mul_(-scale / (len(second) - 1)),
            )
