"""Tasks: a head, its supervised loss, its metrics and its predictions."""

from tlkit.tasks.base import Task
from tlkit.tasks.classification import Classification

__all__ = ["Classification", "Task"]
