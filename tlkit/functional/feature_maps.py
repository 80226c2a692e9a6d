"""The distance of two networks by what they compute."""

from __future__ import annotations

from torch import Tensor

from tlkit.errors import ConfigurationError
from tlkit.functional.samples import full_precision

__all__ = ["feature_map_distance"]


def feature_map_distance(maps: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Return the mean squared distance of the feature maps of two networks for the same rows.

    .. math:: \frac1b \sum_{i=1}^{b} \frac{1}{|F_i|} \lVert F(x_i) - F^0(x_i) \rVert_2^2

    where :math:`|F_i|` counts the numbers in the feature map of a row. It is a mean over rows of what depends on one
    row alone, so that the mean over equal parts of a batch is that of the batch. It is the behavioural regulariser of
    DELTA with the same attention :math:`1 / C` for each of ``C`` channels, divided by the number of positions so that
    layers and input sizes are comparable: Li et al., "DELTA: Deep Learning Transfer using Feature Map with Attention
    for Convolutional Networks", ICLR 2019. Half precision is raised to float32.

    Args:
        maps: ``(b, ...)``, feature maps ``(b, C, H, W)``, hidden states ``(b, T, C)`` or features ``(b, C)``.
        reference: The same of the other network.
        mask: ``(b, T)``, 1 at the positions of ``(b, T, C)`` that count; None counts all.

    Returns:
        A scalar in float32, or float64 for float64 input.

    Raises:
        ConfigurationError: If the shapes differ.

    Example:
        >>> import torch
        >>> feature_map_distance(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2))
        tensor(1.2500)
    """
    if maps.shape != reference.shape or maps.dim() < 2:
        raise ConfigurationError(
            "feature_map_distance(maps, reference) takes two tensors of the same shape (rows, ...), got "
            f"{tuple(maps.shape)} and {tuple(reference.shape)}"
        )
    squares = (full_precision(maps) - full_precision(reference)).square()
    if mask is None:
        return squares.mean()
    if maps.dim() != 3 or mask.shape != maps.shape[:2]:
        raise ConfigurationError(
            f"feature_map_distance(mask=...) of shape {tuple(mask.shape)} does not fit maps of {tuple(maps.shape)}"
        )
    weight = mask.to(squares.dtype)
    rows = (squares.mean(dim=2) * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
    return rows.mean()
