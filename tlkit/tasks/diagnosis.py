"""Diagnosis: classification in which some classes are a finding that must not be missed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from tlkit.errors import ConfigurationError, unknown
from tlkit.metrics import DiagnosisIntervals, DiagnosisScores, DiagnosisThreshold
from tlkit.metrics.diagnosis import log_odds
from tlkit.notes import say
from tlkit.tasks.base import Task
from tlkit.tasks.classification import Classification
from tlkit.types import DataSpec

__all__ = ["Diagnosis"]


class Diagnosis(Classification):
    """Classification, and how well the classes that are a finding are told from the others.

    Training is that of :class:`Classification`. Its metrics are joined by ``auroc``, ``sensitivity`` and
    ``specificity`` (:class:`tlkit.metrics.DiagnosisScores`) of the finding against all other classes. The decision
    threshold is chosen on the sources' validation rows at every validation of a training and saved with the model, so
    that test rows and sealed labels decide nothing; before the first validation, and where one holds no row to choose
    it by, it stays as it is, at first a probability of one half. ``accuracy`` and ``macro_f1`` do not depend on it:
    they are of the most probable class. A test adds to the recall of each class 95% bootstrap intervals
    (:class:`tlkit.metrics.DiagnosisIntervals`).

    A checkpoint is chosen by ``auroc`` (Hanley and McNeil, Radiology 1982) on source validation.

    Args:
        positive: Names of the classes that are the finding.
        at_sensitivity: The threshold is the highest that finds at least this share of the finding on the sources'
            validation rows; None is the one with the highest sum of sensitivity and specificity.
        label_smoothing: As in :class:`Classification`.
        class_weights: As in :class:`Classification`.

    Raises:
        ConfigurationError: If ``at_sensitivity`` is outside (0, 1], or in ``build`` if ``positive`` names no class, one
            that the data has not, or all of them.

    Example:
        >>> task = Diagnosis(positive=["CNV", "DME"])
        >>> task.build(8, DataSpec(("oct",), ("oct",), (), classes=("CNV", "DME", "DRUSEN", "NORMAL")))
        >>> sorted(task.predict(task(torch.randn(5, 8))))
        ['finding', 'finding_probability', 'prediction', 'probabilities']
    """

    selection_metric = "auroc"
    threshold: Tensor

    def __init__(
        self,
        positive: list[str],
        at_sensitivity: float | None = 0.95,
        label_smoothing: float = 0.0,
        class_weights: Literal["none", "balanced"] = "none",
    ) -> None:
        super().__init__(label_smoothing, class_weights)
        if at_sensitivity is not None and not 0 < at_sensitivity <= 1:
            raise ConfigurationError(f"at_sensitivity lies above 0 and at most at 1, or is null; got {at_sensitivity}")
        self.positive, self.at_sensitivity = list(positive), at_sensitivity
        self.register_buffer("threshold", torch.zeros(()))  # in log-odds

    def build(self, num_features: int, data: DataSpec) -> None:
        """Create the linear layer, and look the classes of the finding up."""
        super().build(num_features, data)
        if not data.sources:
            say(
                "Diagnosis chooses its threshold on the validation rows of sources, and there are none: whatever "
                "at_sensitivity says, it stays as it is, a probability of one half in a new model. That is where "
                "sensitivity and specificity are taken; auroc needs no threshold"
            )
        for name in self.positive:
            if name not in data.classes:
                raise ConfigurationError(f"Diagnosis(positive=...): {unknown('class', name, data.classes)}")
        self._findings = [number for number, name in enumerate(data.classes) if name in self.positive]
        if not 0 < len(self._findings) < data.num_classes:
            raise ConfigurationError(
                f"Diagnosis(positive=...) names the classes that are the finding, some of {', '.join(data.classes)}; "
                f"got {'all of them' if self._findings else 'none'}"
            )

    def take_over(self, trained: Task, keep: Collection[str] = ()) -> bool:
        """Take over the linear layer, and the threshold if it is of the same finding."""
        same = isinstance(trained, Diagnosis) and set(trained.positive) == set(self.positive)
        return super().take_over(trained, keep if same else [*keep, "threshold"])

    def metrics(self) -> MetricCollection:
        """Return the metrics of a classification and those of the finding."""
        metrics = super().metrics()
        metrics.add_metrics({"diagnosis": DiagnosisScores(self._findings, self._decided)})
        return metrics

    def _decided(self) -> Tensor:
        """Return the threshold as it is now; unlike a lambda, a copy of the task has its own."""
        return self.threshold

    def batch_metrics(self) -> MetricCollection:
        """Return the metrics of a classification: a batch has too few rows for a curve."""
        return super().metrics()

    def test_metrics(self) -> MetricCollection:
        """Return those of a classification and the intervals."""
        metrics = super().test_metrics()
        metrics.add_metrics({"intervals": DiagnosisIntervals(self._findings, self._decided)})
        return metrics

    def calibration_metric(self) -> Metric:
        """Return the metric that chooses the threshold."""
        return DiagnosisThreshold(self._findings, self.at_sensitivity)

    def calibrate(self, value: Tensor) -> None:
        """Take over the threshold, unless there was no row to choose it by (a trial validation of few batches)."""
        value = value.to(self.threshold.device)
        rounded = value.to(self.threshold.dtype)
        # Half precision must not round it up, past the row that it was chosen at.
        below = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
        rounded = torch.where(rounded.to(value.dtype) > value, below, rounded)
        self.threshold.copy_(torch.where(value.isnan(), self.threshold, rounded))

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        """Return what a classification does, ``finding_probability``, and ``finding``, 1 where it is found."""
        score = log_odds(outputs, self._findings)
        found = (score >= self.threshold.to(score)).long()
        return {**super().predict(outputs), "finding_probability": score.sigmoid(), "finding": found}
