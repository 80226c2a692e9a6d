"""How far positions are from where they should be."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

__all__ = ["PositioningError"]


class PositioningError(Metric):
    r"""Euclidean distance :math:`e_i = \lVert \hat y_i - y_i \rVert_2` of positions: mean and percentiles over rows.

    ``compute`` returns ``error_mean``, ``error_median``, ``error_p75`` and ``error_p95``, in the unit of the positions.
    The q-th percentile lies at rank :math:`1 + (n - 1) q / 100` of the n errors in ascending order, on the straight
    line between its two neighbours (numpy's default, type 7 of Hyndman and Fan, The American Statistician 1996), so
    that the median of two errors is their mean. Of a single quantity, :math:`e_i` is the absolute error.

    Shape:
        ``(B, K)`` outputs and positions; ``(B,)`` is one quantity.

    Example:
        >>> import torch
        >>> metric = PositioningError()
        >>> metric.update(torch.zeros(3, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]]))
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}
        {'error_mean': 2.0, 'error_median': 1.0, 'error_p75': 3.0, 'error_p95': 4.6}
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    errors: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("errors", [], dist_reduce_fx="cat")

    def update(self, outputs: Tensor, y: Tensor) -> None:
        """Add a batch of estimated positions and the true ones."""
        # Far from the origin the difference of two float32 costs centimetres; a single quantity may lack its column.
        difference = outputs.detach().double() - y.double().reshape(outputs.shape)
        self.errors.append(difference.reshape(len(y), -1).norm(dim=1).float())

    def compute(self) -> dict[str, Tensor]:
        """Return the mean and the percentiles over all rows."""
        errors = dim_zero_cat(self.errors)
        shares = errors.new_tensor([0.5, 0.75, 0.95])
        ordered, place = errors.sort().values, shares * (len(errors) - 1)  # torch.quantile stops at 16 million rows
        below, above = place.floor().long(), place.ceil().long()
        median, p75, p95 = torch.lerp(ordered[below], ordered[above], place - below)
        return {"error_mean": errors.mean(), "error_median": median, "error_p75": p75, "error_p95": p95}
