"""Batch normalisation that knows the domain."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tlkit.types import Role

__all__ = ["DomainBatchNorm", "reestimate"]


class DomainBatchNorm(nn.Module):
    """A batch-norm layer for the sources and one for the targets; ``role`` says which is in use.

    Args:
        layer: The layer that takes the sources, and that the other one is a copy of.
        share_affine: Whether both have the same scale and shift, so that only their statistics differ.
    """

    def __init__(self, layer: nn.Module, share_affine: bool = False) -> None:
        super().__init__()
        self.source = layer
        self.target = copy.deepcopy(layer)
        if share_affine:
            self.target.weight, self.target.bias = layer.weight, layer.bias
        self.role: Role = "target"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` with the layer of the current role."""
        result: Tensor = self.source(x) if self.role == "source" else self.target(x)
        return result

    @classmethod
    def replace(cls, module: nn.Module, share_affine: bool = False) -> int:
        """Put a ``DomainBatchNorm`` in the place of every batch-norm layer below ``module``; return how many."""
        count = 0
        for name, child in list(module.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, cls(child, share_affine))
                count += 1
            else:
                count += cls.replace(child, share_affine)
        return count


def reestimate(network: nn.Module, inputs: Iterable[Any], forward: Callable[[Any], Any]) -> None:
    """Set the statistics of the targets' batch-norm layers to those of ``inputs``, over all ranks (AdaBN).

    Every layer gets the mean over batches of the batches' means and variances, each weighted by its rows, as the layers
    before it are normalised by the batch; a batch of one row is left out. Nothing else changes: other layers stay in
    evaluation mode. Li et al.,
    "Revisiting Batch Normalization for Practical Domain Adaptation", 2016 (arXiv 1603.04779).

    Args:
        network: The network, with :class:`DomainBatchNorm` layers.
        inputs: Batches of target inputs of this rank; every rank must have the same number.
        forward: Passes one batch through the network as a target.
    """
    layers: list[Any] = [each.target for each in network.modules() if isinstance(each, DomainBatchNorm)]
    sums = [layer.running_mean.new_zeros((2, layer.num_features), dtype=torch.float64) for layer in layers]
    rows = sums[0].new_zeros(())
    momenta = [layer.momentum for layer in layers]
    modes = [layer.training for layer in layers]
    with torch.no_grad():
        try:
            for layer in layers:
                layer.train()
                layer.momentum = 1.0  # the running statistics become the batch's
            for x in inputs:
                count = len(x if isinstance(x, Tensor) else next(iter(x.values())))
                if count < 2:  # the last batch of an odd number of rows: one row has no variance
                    continue
                forward(x)
                rows += count
                for layer, total in zip(layers, sums, strict=True):
                    total += count * torch.stack([layer.running_mean, layer.running_var]).double()
        finally:
            for layer, momentum, mode in zip(layers, momenta, modes, strict=True):
                layer.momentum = momentum
                layer.train(mode)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            for total in (rows, *sums):
                dist.all_reduce(total)
        for layer, total in zip(layers, sums, strict=True):
            mean, variance = total / rows
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(variance)
