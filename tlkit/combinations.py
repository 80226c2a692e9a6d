"""Which ways of training give the numbers of one device, and which are refused, in words, before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from tlkit.errors import ConfigurationError
from tlkit.finetuning import FineTuning
from tlkit.losses.base import AdaptationLoss
from tlkit.network import Network
from tlkit.sharding import FSDP2, synchronises_batch_norm
from tlkit.types import DataSpec

__all__ = ["check_run"]


def check_run(
    trainer: Any, network: Network, losses: Sequence[AdaptationLoss], finetuning: FineTuning, data: DataSpec
) -> None:
    """Refuse a training whose losses, strategy, precision, normalisation and accumulation do not go together.

    Args:
        trainer: The trainer, about to train.
        network: The network; it need not be built yet.
        losses: The adaptation losses.
        finetuning: Which parameters of the backbone learn.
        data: What the model may know of the data.

    Raises:
        ConfigurationError: With what cannot be combined and what to do instead.
    """
    if trainer.max_epochs == trainer.max_steps == -1:
        raise ConfigurationError("schedules must know where training ends: set trainer.max_steps or max_epochs")
    if network.batch_norm == "adabn":
        _check_adabn(trainer, data)
    if network.batch_norm == "domain_specific":
        _check_domain_specific(losses, finetuning, data)
    for loss in losses:
        loss.check(network.task, data)
    _check_accumulation(trainer, losses)
    _check_strategy(trainer, losses)
    if data.quantities and trainer.precision in ("bf16-true", "16-true"):
        raise ConfigurationError(
            f"trainer.precision: {trainer.precision} rounds the labels, and those of this data are measured values: "
            "errors would be too small or too large by up to a part in 256. Set bf16-mixed, 16-mixed or 32-true"
        )
    if any(isinstance(each, StochasticWeightAveraging) for each in trainer.callbacks) and not network.built:
        raise ConfigurationError(
            "StochasticWeightAveraging copies the model before its head is made, and would average the backbone alone: "
            "take lightning's EMAWeightAveraging, or call model.build(data.spec(), data.example().x) before the fit"
        )


def _check_adabn(trainer: Any, data: DataSpec) -> None:
    if not data.targets:
        raise ConfigurationError(
            "batch_norm: adabn estimates statistics on the target's training rows, and data.targets is empty: name "
            "a target, or set batch_norm: joint"
        )
    if not trainer.enable_validation:
        raise ConfigurationError(
            "batch_norm: adabn estimates the target's statistics before each validation, and this run never "
            "validates: raise trainer.limit_val_batches above 0, or set batch_norm: joint"
        )
    every = trainer.val_check_interval
    by_step = isinstance(every, int) and trainer.check_val_every_n_epoch is None and trainer.max_steps > 0
    averaged = any(isinstance(each, WeightAveraging) for each in trainer.callbacks)
    if averaged and by_step and trainer.max_steps * trainer.accumulate_grad_batches % every:
        raise ConfigurationError(
            "batch_norm: adabn gives averaged weights the target's statistics in a validation, and none follows "
            f"the last step: make trainer.max_steps={trainer.max_steps} a multiple of val_check_interval={every}"
        )
    if synchronises_batch_norm(trainer.strategy):
        raise ConfigurationError(
            "batch_norm: adabn estimates statistics on each rank's own batches, and trainer.sync_batchnorm shares "
            "those of every batch: leave one of them out"
        )


def _check_domain_specific(losses: Sequence[AdaptationLoss], finetuning: FineTuning, data: DataSpec) -> None:
    if not (data.targets and any(loss.needs_target for loss in losses)):
        raise ConfigurationError(
            "batch_norm: domain_specific trains the target's own layers on target batches, and this run has none: "
            "name data.targets and a loss in adaptation, or set batch_norm: joint"
        )
    if not (data.sources or data.labelled):
        raise ConfigurationError(
            "batch_norm: domain_specific trains layers of the sources' own, and this run has no labelled rows: set "
            "batch_norm: joint, which starts from the target's layers of a run that had both"
        )
    if not finetuning.trains_batch_norm:
        raise ConfigurationError(
            "batch_norm: domain_specific trains normalisation layers of the target's own, and model.finetuning "
            "keeps all of the backbone's as it came: set batch_norm: adabn, which estimates the target's "
            "statistics without training, or take another finetuning"
        )


def _check_accumulation(trainer: Any, losses: Sequence[AdaptationLoss]) -> None:
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):
        raise ConfigurationError(
            "GradientAccumulationScheduler changes how many batches make a step, and with it which rows a step sees: "
            "set trainer.accumulate_grad_batches to one number instead"
        )
    batches = trainer.accumulate_grad_batches
    if batches == 1:
        return
    if others := [type(loss).__name__ for loss in losses if not loss.accumulates]:
        raise ConfigurationError(
            f"trainer.accumulate_grad_batches={batches} averages the loss over {batches} small batches, and "
            f"{', '.join(others)} of small batches {'is' if len(others) == 1 else 'are'} another loss than of a large "
            "one: raise data.batch_size or use more devices instead, whose rows are one batch, or take losses that are "
            "means over rows (DANN, CDAN without entropy, DELTA, L2SP)"
        )
    limit = trainer.limit_train_batches
    whole = limit is None or (isinstance(limit, float) and limit == 1)  # the whole number 1 is one batch
    if not whole and not trainer.fast_dev_run and (isinstance(limit, float) or limit % batches):
        raise ConfigurationError(
            f"trainer.limit_train_batches={limit} would end an epoch in the middle of a step of {batches} batches "
            f"(trainer.accumulate_grad_batches): set it to a multiple of {batches}"
        )


def _check_strategy(trainer: Any, losses: Sequence[AdaptationLoss]) -> None:
    strategy = trainer.strategy
    if isinstance(strategy, FSDP2):
        if trainer.precision == "16-mixed":
            raise ConfigurationError(
                "trainer.strategy: fsdp2 does not scale gradients, which trainer.precision: 16-mixed needs: set "
                "trainer.precision: bf16-mixed, or trainer.strategy: ddp"
            )
        if named := [type(loss).__name__ for loss in losses if loss.uses_parameters]:
            raise ConfigurationError(
                f"{', '.join(named)} compares the backbone's weights themselves, and trainer.strategy: fsdp2 leaves "
                "each rank a share of them: set trainer.strategy: ddp, or leave the loss out"
            )
    elif isinstance(strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
        raise ConfigurationError(
            f"trainer.strategy: {type(strategy).__name__} does not know which parts of a tlkit model to shard: set "
            "trainer.strategy: fsdp2, or ddp where the model fits into one device"
        )
