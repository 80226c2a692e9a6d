"""Passes over training rows that an evaluation needs before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from tlkit.network import Network
from tlkit.types import Samples, map_tensors

__all__ = ["collect_reference", "estimate_statistics"]


def collect_reference(trainer: Any, network: Network) -> tuple[Tensor, Tensor]:
    """Return outputs and labels of the sources' training and validation rows, those of all ranks on every rank.

    Args:
        trainer: Whose data module, device and precision are used.
        network: The network, in evaluation mode.
    """
    parts: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for batch in _placed(trainer, trainer.datamodule.reference_loader()):
            real = batch.index >= 0
            assert batch.y is not None
            parts.append((network(batch.x, "source")[1][real], batch.y[real]))
    outputs, y = (torch.cat(each) for each in zip(*parts, strict=True))
    if trainer.world_size > 1:
        outputs, y = (torch.cat(gather_all_tensors(each)) for each in (outputs, y))
    return outputs, y


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
