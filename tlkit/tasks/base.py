"""The contract of a task."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from tlkit.errors import ConfigurationError, ContractError
from tlkit.types import DataSpec

__all__ = ["Task"]


class Task(nn.Module):
    """A head, its supervised loss, its metrics and its predictions. A task knows nothing of domains.

    Attributes:
        num_outputs: Width of what ``forward`` returns; set by ``build``.
        needs_reference: Whether the task is evaluated against the sources' training rows (the data base of a retrieval
            task): they are then encoded before every evaluation and given to ``refer``. Class attribute.
        has_probabilities: Whether ``probabilities`` is defined. Class attribute.
        selection_metric: The metric that a checkpoint is chosen by on labelled source validation data. Class attribute.
        selection_mode: Whether its best value is the highest or the lowest. Class attribute.
        label_free_score: The one of ``label_free_metrics`` to choose a checkpoint by, higher is better; None if there
            is none. Class attribute.
    """

    num_outputs: int
    needs_reference: bool = False
    has_probabilities: bool = False
    selection_metric: str
    selection_mode: Literal["max", "min"] = "max"
    label_free_score: str | None = None

    def build(self, num_features: int, data: DataSpec) -> None:
        """Create the head for features of width ``num_features``. Called once; must set ``num_outputs``."""
        raise ContractError(f"{type(self).__name__} must define build(num_features, data)")

    def learn_from(self, data: DataSpec) -> None:
        """Take over what follows from the labelled training rows, before each training of a built task.

        Raises:
            ConfigurationError: If the head cannot be trained on these labels.
        """

    def take_over(self, trained: Task, keep: Collection[str] = ()) -> bool:
        """Take over the head of a trained task that was built for the same classes or quantities; both are built.

        Args:
            trained: The trained task.
            keep: Buffers that stay as ``build`` has made them: what this run's labelled rows or arguments say.

        Returns:
            Whether it could: not if neither task is of the other's kind, or their layers have other shapes.
        """
        if not (isinstance(trained, type(self)) or isinstance(self, type(trained))):
            return False
        old, new = trained.state_dict(), {name: value for name, value in self.state_dict().items() if name not in keep}
        layers = [{name: each.shape for name, each in task.named_parameters()} for task in (trained, self)]
        if layers[0] != layers[1] or any(_shape(value) != _shape(old.get(name)) for name, value in new.items()):
            return False
        self.load_state_dict({name: old[name] for name in new}, strict=False)
        return True

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, num_features)`` features to ``(B, num_outputs)`` outputs."""
        raise ContractError(f"{type(self).__name__} must define forward(features)")

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the supervised loss, a mean over rows."""
        raise ContractError(f"{type(self).__name__} must define loss(outputs, y)")

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Map outputs to ``(B, num_probabilities)`` probabilities, for the losses that need them."""
        raise ConfigurationError(f"the task {type(self).__name__} has no probabilities")

    @property
    def num_probabilities(self) -> int:
        """Width of what ``probabilities`` returns."""
        return self.num_outputs

    def metrics(self) -> MetricCollection:
        """Return new metrics, updated with ``(outputs, y)``."""
        raise ContractError(f"{type(self).__name__} must define metrics()")

    def batch_metrics(self) -> MetricCollection:
        """Return new metrics for the log of single training batches: ``metrics``, unless a batch is too little."""
        return self.metrics()

    def test_metrics(self) -> MetricCollection | None:
        """Return new metrics for test rows, besides ``metrics``: what is too slow for every validation; or None."""
        return None

    def label_free_metrics(self) -> MetricCollection | None:
        """Return new metrics updated with ``(outputs,)`` alone, to choose a checkpoint without labels; or None."""
        return None

    def calibration_metric(self) -> Metric | None:
        """Return a new metric for ``calibrate``, updated with ``(outputs, y)`` of source validation rows; or None.

        What is chosen on validation data, such as a decision threshold, is chosen this way: before the checkpoint of
        that validation is written, and never on test rows or on a target's sealed labels.
        """
        return None

    def calibrate(self, value: Tensor) -> None:
        """Take over the value of ``calibration_metric``; what is kept must be a buffer, so that checkpoints hold it."""

    def refer(self, outputs: Tensor, y: Tensor) -> None:
        """Take over the outputs and labels of all reference rows, the same on every rank (``needs_reference``)."""

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        """Return what a user wants to see of the outputs, one row a sample."""
        return {"outputs": outputs}


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None
