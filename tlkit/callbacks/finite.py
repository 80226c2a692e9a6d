"""A loss that is not finite ends the run in words, before a checkpoint of it takes the place of a good one."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor

from tlkit.errors import RunError

__all__ = ["StopOnNonFinite"]

_MOST_WAITING = 100  # steps after which losses are looked at, if nothing is logged or saved before
# A gradient scaler skips a step whose gradients overflow and halves its scale, which begins at 2**16: after so many
# steps in a row there is no scale left to try.
_MOST_SKIPPED = 32
_NEVER = 2**62


class StopOnNonFinite(L.Callback):
    """Stop when the loss or the weights are no longer finite, naming the step and the first term that was not.

    Losses stay on their device until something is logged or saved, which waits for the device anyway: a step costs
    nothing more. Nothing is saved from the first bad step on, so ``last.ckpt`` and ``best.ckpt`` are of before. Under
    ``16-mixed``, where a gradient scaler skips steps that overflow, only 32 such steps in a row, or weights that are
    not finite, are an error. All ranks stop at the same step.

    Raises:
        RunError: At the first logging step, validation or checkpoint that follows.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, dict[str, Tensor]]] = []
        self._skipped = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self._waiting, self._skipped = [], 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the terms of the loss, and look at them at a logging step."""
        step = trainer.global_step
        if isinstance(outputs, dict) and isinstance(outputs.get("loss"), Tensor):
            terms = {k: v for k, v in outputs.get("values", {}).items() if isinstance(v, Tensor) and k.count("/") == 1}
            self._waiting.append((step, {**terms, "train/loss": outputs["loss"]}))
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (every and step % every == 0) or len(self._waiting) >= _MOST_WAITING:
            self._check(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look before a validation."""
        self._check(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to save what is not finite, the weights among it."""
        self._check(trainer, _not_finite(pl_module, checkpoint["state_dict"]))

    def _check(self, trainer: L.Trainer, weights: str | None = None) -> None:
        step, message = self._first_bad(trainer)
        if weights is not None and step == _NEVER:
            step = trainer.global_step
            message = f"{weights} is not finite after step {step}, whose loss was finite: its gradient was not"
        first = torch.tensor(step, device=trainer.strategy.root_device)
        if trainer.world_size > 1:
            dist.all_reduce(first, dist.ReduceOp.MIN)
        if int(first) == _NEVER:
            return
        self._waiting = []
        raise RunError(
            f"{message or f'the loss is not finite at step {int(first)}, on another rank'}. Train with a lower "
            "learning rate (--model.optimizer.lr), clip gradients (--trainer.gradient_clip_val=1), give the term a "
            "lower weight, or use bf16-mixed or 32-true where precision is 16-mixed",
            repeats=True,
        )

    def _first_bad(self, trainer: L.Trainer) -> tuple[int, str]:
        """Return the first step whose loss was not finite, and what to say of it; ``_NEVER`` if there was none."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return _NEVER, ""
        losses = torch.stack([terms["train/loss"].detach().float() for _, terms in waiting]).tolist()
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        for (step, terms), loss in zip(waiting, losses, strict=True):
            if math.isfinite(loss):
                self._skipped = 0
                continue
            self._skipped += 1
            if not scaled or self._skipped >= _MOST_SKIPPED:
                return step, _described(step, {name: float(value) for name, value in terms.items()})
        return _NEVER, ""


def _described(step: int, values: dict[str, float]) -> str:
    total = values.pop("train/loss")
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    which = f"{', '.join(bad)} {'is' if len(bad) == 1 else 'are'} not finite" if bad else "their weighted sum is not"
    if len(bad) == len(values) > 1:
        which = "all terms at once, so that the step before made weights that are not finite, or inputs are too large"
    return f"the loss is {total} at step {step}: {which} ({told})" if values else f"the loss is {total} at step {step}"


def _not_finite(pl_module: L.LightningModule, state: dict[str, Tensor]) -> str | None:
    """Return the first parameter or running statistic that is not finite; other buffers may be anything."""
    checked = {name for name, _ in pl_module.named_parameters()}
    for name, tensor in state.items():
        if name not in checked and not name.endswith(("running_mean", "running_var")):
            continue
        local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # a shard of it
        if local.is_floating_point() and not bool(local.isfinite().all()):
            return name
    return None
