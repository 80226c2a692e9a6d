"""What a model knows of the data that it is trained or evaluated on, and the passes over it that takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from tlkit.errors import ConfigurationError
from tlkit.network import Network
from tlkit.tasks import Task
from tlkit.types import DataSpec, Role, Samples, map_tensors

__all__ = ["calibrate", "estimate_statistics", "learn_from", "refer", "role_of"]


def refer(trainer: Any, network: Network) -> None:
    """Give a task that asks for it outputs and labels of the sources' training and validation rows, of all ranks.

    Args:
        trainer: Whose data module, device and precision are used.
        network: The network, in evaluation mode.
    """
    if not network.task.needs_reference:
        return
    parts: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for batch in _placed(trainer, trainer.datamodule.reference_loader()):
            real = batch.index >= 0
            assert batch.y is not None
            parts.append((network(batch.x, "source")[1][real], batch.y[real]))
    outputs, y = (torch.cat(each) for each in zip(*parts, strict=True))
    if trainer.world_size > 1:
        outputs, y = (torch.cat(gather_all_tensors(each)) for each in (outputs, y))
    network.task.refer(outputs, y)


def role_of(batch: Samples, number: int, evaluated: DataSpec, trained: DataSpec | None, loader: int) -> Role:
    """Return the role that the model learned the domain of a loader in: a new one is a target.

    Args:
        batch: A batch of the loader.
        number: Its number; that the rows are of the domain is checked in the first batch, which waits for the device.
        evaluated: The data that is evaluated.
        trained: The data that the model was trained on, whose roles count.
        loader: The number of the loader.

    Raises:
        ConfigurationError: If the rows are of another domain: scores would carry its name, and sealed labels could
            come to decide.
    """
    if number == 0 and (domain := int(batch.domain[0])) != loader:
        names = [evaluated.domains[each] if each < len(evaluated.domains) else each for each in (loader, domain)]
        raise ConfigurationError(
            f"the loader in the place of domain {names[0]!r} gives rows of {names[1]!r}: evaluate with "
            "datamodule=data, which has a loader for each of data.eval_domains in this order; to evaluate some of them "
            "alone, make a data module with these roles"
        )
    return (trained or evaluated).role(evaluated.domains[loader])


def learn_from(trainer: Any, task: Task, trained: DataSpec, data: DataSpec) -> DataSpec:
    """Let a built task take over what a training's rows say, and return what the model is trained on from now on.

    The head stays, and with it the quantities' statistics and points that it was built with. Outside a training nothing
    changes.

    Raises:
        ConfigurationError: If the head cannot be trained on this data.
    """
    if not trainer.training:
        return trained
    task.learn_from(data)
    return replace(data, centre=trained.centre, scale=trained.scale, points=trained.points)


def calibrate(trainer: Any, task: Task, value: Tensor | None) -> None:
    """Let a task take over the value of its calibration, and its averaged copy too, which is what is kept of it.

    The averaged weights are validated, and are out of the module again when validation has ended. Outside a fit, and
    in the trial validation before it, the model stays as it is.
    """
    if value is None or trainer.state.fn != "fit" or trainer.sanity_checking:
        return
    task.calibrate(value)
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            cast(Any, callback._average_model.module).network.task.calibrate(value)


def estimate_statistics(trainer: Any, network: Network) -> None:
    """Estimate the targets' batch-norm statistics anew, in a fit whose method that is (AdaBN).

    Args:
        trainer: Whose data module, device and precision are used.
        network: The network; it is left in the mode that it is in.
    """
    if network.batch_norm == "adabn" and trainer.state.fn == "fit":
        network.reestimate(_target_inputs(trainer))


def _target_inputs(trainer: Any) -> Iterator[Any]:
    """Yield the targets' unlabelled training inputs, as they are read to evaluate, this rank's share of them."""
    for batch in _placed(trainer, trainer.datamodule.target_train_loader()):
        real = batch.index >= 0
        # Rows that pad the last batch of a rank would count twice; asking for them would wait for the device.
        yield map_tensors(batch.x, lambda x: x[real]) if trainer.world_size > 1 else batch.x  # noqa: B023


def _placed(trainer: Any, loader: Any) -> Iterator[Samples]:
    """Yield the batches of a loader as the trainer would hand them to the module: on its device, in its precision."""
    for batch in loader:
        yield trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
