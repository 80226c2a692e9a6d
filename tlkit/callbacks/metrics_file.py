"""``metrics.csv``: the record of a run that needs no service and no reader."""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from tlkit.notes import say

__all__ = ["MetricsFile", "unwritten_row"]


class MetricsFile(Logger):
    """Write every logging event as a row of ``metrics.csv``: the step, the epoch, then a column a key.

    Rows are on disk as soon as they are logged. A key that was not there before adds a column: the file is written anew
    beside the old one and takes its place, so a reader never sees half of it. An existing file is continued. Only
    rank 0 writes.

    Args:
        run: The run's folder.

    Attributes:
        tested_after: Set before a trained model is tested, to the steps that it was trained: rows are of that step, and
            of no epoch. What Lightning would call them differs for a run that resumes when it is trained already.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as run:
        ...     metrics = MetricsFile(run)
        ...     metrics.log_metrics({"epoch": 0, "train/loss": 0.5}, step=9)
        ...     metrics.log_metrics({"epoch": 0, "val/mnist/accuracy": 0.75}, step=9)
        ...     print(metrics.path.read_text())
        step,epoch,train/loss,val/mnist/accuracy
        9,0,0.5,
        9,0,,0.75
        <BLANKLINE>
    """

    def __init__(self, run: str | Path) -> None:
        super().__init__()
        self.run = Path(run)
        self.path = self.run / "metrics.csv"
        self.tested_after: int | None = None
        self._known: list[str] | None = None

    @property
    def name(self) -> str:
        """The name of the folder above the run's."""
        return self.run.parent.name

    @property
    def version(self) -> str:
        """The run's id: the name of its folder."""
        return self.run.name

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.run)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` beside the file has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row.

        Args:
            metrics: Numbers by key; ``epoch`` goes to its own column.
            step: Training step, counted from 0.
        """
        row = {"step": step, "epoch": None, **metrics}
        if self.tested_after is not None:
            row |= {"step": self.tested_after, "epoch": None}
        columns = self._columns()
        if new := [key for key in row if key not in columns]:
            columns = self._rewrite([*columns, *new])
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(_line([row.get(column) for column in columns]))

    @rank_zero_only
    def resume(self, step: int, last: Mapping[str, float] | None = None) -> None:
        """Drop the rows of which a run resumed after ``step`` steps will write its own, and say how many.

        These are the rows of the steps after the checkpoint (steps count from 0, so rows ``step``, ``step + 1``, ...),
        and that of a test of the checkpoint's run, which is tested again at its new end. Nothing else is dropped.

        Args:
            step: How many steps the checkpoint had behind it.
            last: The row of the checkpoint's own step, see :func:`unwritten_row`; written if the run was killed between
                the checkpoint and the row.
        """
        columns = self._columns()
        rows = list(self._rows())
        again = sum(_is_later(row, step) for row in rows)
        if again:
            say(
                f"{self.path}: {again} of {len(rows)} rows are of steps after the checkpoint (step {step}) or of a "
                "test; they are dropped: the resumed run writes its own"
            )
            self._rewrite(columns, before=step)
        if last is not None and not any(_is_later(row, step - 1) for row in self._rows()):
            self.log_metrics(last, step=step - 1)

    def _columns(self) -> list[str]:
        """Return the columns; of a file that an earlier process began, those in its first line."""
        if self._known is None:
            self._known = []
            if self.path.exists():
                self._cut_unfinished_row()
                with self.path.open(newline="", encoding="utf-8") as file:
                    self._known = next(csv.reader(file), [])
        return self._known

    def _cut_unfinished_row(self) -> None:
        """Remove what a run that was killed while writing left of its last row: it has no end of line."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            say(f"{self.path}: the last row was cut off when the run was killed; it is dropped")
            os.truncate(self.path, whole)

    def _rows(self) -> Iterator[dict[str, str]]:
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                yield from csv.DictReader(file, restval="")

    def _rewrite(self, columns: list[str], before: int | None = None) -> list[str]:
        """Write the file anew with these columns and, if asked to, only the rows of steps below ``before``."""
        self.run.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(f"{self.path.name}.part")
        with aside.open("w", newline="", encoding="utf-8") as file:
            file.write(_line(columns))
            for row in self._rows():
                if before is None or not _is_later(row, before):
                    file.write(_line([row.get(column, "") for column in columns]))
        os.replace(aside, self.path)
        self._known = columns
        return columns


def unwritten_row(trainer: L.Trainer) -> dict[str, float] | None:
    """Return what Lightning will log for the batch that has just ended; None if nothing, or if it has done so.

    It logs after the callbacks, and so after a checkpoint that one of them writes: a run killed in between would lack
    the row.
    """
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    connector = trainer._logger_connector
    if progress.processed == progress.completed or not (trainer.training and connector.should_update_logs):
        return None
    values = {key: float(value) for key, value in connector.metrics["log"].items()}
    return {**values, "epoch": trainer.current_epoch} if values else None


def _is_later(row: Mapping[str, str], step: int) -> bool:
    return row["step"] != "" and int(row["step"]) >= step


def _line(values: list[Any]) -> str:
    """Format one row; written in one piece, so that a row is in the file or is not."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()
