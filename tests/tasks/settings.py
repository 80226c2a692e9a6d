"""Every public task with the arguments and the labels that test_all_tasks.py walks over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tlkit.tasks import Classification, Diagnosis, Hashing, PlaceRegression, Regression, Task
from tlkit.types import DataSpec

WIDTH = 6
CLASSES = DataSpec(("a", "b"), ("a",), ("b",), classes=("x", "y", "z"), class_counts=(4, 10, 1))


def class_labels(rows: int) -> Tensor:
    return torch.arange(rows) % CLASSES.num_classes


POSITIONS = DataSpec(
    ("a", "b"),
    ("a",),
    ("b",),
    quantities=("x_m", "y_m"),
    centre=(30.0, 10.0),
    scale=(8.0, 4.0),
    points=((20.0, 10.0), (30.0, 5.0), (30.0, 15.0), (40.0, 10.0)),
)
DEPTH = DataSpec(("a", "b"), ("a",), ("b",), quantities=("depth_m",), centre=(5.0,), scale=(2.0,))


def positions(rows: int) -> Tensor:
    return torch.tensor(POSITIONS.points)[torch.arange(rows) % 4] + 0.5


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
        if task.needs_reference:
            with torch.no_grad():
                task.refer(task(torch.randn(12, WIDTH)), self.labels(12))
        return task


SETTINGS = [
    Setting(Classification),
    Setting(Classification, {"label_smoothing": 0.1}),
    Setting(Classification, {"class_weights": "balanced", "label_smoothing": 0.1}),
    Setting(Diagnosis, {"positive": ["x", "z"]}),
    Setting(Diagnosis, {"positive": ["y"], "at_sensitivity": None, "class_weights": "balanced"}),
    Setting(Hashing, {"bits": 8}),
    Setting(Hashing, {"bits": 12, "quantization": 0.0, "k": 5}),
    Setting(Regression, data=POSITIONS, labels=positions),
    Setting(Regression, {"loss": "euclidean"}, POSITIONS, positions),
    Setting(Regression, {"loss": "mse"}, DEPTH, lambda rows: torch.arange(rows) / 3),
    Setting(PlaceRegression, data=POSITIONS, labels=positions),
    Setting(PlaceRegression, {"distance_weight": 0.0}, POSITIONS, positions),
]
