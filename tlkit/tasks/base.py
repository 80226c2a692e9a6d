"""The contract of a task."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torchmetrics import MetricCollection

from tlkit.errors import ConfigurationError
from tlkit.types import DataSpec

__all__ = ["Task"]


class Task(nn.Module):
    """A head, its supervised loss, its metrics and its predictions. A task knows nothing of domains.

    Attributes:
        num_outputs: Width of what ``forward`` returns; set by ``build``.
        has_probabilities: Whether ``probabilities`` is defined. Class attribute.
        selection_metric: The metric that a checkpoint is chosen by on labelled source validation data. Class attribute.
        selection_mode: Whether its best value is the highest or the lowest. Class attribute.
        label_free_score: The one of ``label_free_metrics`` to choose a checkpoint by, higher is better; None if there
            is none. Class attribute.
    """

    num_outputs: int
    has_probabilities: bool = False
    selection_metric: str
    selection_mode: Literal["max", "min"] = "max"
    label_free_score: str | None = None

    def build(self, num_features: int, data: DataSpec) -> None:
        """Create the head for features of width ``num_features``. Called once; must set ``num_outputs``."""
        raise TypeError(f"{type(self).__name__} must define build(num_features, data)")

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, num_features)`` features to ``(B, num_outputs)`` outputs."""
        raise TypeError(f"{type(self).__name__} must define forward(features)")

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the supervised loss, a mean over rows."""
        raise TypeError(f"{type(self).__name__} must define loss(outputs, y)")

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Map outputs to ``(B, num_outputs)`` probabilities, for the losses that need them."""
        raise ConfigurationError(f"the task {type(self).__name__} has no probabilities")

    def metrics(self) -> MetricCollection:
        """Return new metrics, updated with ``(outputs, y)``."""
        raise TypeError(f"{type(self).__name__} must define metrics()")

    def label_free_metrics(self) -> MetricCollection | None:
        """Return new metrics updated with ``(outputs,)`` alone, to choose a checkpoint without labels; or None."""
        return None

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        """Return what a user wants to see of the outputs, one row a sample."""
        return {"outputs": outputs}
