"""How fast the run trains, and with which learning rates."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.data import extract_batch_size

from tlkit.types import DomainBatch

__all__ = ["Throughput"]


class Throughput(L.Callback):
    """Log ``train/samples_per_second`` and ``lr/<parameter group>`` at the trainer's logging steps.

    Time is what training takes, loading included; validation and the checkpoint written after it are left out. Samples
    are the rows of all domains on all ranks. The logged value is the rate since the last logging step; the properties
    are totals of the run, carried on when it is resumed.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._seconds = 0.0
        self._since: float | None = None
        self._logged = (0, 0.0)  # samples and seconds at the last logging step
        self._logged_step = -1
        self._steps = 0

    @property
    def seconds(self) -> float:
        """Seconds spent in training."""
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    @property
    def samples_per_second(self) -> float:
        """Samples trained on a second, over the whole run; 0 before the first step."""
        seconds = self.seconds
        return self._samples / seconds if seconds > 0 else 0.0

    @property
    def summary(self) -> dict[str, float]:
        """``steps``, ``seconds`` and ``samples_per_second`` of the run."""
        return {"steps": self._steps, "seconds": self.seconds, "samples_per_second": self.samples_per_second}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = time.perf_counter()
        self._logged = (self._samples, self.seconds)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on after a validation."""
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; at a logging step, log."""
        rows = len(batch) if isinstance(batch, DomainBatch) else extract_batch_size(batch)
        self._samples += rows * trainer.world_size
        self._steps = step = trainer.global_step
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and step % every == 0 and step != self._logged_step:
            self._logged_step = step
            self._log(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._pause(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._pause(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop the clock."""
        if self._since is not None:  # without waiting for the device, which may be what failed
            self._seconds, self._since = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        """Return the totals."""
        return {"samples": self._samples, "seconds": self.seconds, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Carry the totals on."""
        self._samples, self._seconds = state_dict["samples"], state_dict["seconds"]
        self._steps = state_dict["steps"]

    def _pause(self, pl_module: L.LightningModule) -> None:
        if self._since is None:
            return
        if pl_module.device.type == "cuda":  # steps that are still queued belong to training
            torch.cuda.synchronize(pl_module.device)
        self._seconds, self._since = self.seconds, None

    def _log(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        samples, seconds = self._logged
        self._logged = (self._samples, self.seconds)
        values = {f"lr/{name}": rate for name, rate in _learning_rates(trainer).items()}
        if self._logged[1] > seconds:
            values["train/samples_per_second"] = (self._logged[0] - samples) / (self._logged[1] - seconds)
        pl_module.log_dict(values, batch_size=1)


def _learning_rates(trainer: L.Trainer) -> dict[str, float]:
    """Return the learning rate of each parameter group under its name, or its number if it has none."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return {str(group.get("name", number)): float(group["lr"]) for number, group in enumerate(groups)}
