"""Classification: one label a sample out of the classes that the data names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from tlkit.errors import ConfigurationError
from tlkit.metrics import ClassRecall, MutualInformation
from tlkit.tasks.base import Task
from tlkit.types import DataSpec

__all__ = ["Classification"]


class Classification(Task):
    """A linear layer on the features and cross-entropy; the number of classes comes from the data.

    Metrics, by torchmetrics (Detlefsen et al., JOSS 2022), are ``accuracy`` (share of all rows that are right) and
    ``macro_f1`` (mean over classes). A test adds ``mean_class_accuracy`` and the recall of each class that has rows,
    ``recall/<class>`` (:class:`tlkit.metrics.ClassRecall`). Without labels: ``mutual_information``
    (:class:`tlkit.metrics.MutualInformation`).

    Args:
        label_smoothing: Share of the target probability spread evenly over all classes, in [0, 1)
            (Szegedy et al., CVPR 2016).
        class_weights: ``"balanced"`` lets every class weigh the same in the loss: a row counts by how rare its class is
            among the labelled training rows, with mean 1 over them.

    Raises:
        ConfigurationError: If ``label_smoothing`` is outside [0, 1) or ``class_weights`` unknown, or in ``build`` if
            the data has fewer than two classes, or does not know how many rows each has where that is needed.

    Example:
        >>> import torch
        >>> from tlkit.types import DataSpec
        >>> task = Classification()
        >>> task.build(8, DataSpec(("a", "b"), ("a",), ("b",), classes=("cat", "dog", "owl")))
        >>> task(torch.zeros(5, 8)).shape
        torch.Size([5, 3])
    """

    has_probabilities = True
    selection_metric = "accuracy"
    selection_mode = "max"
    label_free_score = "mutual_information"

    row_weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, class_weights: Literal["none", "balanced"] = "none") -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ConfigurationError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        if class_weights not in ("none", "balanced"):
            raise ConfigurationError(f"class_weights must be 'none' or 'balanced', got {class_weights!r}")
        self.label_smoothing, self.class_weights = label_smoothing, class_weights
        self.register_buffer("row_weights", None)

    def build(self, num_features: int, data: DataSpec) -> None:
        """Create the linear layer ``num_features -> data.num_classes``."""
        if data.num_classes < 2:
            raise ConfigurationError(
                f"Classification needs data with at least two classes, but the data module names "
                f"{list(data.classes) or 'none'}: set its `classes`, or use another task"
            )
        if self.class_weights == "balanced":
            self.row_weights = _balanced(data)
        self.num_outputs, self._classes = data.num_classes, data.classes
        self.head = nn.Linear(num_features, data.num_classes)

    def learn_from(self, data: DataSpec) -> None:
        """Weigh the classes by the rows of this training."""
        if self.row_weights is not None and data.class_counts:
            self.row_weights.copy_(_balanced(data))

    def take_over(self, trained: Task, keep: Collection[str] = ()) -> bool:
        """Take over the linear layer; what the classes weigh follows from the rows of this run."""
        return super().take_over(trained, [*keep, "row_weights"])

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(B, num_classes)`` logits."""
        logits: Tensor = self.head(features)
        return logits

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean over rows of the (weighted) cross-entropy of ``(B, num_classes)`` logits and ``(B,)`` labels.

        It is not divided by the weights of the batch, which would make it another loss on several ranks.
        """
        if self.row_weights is None:
            return nn.functional.cross_entropy(outputs, y, label_smoothing=self.label_smoothing)
        rows = nn.functional.cross_entropy(outputs, y, label_smoothing=self.label_smoothing, reduction="none")
        return (rows * self.row_weights[y]).mean()

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return the softmax of the logits."""
        return outputs.softmax(dim=1)

    def metrics(self) -> MetricCollection:
        """Return ``accuracy`` and ``macro_f1``."""
        # validate_args looks for values out of range in every batch, which waits for the GPU; data checks its labels.
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(self.num_outputs, average="micro", validate_args=False),
                "macro_f1": MulticlassF1Score(self.num_outputs, average="macro", validate_args=False),
            }
        )

    def test_metrics(self) -> MetricCollection:
        """Return the recall of each class and their mean: too many values for every validation."""
        return MetricCollection({"recall": ClassRecall(self._classes)})

    def label_free_metrics(self) -> MetricCollection:
        """Return ``mutual_information``."""
        return MetricCollection({"mutual_information": MutualInformation(self.num_outputs)})

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        """Return ``prediction``, ``(B,)`` class indices, and ``probabilities``, ``(B, num_classes)``."""
        probabilities = self.probabilities(outputs.float())
        return {"prediction": probabilities.argmax(dim=1), "probabilities": probabilities}


def _balanced(data: DataSpec) -> Tensor:
    """Return the weight of a row of each class: as many rows as a class would have on average over those it has."""
    counts = torch.tensor(data.class_counts, dtype=torch.float32)
    if len(counts) == 0:
        raise ConfigurationError(
            "class_weights: balanced needs the number of training rows of each class, and the data module does not "
            "know it: let its dataset() take rows from self.split(domain, y), or set class_weights: none"
        )
    there = counts > 0
    return torch.where(there, counts.sum() / (there.sum() * counts.clamp(min=1)), 0.0)
