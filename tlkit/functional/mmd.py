"""The maximum mean discrepancy with several Gaussian kernels."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tlkit.errors import ConfigurationError, unknown
from tlkit.functional.samples import autocast_off, first_derivative_only, gram_matrix, two_samples

__all__ = ["Estimator", "check_kernels", "mmd"]

Estimator = Literal["biased", "unbiased", "linear"]

# The narrowest kernel is the widest one raised to 2^(num_kernels - 1), which multiplies its rounding error as much: by
# 256 at the most here, so that float32 still keeps five digits.
MOST_KERNELS = 9


def mmd(
    source: Tensor,
    target: Tensor,
    *,
    estimator: Estimator = "biased",
    num_kernels: int = 5,
    bandwidth: float | None = None,
) -> Tensor:
    r"""Return the squared maximum mean discrepancy between two samples, with a sum of Gaussian kernels.

    .. math::
        \mathrm{MMD}^2 = \mathrm{E}\,k(x, x') + \mathrm{E}\,k(y, y') - 2\,\mathrm{E}\,k(x, y), \qquad
        k(a, b) = \sum_j \exp\!\left(-\frac{\lVert a - b \rVert^2}{2^j s}\right)

    The kernels are summed, each with weight 1, as in DAN (Long et al., "Learning Transferable Features with Deep
    Adaptation Networks", ICML 2015) and its released code: with five kernels the value lies below 10. The exponents
    ``j`` are ``num_kernels`` consecutive integers centred on 0 (-2 to 2 for five). Unless given, ``s`` is the mean
    squared distance over all pairs of different rows of the pooled sample; no gradient flows through it.

    The estimators are those of Gretton et al., "A Kernel Two-Sample Test", JMLR 2012:

    - ``"biased"``: the V-statistic (eq. 5), means over all pairs, a row with itself included. Never below 0 (but for
      rounding), 0 for identical samples, and above 0 on average for two samples of one distribution.
    - ``"unbiased"``: the U-statistic (eq. 3), without the pairs of a row with itself. Its mean is 0 for two samples of
      one distribution (for a given ``s``), so that it can be negative.
    - ``"linear"``: the linear-time estimate (lemma 14), a mean over consecutive pairs of rows. Unbiased, cheap, and
      noisy. It uses as many pairs as the smaller side holds; rows must be in random order.

    Half precision is raised to float32. The first two take memory of the order of ``(n + m)^2`` and give first
    derivatives only.

    Args:
        source: ``(n, d)`` rows.
        target: ``(m, d)`` rows; ``m`` may differ from ``n``.
        estimator: ``"biased"``, ``"unbiased"`` or ``"linear"``; the last two need two rows a side.
        num_kernels: An odd number from 1 to 9.
        bandwidth: ``s``, in units of squared distance; ``None`` takes it from the samples, floored at the square of the
            machine epsilon, so that constant features give 0.

    Returns:
        A scalar in float32, or float64 for float64 input.

    Raises:
        ConfigurationError: If an argument is not one of those allowed or the samples do not fit.

    Example:
        >>> source, target = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]])
        >>> mmd(source, target, num_kernels=1, bandwidth=1.0)  # (1 + e^-4) - (3 e^-1 + e^-9) / 2
        tensor(0.4664)
        >>> mmd(source, target, estimator="unbiased", num_kernels=1, bandwidth=1.0)  # 2 e^-4 - the same
        tensor(-0.5152)
    """
    check_kernels(estimator, num_kernels, bandwidth)
    source, target = two_samples(source, target, "mmd", least=1 if estimator == "biased" else 2)
    with autocast_off(source):
        if estimator == "linear":
            return _linear(source, target, num_kernels, bandwidth)
        result: Tensor = _Quadratic.apply(source, target, num_kernels, bandwidth, estimator == "unbiased")
        return result


def check_kernels(estimator: str, num_kernels: int, bandwidth: float | None) -> None:
    """Raise a :class:`~tlkit.errors.ConfigurationError` unless :func:`mmd` takes these arguments."""
    if estimator not in get_args(Estimator):
        raise ConfigurationError(unknown("estimator of mmd", str(estimator), get_args(Estimator)))
    if num_kernels not in range(1, MOST_KERNELS + 1, 2):
        raise ConfigurationError(
            f"mmd(num_kernels=...) is an odd number from 1 to {MOST_KERNELS}, got {num_kernels}: the bandwidths are "
            "powers of two centred on 1"
        )
    if bandwidth is not None and not 0 < bandwidth < float("inf"):
        raise ConfigurationError(
            f"mmd(bandwidth=...) is a positive squared distance, got {bandwidth}: leave it out to take the mean "
            "squared distance of the samples"
        )


def _centred(source: Tensor, target: Tensor) -> Tensor:
    """Pool and centre the rows: distances stay, but a common offset no longer cancels in the Gram matrix."""
    pooled = torch.cat([source, target])
    pooled -= pooled[0].clone()  # exact for rows that are nearly equal, so constant features become exactly 0
    pooled -= pooled.mean(0)
    return pooled


def _widest(square_sum: Tensor, rows: int, num_kernels: int, bandwidth: float | None) -> Tensor:
    """Return the largest bandwidth, from the sum of the squared norms of the centred rows.

    For centred rows the squared distances over all pairs sum to ``2 * rows * square_sum``.
    """
    if bandwidth is None:
        base = (2.0 / (rows - 1) * square_sum).clamp(min=torch.finfo(square_sum.dtype).eps ** 2)
    else:
        base = torch.full_like(square_sum, bandwidth)
    return base * 2.0 ** (num_kernels // 2)


class _Quadratic(torch.autograd.Function):
    """The V- and U-statistic with their gradient worked out in the forward pass.

    With ``u = exp(-D / widest)`` the kernels are ``u, u^2, u^4, ...``: one exponential, then squaring. Likewise
    ``dk/dD = -(u + 2 u^2 + 4 u^4 + ...) / widest``, and the gradient of ``sum_ij W_ij k(D_ij)`` in row i is
    ``4 sum_j W_ij k'(D_ij) (x_i - x_j)``, a graph Laplacian times the rows: one matrix product.
    """

    @staticmethod
    def forward(
        ctx: Any, source: Tensor, target: Tensor, num_kernels: int, bandwidth: float | None, unbiased: bool
    ) -> Tensor:
        n, m = len(source), len(target)
        rows = _centred(source, target)
        power = gram_matrix(rows, n)
        half = power.diagonal() / 2
        widest = _widest(2 * half.sum(), n + m, num_kernels, bandwidth)
        # in place from the Gram matrix to -distance / widest to the widest kernel; the diagonal is exactly 0, then 1
        power.sub_(half[:, None]).sub_(half).clamp_(max=0).mul_(2 / widest).exp_()

        kernel = power.clone()
        slope = power.clone() if any(ctx.needs_input_grad[:2]) else None
        for j in range(1, num_kernels):
            power.mul_(power)
            kernel.add_(power)
            if slope is not None:
                slope.add_(power, alpha=2.0**j)

        if unbiased:
            kernel.fill_diagonal_(0)
        pairs = n * (n - 1 if unbiased else n), m * (m - 1 if unbiased else m), n * m
        within = kernel[:n, :n].sum() / pairs[0] + kernel[n:, n:].sum() / pairs[1]
        value = within - 2 / pairs[2] * kernel[:n, n:].sum()

        if slope is not None:
            slope[:n, :n].div_(pairs[0])
            slope[n:, n:].div_(pairs[1])
            slope[:n, n:].div_(-pairs[2])
            slope[n:, :n].div_(-pairs[2])
            slope.fill_diagonal_(0)
            slope.diagonal().copy_(-slope.sum(1))
            ctx.save_for_backward(rows, slope, widest)
            ctx.split = n
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        first_derivative_only("mmd")
        rows, laplacian, widest = ctx.saved_tensors
        with autocast_off(rows):
            scale = 4 * gradient / widest
            if all(ctx.needs_input_grad[:2]):
                both = (laplacian @ rows).mul_(scale)
                return both[: ctx.split], both[ctx.split :], None, None, None
            sides = (laplacian[: ctx.split], laplacian[ctx.split :])
            first, second = (
                (side @ rows).mul_(scale) if needed else None
                for side, needed in zip(sides, ctx.needs_input_grad[:2], strict=True)
            )
            return first, second, None, None, None


def _linear(source: Tensor, target: Tensor, num_kernels: int, bandwidth: float | None) -> Tensor:
    with torch.no_grad():
        rows = _centred(source, target)
        widest = _widest(rows.square().sum(), len(rows), num_kernels, bandwidth)

    used = min(len(source), len(target)) // 2 * 2
    x, x_next, y, y_next = source[0:used:2], source[1:used:2], target[0:used:2], target[1:used:2]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        power = torch.exp(-(a - b).square().sum(1) / widest)
        total = power
        for _ in range(1, num_kernels):
            power = power.square()
            total = total + power
        return total

    return (kernel(x, x_next) + kernel(y, y_next) - kernel(x, y_next) - kernel(x_next, y)).mean()
