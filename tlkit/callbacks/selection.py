"""Which checkpoint a run keeps: the best by one named score, and the last."""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, Literal
from weakref import proxy

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from tlkit.callbacks.checkpoint_file import sync, write_directly, written
from tlkit.errors import ConfigurationError, unknown
from tlkit.notes import say

__all__ = ["ModelSelection", "validation_follows"]

USES_TARGET_LABELS = "oracle/"  # the prefix of scores that were computed with sealed labels

HIGHER_IS_BETTER = (
    *("accuracy", "auroc", "macro_f1", "map", "mutual_information", "precision_radius_2", "r2"),
    *("sensitivity", "specificity"),
)
_ERRORS = ("error", "error_mean", "error_median", "error_p75", "error_p95")
LOWER_IS_BETTER = ("loss", *_ERRORS, "mae", "mse", "rmse", "distance")
_REST_SECONDS = 60.0  # from one checkpoint to that of the end of an epoch


def validation_follows(trainer: L.Trainer) -> bool:
    """Return whether a validation comes right after the training batch that has just ended.

    A checkpoint of such a batch has to wait for the validation: resumed from in between, the run would leave it out.
    """
    fetcher = trainer.fit_loop._data_fetcher
    # Lightning's own condition: writing it again here would drift from it.
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


class ModelSelection(ModelCheckpoint):
    """Keep ``best.ckpt`` and ``last.ckpt``, each written aside, synced and renamed: neither is ever half a file.

    After every validation ``last.ckpt`` is replaced, and ``best.ckpt`` too if the monitored score is at least as good
    as the best so far: of equal scores the later one is kept. A score that is not finite is worse than any other. A run
    without validation ends with ``best.ckpt`` equal to ``last.ckpt``, which is replaced when an epoch ends, but no more
    than once a minute.

    Args:
        monitor: Name of a logged score. ``"auto"`` is the task's label-free score on the targets for a run that adapts
            (``selection/mutual_information`` for classification), and its metric on source validation for one that does
            not, or for a task without such a score (``selection/source_accuracy``). A score under ``oracle/`` uses
            target labels: it is taken only when it is named here, and :attr:`selection` says so.
        mode: Whether the best score is the largest or the smallest; ``"auto"`` knows it for the scores of this package.
        dirpath: Folder of the checkpoints; by default ``checkpoints`` in the folder of the trainer's first logger.
        every_n_steps: Replace ``last.ckpt`` also every so many training steps, for runs that may be killed.

    Raises:
        ConfigurationError: If ``every_n_steps`` is not positive, if ``mode`` is ``"auto"`` and the score is unknown,
            or, at the first validation, if the score is not logged.
        RunError: If the file system refuses a checkpoint; the ones of before are intact.

    Example:
        >>> ModelSelection(monitor="oracle/sketch/accuracy").selection
        {'monitor': 'oracle/sketch/accuracy', 'step': None, 'uses_target_labels': True, 'score': None}
    """

    def __init__(
        self,
        monitor: str = "auto",
        mode: Literal["auto", "max", "min"] = "auto",
        dirpath: str | Path | None = None,
        every_n_steps: int | None = None,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ConfigurationError(f"ModelSelection(every_n_steps=...) must be at least 1, got {every_n_steps}")
        super().__init__(dirpath=dirpath, filename="best", save_last=True, enable_version_counter=False)
        self.asked_mode = mode
        self.every_n_steps = every_n_steps
        self.best_step: int | None = None
        self._owes_last = False  # a validation came while gradients waited for a step
        self._saved_at = -math.inf
        self._began = "in this run"
        self._told_not_finite = False
        self._asked = None if monitor == "auto" else monitor
        self._watch(self._asked)

    @property
    def selection(self) -> dict[str, Any]:
        """What ``best.ckpt`` is: ``monitor``, ``step``, ``uses_target_labels`` and ``score``.

        ``monitor`` and ``score`` are ``None`` when nothing was validated and the best is the last.
        """
        score = self.best_model_score
        return {
            "monitor": self.monitor,
            "step": self.best_step,
            "uses_target_labels": self.monitor is not None and self.monitor.startswith(USES_TARGET_LABELS),
            "score": float(score) if score is not None and math.isfinite(score) else None,
        }

    @property
    def last_path(self) -> str:
        """Where ``last.ckpt`` is, or will be."""
        return self._path("last")

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint; there is one of them in a run."""
        return "ModelSelection"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Settle the folder, the same on all ranks, and what ``"auto"`` means for this run."""
        default = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
        self.dirpath = trainer.strategy.broadcast(os.path.abspath(self.dirpath or default))
        write_directly(trainer)
        if stage == "fit" and self._asked is not None:
            self._watch(self._asked)  # again: a fit without validation has let go of it
        elif stage == "fit":
            data, task = (
                getattr(trainer, "datamodule", None),
                getattr(getattr(pl_module, "network", None), "task", None),
            )
            adapts = bool(getattr(data, "targets", True) and getattr(pl_module, "uses_target", False))
            monitor, mode = _automatic(adapts, bool(getattr(data, "sources", True)), task)
            if monitor is None and trainer.limit_val_batches:
                raise ConfigurationError(
                    f"nothing says which checkpoint is best: {type(task).__name__} has no score without labels, and "
                    "there is no source to validate on. Set trainer.limit_val_batches: 0 to take the last one"
                )
            self._watch(monitor, mode)

    def _watch(self, monitor: str | None, mode: Literal["max", "min"] | None = None) -> None:
        self.monitor = monitor
        if self.asked_mode != "auto":
            self.mode = self.asked_mode
        elif monitor is not None:
            self.mode = mode or _direction(monitor)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget a best checkpoint that a resumed run does not have in its folder."""
        self._saved_at = -math.inf
        self._forget_lost_best(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Replace ``last.ckpt`` when it is due, after the last step of the run and, without validation, of an epoch."""
        step = trainer.global_step
        due = step == trainer.max_steps or (self.every_n_steps is not None and step % self.every_n_steps == 0)
        due = due or self._owes_last
        # Not when the epoch has ended: resumed from there, Lightning takes a step more before it begins the next epoch.
        ends_epoch = not trainer.enable_validation and trainer.fit_loop.epoch_loop._num_ready_batches_reached()
        due = due or (ends_epoch and self._has_rested(trainer))
        due = due and not trainer.fit_loop._should_accumulate()  # gradients that wait for a step are not saved
        if due and not self._should_skip_saving_checkpoint(trainer) and not validation_follows(trainer):
            self.replace_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace ``last.ckpt``, and ``best.ckpt`` if this is the best."""
        if self._is_trial(trainer) or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        assert self.monitor is not None
        if self.monitor not in trainer.callback_metrics:
            raise ConfigurationError(
                f"ModelSelection(monitor={self.monitor!r}): {unknown('score', self.monitor, trainer.callback_metrics)}"
            )
        # Rank 0 decides for all: a score that was not reduced differs by rank.
        score = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))
        if not math.isfinite(score) and not self._told_not_finite:
            self._told_not_finite = True
            say(f"{self.monitor} is {score} at step {trainer.global_step}: a checkpoint with any number is better")
        best = self.best_model_score
        better = best is None or self._rank(score) >= self._rank(float(best))
        if better:
            self._keep(score, trainer.global_step)
        # Gradients that wait for a step are not saved: the step after is the next place to go on from.
        self._owes_last = trainer.fit_loop._should_accumulate()
        if better or not self._owes_last:
            self._save(trainer, best=better, last=not self._owes_last)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do nothing, where Lightning's own saves by a rule of its own."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See that both files are there when training ends."""
        if self._is_trial(trainer):
            return
        epoch = trainer.fit_loop.epoch_loop
        if epoch._num_ready_batches_reached():
            # Saved with the batches of this epoch counted, a run that is given max_steps and more epochs would take a
            # single batch for its next epoch.
            epoch.batch_progress.reset_on_run()
        if self.best_step is None:
            self._save_last_as_best(trainer)
        elif not self._should_skip_saving_checkpoint(trainer):
            self.replace_last(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See to it for a run, too, that was killed at its last step: resumed, it has nothing left to train."""
        if self._is_trial(trainer):
            return
        self._forget_lost_best(trainer)
        if self.best_step is None:
            self._save_last_as_best(trainer)

    def replace_last(self, trainer: L.Trainer) -> str:
        """Replace ``last.ckpt`` by the state of now, and return its path. All ranks must call it."""
        self._save(trainer, best=False)
        return self.last_model_path

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run has to know, in plain types."""
        score = self.best_model_score
        return {"monitor": self.monitor, "step": self.best_step, "score": None if score is None else float(score)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best so far.

        Raises:
            ConfigurationError: If the run was monitored by another score before: the two cannot be compared.
        """
        if state_dict["score"] is None:
            return
        if state_dict["monitor"] != self.monitor:
            raise ConfigurationError(
                f"the run so far chose its best checkpoint by {state_dict['monitor']!r}, now monitor is "
                f"{self.monitor!r}, and the two cannot be compared: set monitor to {state_dict['monitor']!r}"
            )
        self._keep(state_dict["score"], state_dict["step"])

    def _forget_lost_best(self, trainer: L.Trainer) -> None:
        if self.best_step is None or self.file_exists(self._path("best"), trainer):
            return
        say(
            f"best.ckpt, of step {self.best_step}, is not in {self.dirpath}: the best is searched again from "
            f"step {trainer.global_step} on"
        )
        self.best_model_score, self.best_step, self.best_model_path = None, None, ""
        self._began = "since best.ckpt was lost"

    def _has_rested(self, trainer: L.Trainer) -> bool:
        """Return whether rank 0 has not written for a while: an epoch may be shorter than it takes to write."""
        return bool(trainer.strategy.broadcast(time.monotonic() - self._saved_at >= _REST_SECONDS))

    @staticmethod
    def _is_trial(trainer: L.Trainer) -> bool:
        return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]

    def _path(self, name: str) -> str:
        return os.path.join(str(self.dirpath), f"{name}{self.FILE_EXTENSION}")

    def _rank(self, score: float) -> float:
        if not math.isfinite(score):
            return -math.inf
        return score if self.mode == "max" else -score

    def _keep(self, score: float, step: int) -> None:
        self.best_model_score = self.current_score = torch.tensor(score, dtype=torch.float64)
        self.best_step = step
        self.best_model_path = self._path("best")
        self.best_k_models = {self.best_model_path: self.best_model_score}  # loggers that upload checkpoints read it

    def _save_last_as_best(self, trainer: L.Trainer) -> None:
        say(f"nothing was validated {self._began}: best.ckpt is the last checkpoint")
        self.monitor, self.best_step, self.best_model_path = None, trainer.global_step, self._path("best")
        self._save(trainer, best=True)

    def _save(self, trainer: L.Trainer, best: bool, last: bool = True) -> None:
        aside = Path(self._path("last") + ".part")
        with written(Path(self._path("last" if last else "best")), aside):
            trainer.save_checkpoint(aside)
            if trainer.is_global_zero:
                for each in (*aside.rglob("*"), aside):  # a sharded checkpoint is a folder
                    sync(each)
                # best.ckpt first: killed in between, the run resumes from the older last.ckpt and finds the best again.
                if best:
                    _replace(_duplicate(aside) if last else aside, Path(self._path("best")))
                if last:
                    _replace(aside, Path(self._path("last")))
                sync(aside.parent)
        self._saved_at = time.monotonic()
        if last:
            self._owes_last = False
            self.last_model_path, self._last_global_step_saved = self._path("last"), trainer.global_step
            self._last_checkpoint_saved = self.last_model_path
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))
        trainer.strategy.barrier("ModelSelection")


def _automatic(adapts: bool, sources: bool, task: Any) -> tuple[str | None, Literal["max", "min"]]:
    """Return what ``"auto"`` watches, and its mode; nothing where there is nothing.

    Source accuracy keeps rising while adaptation goes wrong on the target, so a run that adapts is judged on its
    targets, by a score that needs no labels; one that does not is judged where it has labels.
    """
    label_free = getattr(task, "label_free_score", "mutual_information")
    if (adapts or not sources) and label_free is not None:
        return f"selection/{label_free}", "max"
    if not sources:
        return None, "max"
    return f"selection/source_{getattr(task, 'selection_metric', 'accuracy')}", getattr(task, "selection_mode", "max")


def _direction(monitor: str) -> str:
    """Return whether a score is best at its largest or smallest, by the end of its name."""
    score = re.sub(r"_at_\d+$", "", monitor.rsplit("/", 1)[-1])  # map_at_100 is a map
    for mode, names in (("max", HIGHER_IS_BETTER), ("min", LOWER_IS_BETTER)):
        if any(f"_{score}".endswith(f"_{name}") for name in names):
            return mode
    raise ConfigurationError(
        f"ModelSelection(monitor={monitor!r}): mode='auto' knows the direction of "
        f"{', '.join(HIGHER_IS_BETTER + LOWER_IS_BETTER)}; set mode to 'max' or 'min'"
    )


def _duplicate(path: Path) -> Path:
    """Give a checkpoint a second name; it is never written in place, so a hard link is as good as a copy."""
    duplicate = path.with_name(f"best-{path.name}")
    _remove(duplicate)
    if path.is_dir():  # a sharded checkpoint
        return Path(shutil.copytree(path, duplicate))
    try:
        os.link(path, duplicate)
    except OSError:  # a file system without hard links
        shutil.copy2(path, duplicate)
    return duplicate


def _replace(path: Path, by: Path) -> None:
    if path.is_dir():  # a folder cannot be renamed over another one
        _remove(by)
    os.replace(path, by)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
