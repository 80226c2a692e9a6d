"""The recall of each class, and their mean."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["ClassRecall"]


class ClassRecall(Metric):
    """Share of the rows of each class that are predicted as it, ``recall/<class>``, and ``mean_class_accuracy``.

    The mean is over the classes that have rows, each counting the same: balanced accuracy (Brodersen et al., ICPR
    2010), which is the figure of VisDA-2017 (Peng et al., arXiv 1710.06924). A class without rows has no value, and
    neither has the mean where there are no rows at all.

    In a key, whatever of a class's name is no letter, digit or one of ``_ . & + -`` is ``_``; where that makes two
    names the same, every name is followed by the number of its class.

    Args:
        classes: Names of the classes in the order of the labels.

    Example:
        >>> metric = ClassRecall(["cat", "guide dog", "owl"])
        >>> metric.update(torch.eye(3)[[0, 1, 1, 1]], torch.tensor([0, 0, 1, 1]))
        >>> {name: value.item() for name, value in metric.compute().items()}
        {'recall/cat': 0.5, 'recall/guide_dog': 1.0, 'mean_class_accuracy': 0.75}
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    found: Tensor
    rows: Tensor

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.keys = _keys(classes)
        for name in ("found", "rows"):
            self.add_state(name, torch.zeros(len(classes), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, y: Tensor) -> None:
        """Add a batch of ``(B, C)`` logits and ``(B,)`` labels."""
        self.rows += y.bincount(minlength=len(self.keys))
        self.found += y[logits.argmax(dim=1) == y].bincount(minlength=len(self.keys))

    def compute(self) -> dict[str, Tensor]:
        """Return the values over all rows, in [0, 1]."""
        there = self.rows.nonzero().flatten()
        recall = self.found[there].double() / self.rows[there]
        if len(there) == 0:
            return {}
        values = {self.keys[number]: value for number, value in zip(there.tolist(), recall.float(), strict=True)}
        return {**values, "mean_class_accuracy": recall.mean().float()}


def _keys(classes: Sequence[str]) -> list[str]:
    """Return a key for each class: a slash in one would look like a domain, a space needs quotes in every query."""
    names = [re.sub(r"[^\w.&+-]", "_", name) for name in classes]
    if len(set(names)) < len(names):
        names = [f"{name}_{number}" for number, name in enumerate(names)]
    return [f"recall/{name}" for name in names]
