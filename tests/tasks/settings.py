"""Every public task with the arguments and the labels that test_all_tasks.py walks over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tlkit.tasks import Classification, Task
from tlkit.types import DataSpec

WIDTH = 6
CLASSES = DataSpec(("a", "b"), ("a",), ("b",), classes=("x", "y", "z"))


def class_labels(rows: int) -> Tensor:
    return torch.arange(rows) % CLASSES.num_classes


@dataclass(frozen=True)
class Setting:
    """A task with its arguments, data that it can be built for, and labels that go with them."""

    task: type[Task]
    arguments: dict[str, Any] = field(default_factory=dict)
    data: DataSpec = CLASSES
    labels: Callable[[int], Tensor] = class_labels

    def __str__(self) -> str:
        return "-".join([self.task.__name__, *(f"{key}={value}" for key, value in self.arguments.items())])

    def make(self) -> Task:
        """Build the task and its head from a fixed seed."""
        torch.manual_seed(0)
        task = self.task(**self.arguments)
        task.build(WIDTH, self.data)
        return task


SETTINGS = [Setting(Classification), Setting(Classification, {"label_smoothing": 0.1})]
