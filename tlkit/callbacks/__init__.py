"""Callbacks and the logger of a run: what the command adds to a trainer, and a backbone that is compiled."""

from tlkit.callbacks.compiled import CompileBackbone
from tlkit.callbacks.finite import StopOnNonFinite
from tlkit.callbacks.interrupt import StopCleanly
from tlkit.callbacks.metrics_file import MetricsFile
from tlkit.callbacks.progress import ProgressBar
from tlkit.callbacks.selection import ModelSelection
from tlkit.callbacks.throughput import Throughput

__all__ = [
    "CompileBackbone",
    "MetricsFile",
    "ModelSelection",
    "ProgressBar",
    "StopCleanly",
    "StopOnNonFinite",
    "Throughput",
]
