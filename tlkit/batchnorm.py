"""Batch normalisation that knows the domain."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tlkit.types import Role

__all__ = ["DomainBatchNorm", "RankBatchNorm", "layers_to_estimate", "normalise_over_ranks", "reestimate"]


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

    @classmethod
    def restore(cls, module: nn.Module) -> None:
        """Put the targets' layer in the place of every ``DomainBatchNorm`` below ``module``."""
        for name, child in list(module.named_children()):
            if isinstance(child, cls):
                setattr(module, name, child.target)
            else:
                cls.restore(child)


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks; every rank's loss depends on every rank's rows through it, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        dist.all_reduce(grad)
        return grad


class RankBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation by the rows of all ranks while training, for the CPU, where torch's own refuses to.

    Mean, variance and gradients are those of one rank with all the rows.

    Example:
        >>> layer, x = RankBatchNorm(3), torch.randn(8, 3)
        >>> torch.equal(layer(x), nn.BatchNorm1d(3)(x))  # a single process
        True
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of dimensions: the layer whose place this took has checked."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input``, ``(B, C, ...)``, normalised by channel."""
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if not (several and self.training):
            return super().forward(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        others = [dim for dim in range(x.dim()) if dim != 1]
        # Sums in double precision, as torch's own layer on one process takes them.
        wide, shape = torch.float64, [1, -1] + [1] * (x.dim() - 2)
        count = x.new_full((1,), x.numel() // x.shape[1], dtype=wide)
        sums, count = _SumOverRanks.apply(torch.cat([x.sum(others, dtype=wide), count])).split([x.shape[1], 1])
        mean = sums / count
        centred = x - mean.to(x.dtype).reshape(shape)
        variance = _SumOverRanks.apply(centred.square().sum(others, dtype=wide)) / count
        self._remember(mean.detach(), variance.detach() * count.detach() / (count.detach() - 1))
        normal = centred * (variance + self.eps).rsqrt().to(x.dtype).reshape(shape)
        if self.affine:
            normal = normal * self.weight.reshape(shape) + self.bias.reshape(shape)
        output: Tensor = normal.to(input.dtype)
        return output

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def normalise_over_ranks(module: nn.Module, device: torch.device) -> None:
    """Let every batch-norm layer below ``module`` normalise by the rows of all ranks; weights and names stay.

    Args:
        module: What holds the layers.
        device: Where it will train. Torch has a layer for GPUs that it refuses the CPU.
    """
    # timm's conversion and not torch's, which drops the activation that many of timm's layers have inside.
    from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm

    for name, child in list(module.named_children()):
        if not isinstance(child, nn.modules.batchnorm._BatchNorm):
            normalise_over_ranks(child, device)
        elif isinstance(child, RankBatchNorm | nn.SyncBatchNorm):  # of an earlier fit
            continue
        elif device.type == "cpu":
            child.__class__ = _RankBatchNormAct if isinstance(child, BatchNormAct2d) else RankBatchNorm
        else:
            setattr(module, name, convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]


class _RankBatchNormAct(RankBatchNorm):
    """In the place of timm's layer with dropout and activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


def layers_to_estimate(network: nn.Module) -> list[Any]:
    """Return the targets' batch-norm layers that keep statistics.

    Those with ``track_running_stats=False`` keep none: they normalise by the batch in evaluation too.
    """
    targets = [each.target for each in network.modules() if isinstance(each, DomainBatchNorm)]
    return [layer for layer in targets if layer.running_mean is not None]


def reestimate(network: nn.Module, inputs: Iterable[Any], forward: Callable[[Any], Any]) -> None:
    """Set the statistics of the targets' batch-norm layers to those of ``inputs``, over all ranks (AdaBN).

    Every layer gets the mean over batches of the batches' means and variances, each weighted by its rows, as the layers
    before it are normalised by the batch; a batch of one row is left out. Nothing else changes: all other layers are in
    evaluation mode meanwhile. Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", 2016 (arXiv
    1603.04779).

    Args:
        network: The network, with :class:`DomainBatchNorm` layers; those that keep no statistics are left out.
        inputs: Batches of target inputs of this rank.
        forward: Passes one batch through the network as a target.
    """
    layers = layers_to_estimate(network)
    sums = [layer.running_mean.new_zeros((2, layer.num_features), dtype=torch.float64) for layer in layers]
    rows = sums[0].new_zeros(())
    momenta = [layer.momentum for layer in layers]
    modes = [(module, module.training) for module in network.modules()]
    with torch.no_grad():
        try:
            network.eval()
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
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
            for module, mode in modes:
                module.training = mode
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            for total in (rows, *sums):
                dist.all_reduce(total)
        for layer, total in zip(layers, sums, strict=True):
            mean, variance = total / rows
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(variance)
