"""Callbacks and logger of a run: model selection, clean stop, finite losses, throughput, progress, ``metrics.csv``."""

from tlkit.callbacks.finite import StopOnNonFinite
from tlkit.callbacks.interrupt import StopCleanly
from tlkit.callbacks.metrics_file import MetricsFile
from tlkit.callbacks.progress import ProgressBar
from tlkit.callbacks.selection import ModelSelection
from tlkit.callbacks.throughput import Throughput

__all__ = ["MetricsFile", "ModelSelection", "ProgressBar", "StopCleanly", "StopOnNonFinite", "Throughput"]
