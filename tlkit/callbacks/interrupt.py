"""Ctrl-C: finish the step, save, stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tlkit.callbacks.metrics_file import MetricsFile, unwritten_row
from tlkit.callbacks.selection import ModelSelection, validation_follows

__all__ = ["StopCleanly"]

# A launcher that forwards a Ctrl-C which the terminal has already sent to every process delivers it twice at once.
SAME_PRESS_SECONDS = 1.0

NOTICE = b"\nStopping after this step, with a checkpoint. Press Ctrl-C again to stop at once.\n"


class StopCleanly(L.Callback):
    """On Ctrl-C or SIGTERM finish the step, write ``last.ckpt``, and stop; on a second Ctrl-C stop at once.

    The checkpoint stands at a boundary that a resumed run continues from exactly: after a whole optimizer step and, if
    a validation is due there, after the validation. With several processes all ranks agree on the step, whichever of
    them got the signal; it is the one after, since no rank waits in every step for what the others were told.
    ``trainer.fit`` then ends with Lightning's :class:`SIGTERMException`, a ``SystemExit`` with the shell's exit status
    for the signal (130 or 143). A Ctrl-C during start-up, before the first step, acts as it always does. Outside the
    main thread, where Python cannot handle signals, the callback does nothing.

    Attributes:
        interrupted: Whether a signal asked the run to stop.
        checkpoint: Path of the checkpoint to resume from; ``None`` if there was no time to write one.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self.checkpoint: str | None = None
        self._signal: int | None = None
        self._time = 0.0
        self._process = os.getpid()
        self._training = False
        self._before: dict[int, Any] = {}
        self._ranks: _Ranks | None = None
        self._resumed = False  # whether this process has put metrics.csv in order
        self._row: dict[str, float] | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over SIGINT, before loaders start their workers: a worker inherits it and outlives a Ctrl-C."""
        self.interrupted, self.checkpoint, self._signal, self._training = False, None, None, False
        self._resumed = False
        self._process = os.getpid()
        self._is_global_zero = trainer.is_global_zero
        self._install(signal.SIGINT)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over SIGTERM, after Lightning has: its handler lets ranks stop at different steps and wait for ever."""
        self._install(signal.SIGTERM)
        self._training = True
        connector = trainer._signal_connector
        if connector.received_sigterm:  # while the parts were made ready; Lightning would stop this rank alone
            connector.received_sigterm = False
            self.interrupted, self._signal = True, signal.SIGTERM
        self._ranks = None
        if trainer.world_size > 1:
            self._ranks = _Ranks(trainer.strategy.root_device)
            # Lightning has rank 0 tell the others at every step whether it got SIGTERM, and all wait for it.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
        self._resume_rows(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if asked to, unless gradients are being accumulated or a validation is due first."""
        if self._asked(trainer) and not validation_follows(trainer):
            self._save(trainer)
            self._stop(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop here if asked to: :class:`ModelSelection`, which runs after this, writes the checkpoint."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if not self._asked(trainer, now=True):
            return
        if (selection := _selection(trainer)) is not None:
            self.checkpoint = selection.last_path
        else:
            self._save(trainer)
        self._stop(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the row of ``metrics.csv`` that is written after the checkpoint of its step."""
        checkpoint["metrics_row"] = unwritten_row(trainer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take that row, for a run that was killed before it was written."""
        self._row = checkpoint.get("metrics_row")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back."""
        if self._ranks is not None:
            self._ranks.end()
        self._restore(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the signals back, and the exit status its number."""
        self._restore(trainer)
        if isinstance(exception, SIGTERMException) and self.interrupted:
            exception.code = 128 + (self._signal or signal.SIGTERM)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put ``metrics.csv`` in order for a run that was trained already and killed while it was tested."""
        self._resume_rows(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back after a run without a single step."""
        self._restore(trainer)

    def _resume_rows(self, trainer: L.Trainer) -> None:
        if trainer.ckpt_path is not None and not self._resumed:
            self._resumed = True
            for logger in trainer.loggers:
                if isinstance(logger, MetricsFile):
                    logger.resume(trainer.global_step, self._row)

    def _asked(self, trainer: L.Trainer, now: bool = False) -> bool:
        """Return whether any rank was asked to stop and this is a place for it: no gradients wait for a step.

        It is what all knew a step ago; with ``now``, and where no step follows at once, what all know when they have
        waited for each other.
        """
        if self._ranks is None:
            return self.interrupted and not trainer.fit_loop._should_accumulate()
        if trainer.fit_loop._should_accumulate():
            return False
        last = trainer.global_step >= trainer.estimated_stepping_batches >= 0
        asked = self._ranks.any(self.interrupted, now or last or validation_follows(trainer))
        if asked and not self.interrupted:
            self._time = time.monotonic()  # this rank's own signal may be on its way: it is the same press
            self.interrupted = True
        return asked

    def _save(self, trainer: L.Trainer) -> None:
        if (selection := _selection(trainer)) is not None:
            self.checkpoint = selection.replace_last(trainer)
        else:
            path = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints" / "last.ckpt"
            trainer.save_checkpoint(path)
            self.checkpoint = str(path)

    def _stop(self, trainer: L.Trainer) -> None:
        # All ranks set it at the same step. The loop then logs this step's values and raises SIGTERMException.
        trainer._signal_connector.received_sigterm = True

    def _install(self, signum: int) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before.setdefault(signum, signal.getsignal(signum))
            signal.signal(signum, self._on_signal)

    def _restore(self, trainer: L.Trainer) -> None:
        self._training = False
        if threading.current_thread() is threading.main_thread():
            # Lightning found this callback's handler in place when it began, and will put it back after this.
            found = trainer._signal_connector._original_handlers
            for signum, handler in self._before.items():
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)
                if found.get(signum) == self._on_signal:
                    found[signum] = handler
            self._before = {}

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's worker: its parent decides
            return
        again = self.interrupted and time.monotonic() - self._time > SAME_PRESS_SECONDS
        if signum == signal.SIGINT and (again or not self._training):
            raise KeyboardInterrupt
        if not self.interrupted:
            self.interrupted, self._signal, self._time = True, signum, time.monotonic()
            if self._is_global_zero:
                os.write(2, NOTICE)  # print() may be what the signal interrupted


def _selection(trainer: L.Trainer) -> ModelSelection | None:
    return next((each for each in trainer.checkpoint_callbacks if isinstance(each, ModelSelection)), None)


class _Ranks:
    """What the ranks tell each other while they work: the answer to a step's question is read at the next one.

    It goes through the CPU, in a group of its own where the ranks' other exchanges are of GPUs: to read a number there,
    a step would have to wait until the GPU has done all that it was given. Every rank must make one.

    Args:
        device: Where the ranks' other exchanges are.
    """

    def __init__(self, device: torch.device) -> None:
        own = device.type != "cpu" and dist.is_gloo_available()
        self._group: Any = dist.new_group(backend="gloo") if own else None
        self._device = torch.device("cpu") if own else device
        self._sent: tuple[torch.Tensor, Any] | None = None

    def any(self, mine: bool, now: bool) -> bool:
        """Tell the others, and return whether it held on any rank the last time; with ``now``, this time or the last.

        Every rank must call it, with the same ``now``. After that nothing is on its way, as it should be where loaders
        start their workers (:class:`tlkit.data.loader.RowLoader` says why).
        """
        said = self.end()
        flag = torch.tensor([int(mine)], device=self._device)
        self._sent = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return (self.end() or said) if now else said

    def end(self) -> bool:
        """Return what is on its way, and have nothing on its way."""
        if self._sent is None:
            return False
        (flag, work), self._sent = self._sent, None
        work.wait()
        return bool(flag)


def _nothing() -> None:
    pass
