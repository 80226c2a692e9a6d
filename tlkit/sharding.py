"""How a built model is laid out over the processes: parameters in shards, batch normalisation over all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from tlkit.batchnorm import normalise_over_ranks
from tlkit.errors import CheckpointError, ConfigurationError
from tlkit.network import Network
from tlkit.notes import say

__all__ = ["FSDP2", "lay_out", "synchronises_batch_norm"]

_BatchNorm = nn.modules.batchnorm._BatchNorm


class FSDP2(ModelParallelStrategy):
    """Fully sharded data parallel training (``trainer.strategy: fsdp2``).

    Each process keeps its share of every parameter, gradient and optimizer state, and gathers the parameters of a block
    of the backbone while it computes with it: Zhao et al., "PyTorch FSDP", VLDB 2023. Losses see the rows of all ranks,
    as under DDP. A checkpoint is one file with the whole weights, as on one device: ``tlkit test``, ``tlkit.load`` and
    a resumed run on any number of processes and with any other strategy read it.

    Args:
        process_group_backend: As in Lightning's ``ModelParallelStrategy``.
        timeout: How long a process waits for the others.
    """

    def __init__(self, process_group_backend: str | None = None, timeout: timedelta = timedelta(minutes=30)) -> None:
        super().__init__(
            save_distributed_checkpoint=False, process_group_backend=process_group_backend, timeout=timeout
        )

    def setup_environment(self) -> None:
        """Start the processes' group; all of them share out the parameters."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load weights and optimizer from a checkpoint, once it is known to be of this model.

        Raises:
            CheckpointError: If it is of another model or other data, or a folder of shards.
        """
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder of shards, which tlkit does not write: give a .ckpt file")
        # Lightning would load what fits, and ask the module only afterwards.
        whole = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        assert self.lightning_module is not None
        self.lightning_module.on_load_checkpoint(whole)
        return {**super().load_checkpoint(path, weights_only=weights_only), "state_dict": whole["state_dict"]}


StrategyRegistry.register("fsdp2", FSDP2, description="fully sharded data parallel, for models larger than a device")


class _SynchronisedBefore(TorchSyncBatchNorm):
    """In the place of Lightning's own, which drops the activations in timm's layers and refuses the CPU.

    It changes nothing; that it is there tells the next fit of the trainer what was asked for.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        return model


def synchronises_batch_norm(strategy: Any) -> bool:
    """Return whether batch normalisation is to be that of all ranks' rows (``trainer.sync_batchnorm``)."""
    return isinstance(getattr(strategy, "_layer_sync", None), TorchSyncBatchNorm)


def lay_out(trainer: Any, network: Network, losses: Mapping[str, nn.Module]) -> None:
    """Put batch normalisation over the ranks, and shard the parameters, where the trainer is told to.

    Args:
        trainer: The trainer, before it wraps the model and makes the optimizer.
        network: The built network.
        losses: The built adaptation losses.

    Raises:
        ConfigurationError: If batch normalisation would keep statistics that differ by rank.
    """
    strategy = trainer.strategy
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    if trainer.training:
        if synchronises_batch_norm(strategy):
            normalise_over_ranks(network, strategy.root_device)
            strategy._layer_sync = _SynchronisedBefore()
        elif norms and isinstance(strategy, FSDP2) and trainer.world_size > 1:
            raise ConfigurationError(
                f"trainer.strategy: fsdp2 leaves the statistics of the {len(norms)} batch-norm layers different on "
                "every rank: set trainer.sync_batchnorm: true, or trainer.strategy: ddp"
            )
        if norms and trainer.accumulate_grad_batches > 1:
            say(
                f"batch normalisation takes its statistics from each of the {trainer.accumulate_grad_batches} batches "
                "of a step by itself (trainer.accumulate_grad_batches)"
            )
    if isinstance(strategy, FSDP2) and not isinstance(network, FSDPModule):
        _shard(strategy, network, list(losses.values()))


def _shard(strategy: FSDP2, network: Network, losses: Sequence[nn.Module]) -> None:
    mesh = strategy.device_mesh["data_parallel"]
    learning = [loss for loss in losses if any(parameter.requires_grad for parameter in loss.parameters())]
    for module in (network, *losses):
        module.to(strategy.root_device)
        for tensor in chain(module.parameters(), module.buffers()):
            tensor.data = tensor.data.contiguous()  # timm's are in channels-last order, which cannot be sharded
            dist.broadcast(tensor.data, src=0)  # DDP begins with the values of rank 0 too
    for module in (*_blocks(network.backbone), network, *learning):
        # The outermost too: what stayed whole after an evaluation would be left out when a checkpoint is loaded.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules that repeat in a list or sequence, such as the layers of a transformer."""
    for child in module.children():
        entries = list(child.children()) if isinstance(child, nn.Sequential | nn.ModuleList) else []
        repeats = len(entries) > 1 and len({type(entry) for entry in entries}) == 1
        if repeats and all(any(True for _ in entry.children()) for entry in entries):
            yield from entries
        else:
            yield from _blocks(child)
