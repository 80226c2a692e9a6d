"""Metrics that torchmetrics lacks."""

from tlkit.metrics.domains import DomainMetrics
from tlkit.metrics.selection import MutualInformation

__all__ = ["DomainMetrics", "MutualInformation"]
