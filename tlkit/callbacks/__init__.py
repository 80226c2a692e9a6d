"""Callbacks and the logger of a run: selection, a clean stop, compilation, throughput, progress, ``metrics.csv``."""

from tlkit.callbacks.compiled import CompileBackbone
from tlkit.callbacks.interrupt import StopCleanly
from tlkit.callbacks.metrics_file import MetricsFile
from tlkit.callbacks.progress import ProgressBar
from tlkit.callbacks.selection import ModelSelection
from tlkit.callbacks.throughput import Throughput

__all__ = ["CompileBackbone", "MetricsFile", "ModelSelection", "ProgressBar", "StopCleanly", "Throughput"]
