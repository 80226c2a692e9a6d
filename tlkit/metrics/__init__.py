"""Metrics that torchmetrics lacks."""

from tlkit.metrics.diagnosis import DiagnosisIntervals, DiagnosisScores, DiagnosisThreshold
from tlkit.metrics.domains import DomainMetrics
from tlkit.metrics.positioning import PositioningError
from tlkit.metrics.recall import ClassRecall
from tlkit.metrics.retrieval import HashRetrieval
from tlkit.metrics.selection import MutualInformation

__all__ = [
    "ClassRecall",
    "DiagnosisIntervals",
    "DiagnosisScores",
    "DiagnosisThreshold",
    "DomainMetrics",
    "HashRetrieval",
    "MutualInformation",
    "PositioningError",
]
