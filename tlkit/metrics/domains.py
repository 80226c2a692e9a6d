"""The metrics of an evaluation, kept apart by domain and named by what they were allowed to see."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from tlkit.types import DataSpec

__all__ = ["DomainMetrics"]

_Kind = Literal["labelled", "tested", "label_free"]


class DomainMetrics(nn.Module):
    """A set of labelled and of label-free metrics for each domain.

    Args:
        data: The domains and their roles.
        task: Makes the metrics (:class:`tlkit.tasks.Task`).

    Example:
        >>> from types import SimpleNamespace
        >>> from torchmetrics.classification import MulticlassAccuracy
        >>> data = DataSpec(("day", "night"), sources=("day",), targets=("night",), classes=("cat", "dog"))
        >>> make = lambda: MetricCollection({"accuracy": MulticlassAccuracy(2, average="micro")})
        >>> none = lambda: None
        >>> task = SimpleNamespace(
        ...     metrics=make,
        ...     test_metrics=none,
        ...     label_free_metrics=none,
        ...     calibration_metric=none,
        ...     selection_metric="accuracy",
        ... )
        >>> metrics = DomainMetrics(data, task)
        >>> metrics.update(0, torch.eye(2), torch.tensor([0, 1]))
        >>> metrics.update(1, torch.eye(2), torch.tensor([0, 0]))
        >>> {name: value.item() for name, value in metrics.validation_values().items()}
        {'val/day/accuracy': 1.0, 'oracle/night/accuracy': 0.5, 'selection/source_accuracy': 1.0}
    """

    def __init__(self, data: DataSpec, task: Any) -> None:
        super().__init__()
        self.data = data
        self.selection_metric: str = task.selection_metric
        self._seen: set[tuple[int, str]] = set()
        self.labelled = nn.ModuleList(task.metrics() for _ in data.domains)
        self.tested = nn.ModuleList(task.test_metrics() or MetricCollection([]) for _ in data.domains)
        self.label_free = nn.ModuleList(task.label_free_metrics() or MetricCollection([]) for _ in data.domains)
        self.calibrating: Metric | None = task.calibration_metric()

    def update(self, domain: int, outputs: Tensor, y: Tensor | None, testing: bool = False) -> None:
        """Add the outputs of a batch of one domain, of its test rows if ``testing``.

        Ranks take part in the exchange at the end if they were called at all, also with no rows.
        """
        kinds: list[_Kind] = [] if testing else ["label_free"]
        if y is not None:
            kinds += ["labelled", "tested"] if testing else ["labelled"]
        self._seen |= {(domain, kind) for kind in kinds}
        if len(outputs) == 0:  # torchmetrics refuses it
            return
        for kind in kinds:
            getattr(self, kind)[domain].update(*((outputs,) if kind == "label_free" else (outputs, y)))
        source = self.data.role(self.data.domains[domain]) == "source"
        if self.calibrating is not None and y is not None and source and not testing:
            self.calibrating.update(outputs, y)

    def calibration(self) -> Tensor | None:
        """Return what the task's calibration metric, if it has one, found on the source rows since the last call."""
        if self.calibrating is None or not self.data.sources:
            return None
        with _padding_is_silent():
            value: Tensor = self.calibrating.compute()
        self.calibrating.reset()
        return value

    def test_values(self) -> dict[str, Tensor]:
        """Return ``test/<domain>/<metric>`` and start anew."""
        if self.calibrating is not None:  # test rows decide nothing
            self.calibrating.reset()
        return {
            f"test/{domain}/{name}": value
            for index, domain in enumerate(self.data.domains)
            for kind in ("labelled", "tested")
            for name, value in self._finish(index, kind).items()
        }

    def validation_values(self) -> dict[str, Tensor]:
        """Return what validation found, and start anew.

        ``val/<source>/<metric>`` is from source labels, ``val/<target>/<score>`` from no labels, and
        ``oracle/<target>/<metric>`` from sealed target labels. Under ``selection/`` are the means over domains that a
        checkpoint may be chosen by.
        """
        values: dict[str, Tensor] = {}
        selection: dict[str, list[Tensor]] = {}
        for index, domain in enumerate(self.data.domains):
            labelled, label_free = self._finish(index, "labelled"), self._finish(index, "label_free")
            if self.data.role(domain) == "source":
                values |= {f"val/{domain}/{name}": value for name, value in labelled.items()}
                chosen = {f"source_{name}": v for name, v in labelled.items() if name == self.selection_metric}
            else:
                values |= {f"oracle/{domain}/{name}": value for name, value in labelled.items()}
                values |= {f"val/{domain}/{name}": value for name, value in label_free.items()}
                chosen = label_free
            for name, value in chosen.items():
                selection.setdefault(name, []).append(value)
        # A domain whose validation rows leave a metric undefined (no row with the finding) has no say in the mean.
        return values | {f"selection/{name}": torch.stack(each).nanmean() for name, each in selection.items()}

    def _finish(self, domain: int, kind: _Kind) -> dict[str, Tensor]:
        metrics = cast(MetricCollection, getattr(self, kind)[domain])
        # A domain that was not evaluated (tested only, or without labels) has nothing to report.
        with _padding_is_silent():
            found: dict[str, Tensor] = metrics.compute() if (domain, kind) in self._seen else {}
        self._seen.discard((domain, kind))
        metrics.reset()
        return found


@contextmanager
def _padding_is_silent() -> Iterator[None]:
    """Let a rank that was only given padding compute on the sums of the others without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        yield
