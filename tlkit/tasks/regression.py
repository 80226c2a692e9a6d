"""Regression: measured values, such as a position in metres."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tlkit.errors import ConfigurationError, unknown
from tlkit.metrics import PositioningError
from tlkit.tasks.base import Task
from tlkit.types import DataSpec

__all__ = ["Regression", "RegressionLoss", "check_quantities"]

RegressionLoss = Literal["smooth_l1", "mse", "l1", "euclidean"]

# Columns that predictions have besides the quantities.
_TAKEN = ("index", "domain", "name")


class Regression(Task):
    r"""A linear layer on the features whose outputs are the quantities that the data names, in their own units.

    The output is :math:`\hat y = s \odot (W f + b) + c` with centre ``c`` and scale ``s``, mean and standard deviation
    of each quantity over the labelled training rows, which are buffers. Losses are on standardised values, so that
    their size and the best learning rate do not depend on the unit:

    - ``"smooth_l1"``, ``"mse"`` and ``"l1"``: over :math:`(\hat y - y) / s`, mean over rows and quantities.
      ``smooth_l1`` turns from squared to absolute at one standard deviation, so that a wrong label does not lead.
    - ``"euclidean"``: mean over rows of :math:`\lVert \hat y - y \rVert_2 / \bar s`, where :math:`\bar s` is the root
      mean square of ``s``: what ``error_mean`` measures, for quantities that share a unit.

    The default loss is that of Girshick (ICCV 2015).

    Metrics are those of :class:`tlkit.metrics.PositioningError`: ``error_mean``, ``error_median``, ``error_p75`` and
    ``error_p95`` of the Euclidean distance over the quantities, the absolute error of a single one. There are no
    probabilities, so losses that need them are refused.

    Args:
        loss: What is minimised on labelled rows.

    Raises:
        ConfigurationError: If ``loss`` is unknown, or in ``build`` if the data has no quantities.

    Example:
        >>> task = Regression()
        >>> data = DataSpec(("a",), ("a",), (), quantities=("x_m", "y_m"), centre=(50.0, 20.0), scale=(10.0, 5.0))
        >>> task.build(8, data)
        >>> {name: values.shape for name, values in task.predict(task(torch.zeros(3, 8))).items()}
        {'x_m': torch.Size([3]), 'y_m': torch.Size([3])}
    """

    selection_metric = "error_mean"
    selection_mode = "min"
    centre: Tensor
    scale: Tensor

    def __init__(self, loss: RegressionLoss = "smooth_l1") -> None:
        super().__init__()
        if loss not in get_args(RegressionLoss):
            raise ConfigurationError(f"Regression: {unknown('loss', loss, get_args(RegressionLoss))}")
        self.kind = loss

    def build(self, num_features: int, data: DataSpec) -> None:
        """Create the linear layer ``num_features -> len(data.quantities)`` and keep centre and scale."""
        check_quantities(self, data)
        self.quantities = data.quantities
        self.num_outputs = len(data.quantities)
        self.register_buffer("centre", torch.tensor(data.centre or [0.0] * self.num_outputs))
        self.register_buffer("scale", torch.tensor(data.scale or [1.0] * self.num_outputs))
        self.head = nn.Linear(num_features, self.num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(B, K)`` values in the labels' units."""
        standardised: Tensor = self.head(features)
        return standardised * self.scale + self.centre

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the loss of ``(B, K)`` outputs and ``(B, K)`` labels, or ``(B,)`` of a single quantity."""
        difference = outputs - y.reshape(outputs.shape).to(outputs.dtype)
        if self.kind == "euclidean":
            distance: Tensor = torch.linalg.vector_norm(difference, dim=1).mean()
            return distance / self.scale.square().mean().sqrt()
        standardised = difference / self.scale
        if self.kind == "mse":
            return standardised.square().mean()
        if self.kind == "l1":
            return standardised.abs().mean()
        return nn.functional.smooth_l1_loss(standardised, torch.zeros_like(standardised))

    def metrics(self) -> MetricCollection:
        """Return ``error_mean``, ``error_median``, ``error_p75`` and ``error_p95``."""
        return MetricCollection({"error": PositioningError()})

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        """Return a column a quantity, ``(B,)`` each, under its name."""
        return dict(zip(self.quantities, outputs.float().unbind(1), strict=True))


def check_quantities(task: Task, data: DataSpec) -> None:
    """Refuse data without measured values, or with a name that predictions cannot have as a column.

    Raises:
        ConfigurationError: In words that say what to do.
    """
    if not data.quantities:
        raise ConfigurationError(
            f"{type(task).__name__} needs data whose labels are measured values, but the data module names no "
            f"`quantities` (its classes are {list(data.classes) or 'none'}): set its label, or use Classification"
        )
    if taken := sorted(set(data.quantities) & set(_TAKEN)):
        raise ConfigurationError(f"a quantity cannot be called {taken[0]!r}: predictions have a column of that name")
