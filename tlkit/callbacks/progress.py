"""One progress bar for the whole run."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

__all__ = ["ProgressBar", "figures"]

UPDATES_PER_SECOND = 5  # a terminal update costs a few milliseconds
SECONDS_BETWEEN_LINES = 2.0


class ProgressBar(LightningProgressBar):
    """Show steps, time left, steps a second, and the figures that matter, on standard error.

    The figures are the accuracy on the training batch, the task's loss, and each adaptation loss with its weight. A
    terminal gets a bar; anything else gets a plain line now and then.

    Args:
        lines: At most about so many lines a run where there is no terminal.
    """

    def __init__(self, lines: int = 20) -> None:
        super().__init__()
        self.lines = lines
        self._enabled = True
        self._console = Console(stderr=True, markup=False, emoji=False)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._next = math.inf
        self._first_step, self._total, self._began = 0, math.inf, 0.0
        self._next_line, self._line_due, self._line_at = 0.0, 0.0, -1
        self._stage, self._batches, self._stage_began, self._stage_total = "", 0, 0.0, 0.0

    def disable(self) -> None:
        """Show nothing, as on every rank but the first."""
        self._enabled = False
        self._stop()

    def enable(self) -> None:
        """Show progress again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print without breaking the bar."""
        self._console.print(*args, **kwargs)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the bar at the step that the run starts or resumes from."""
        self._first_step, self._began = trainer.global_step, time.monotonic()
        total = trainer.estimated_stepping_batches
        self._total = math.inf if total < 0 else total  # -1: neither max_steps nor a number of batches is known
        self._line_due, self._line_at = 0.0, -1
        self._next_line = self._began + SECONDS_BETWEEN_LINES  # the first with a time left, early
        if self._enabled:
            self._start("train", self._total, completed=trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update, at most a few times a second."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 1 / UPDATES_PER_SECOND
            self._update(trainer, now)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the last state and leave it on the screen."""
        if self._enabled and self._next < math.inf:
            self._update(trainer, time.monotonic(), last=True)
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show a second bar."""
        self._begin_evaluation("validate", trainer.num_val_batches, hidden=trainer.sanity_checking)

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Count a batch."""
        self._count()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the second bar away."""
        self._end_evaluation(within_training=trainer.state.fn == TrainerFn.FITTING)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show a bar."""
        self._begin_evaluation("test", trainer.num_test_batches)

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Count a batch."""
        self._count()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the bar away."""
        self._end_evaluation()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show a bar."""
        self._begin_evaluation("predict", trainer.num_predict_batches)

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Count a batch."""
        self._count()

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the bar away."""
        self._end_evaluation()

    def _start(self, name: str, total: float, completed: int = 0) -> None:
        self._next = 0.0
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[times]}", style="cyan"),
                TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
                console=self._console,
                auto_refresh=False,  # no thread: what is shown is updated by the training loop
                expand=True,
            )
            self._bar.start()
        shown = None if math.isinf(total) else total
        self._tasks[name] = self._bar.add_task(name, total=shown, completed=completed, times="", figures="")

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._tasks, self._next = None, {}, math.inf

    def _update(self, trainer: L.Trainer, now: float, last: bool = False) -> None:
        step = trainer.global_step
        times = _times(step - self._first_step, self._total - step, now - self._began)
        if self._bar is not None:
            shown = figures(trainer.callback_metrics)
            self._bar.update(self._tasks["train"], completed=step, times=times, figures=shown, refresh=True)
        elif (last and step != self._line_at) or (step >= self._line_due and now >= self._next_line):
            self._line_at = step
            of = "" if math.isinf(self._total) else f"/{self._total:.0f}"
            self.print(
                f"step {step}{of}  {times}  {figures(trainer.callback_metrics)}", soft_wrap=True, highlight=False
            )
            # Of a run without an end, a line each time it has lasted a quarter longer.
            finite = not math.isinf(self._total)
            self._line_due = step + self._total / self.lines if finite else step
            self._next_line = now + max(SECONDS_BETWEEN_LINES, 0.0 if finite else (now - self._began) / 4)

    def _begin_evaluation(self, stage: str, batches: float | list[int | float], hidden: bool = False) -> None:
        self._stage = "" if hidden or not self._enabled else stage
        self._batches, self._stage_began = 0, time.monotonic()
        self._stage_total = sum(batches) if isinstance(batches, list) else batches
        if self._stage:
            self._start(stage, self._stage_total)

    def _count(self) -> None:
        self._batches += 1
        now = time.monotonic()
        if self._stage and now >= self._next:
            self._next = now + 1 / UPDATES_PER_SECOND
            self._show_evaluation(now)

    def _show_evaluation(self, now: float) -> None:
        if self._bar is not None:
            seconds = now - self._stage_began
            times = _times(self._batches, self._stage_total - self._batches, seconds)
            self._bar.update(self._tasks[self._stage], completed=self._batches, times=times, refresh=True)

    def _end_evaluation(self, within_training: bool = False) -> None:
        if not self._stage:
            return
        now = time.monotonic()
        self._show_evaluation(now)
        if self._bar is None and not within_training:
            seconds = now - self._stage_began
            self.print(f"{self._stage}: {self._batches} batches in {seconds:.1f} s", highlight=False)
        if self._bar is not None and within_training:
            self._bar.remove_task(self._tasks.pop(self._stage))
        self._stage = ""
        if not within_training:
            self._stop()


def figures(values: Mapping[str, Any]) -> str:
    """Word the training values that matter, of all that were logged.

    Example:
        >>> figures({"train/task": 0.5, "train/mmd": 0.0123, "train/mmd/weight": 0.46, "train/accuracy": 0.875})
        'accuracy 0.875  task 0.5  mmd 0.0123 x 0.46'
    """
    shown = [f"{key} {float(values[f'train/{key}']):.3g}" for key in ("accuracy", "task") if f"train/{key}" in values]
    for key in values:
        if key.startswith("train/") and f"{key}/weight" in values:
            shown.append(f"{key[6:]} {float(values[key]):.3g} x {float(values[f'{key}/weight']):.2g}")
    return "  ".join(shown)


def _times(done: float, left: float, seconds: float) -> str:
    """Word the time passed, the time left and the rate."""
    rate = done / seconds if seconds > 0 else 0.0
    remaining = "" if math.isinf(left) or rate == 0 else f"  {_clock(left / rate)} left"
    return f"{_clock(seconds)}{remaining}  {rate:.{1 if rate < 100 else 0}f} it/s"


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
