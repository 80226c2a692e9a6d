"""Backbone and task head as one network, and the one place that decides how domains share a forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tlkit.backbones.contract import check_backbone
from tlkit.errors import ConfigurationError
from tlkit.tasks import Task
from tlkit.types import DataSpec, DomainBatch, Encoded, Role, Samples

__all__ = ["BatchNormMode", "DomainBatchNorm", "Network"]

BatchNormMode = Literal["joint", "separate", "domain_specific"]


class Network(nn.Module):
    """``x -> backbone -> features -> task -> outputs``.

    Args:
        backbone: Any module with ``num_features`` that maps ``x`` to ``(B, num_features)``.
        task: Head, loss and metrics.
        batch_norm: How source and target rows meet in batch normalisation, which makes three different methods:

            - ``"joint"``: one forward pass over all rows; they are normalised together.
            - ``"separate"``: a pass each; each is normalised by its own batch statistics while training, and both
              update the same running statistics (source first).
            - ``"domain_specific"``: a pass each through its own batch-norm layers (statistics and affine parameters),
              one set for the sources and one for the targets (Chang et al., CVPR 2019).
    """

    num_features: int

    def __init__(self, backbone: nn.Module, task: Task, batch_norm: BatchNormMode = "joint") -> None:
        super().__init__()
        if batch_norm not in ("joint", "separate", "domain_specific"):
            raise ConfigurationError(f"batch_norm must be 'joint', 'separate' or 'domain_specific', got {batch_norm!r}")
        self.backbone = backbone
        self.task = task
        self.batch_norm = batch_norm
        self._built = False

    @property
    def num_outputs(self) -> int:
        """Width of the task's outputs."""
        return self.task.num_outputs

    def build(self, data: DataSpec, example: Any | None = None) -> None:
        """Check the backbone on an example, if there is one, and create the head. Does nothing the second time.

        Args:
            data: What the task may know of the data.
            example: Inputs of a few rows; without it ``backbone.num_features`` is taken at its word.

        Raises:
            BackboneError: If the backbone breaks its contract.
            ConfigurationError: If ``batch_norm="domain_specific"`` and there is no batch normalisation.
        """
        if self._built:
            return
        self.num_features = check_backbone(self.backbone, example)
        self.task.build(self.num_features, data)
        if self.batch_norm == "domain_specific" and not DomainBatchNorm.replace(self):
            raise ConfigurationError(
                "batch_norm: domain_specific needs a network with batch normalisation, and "
                f"{type(self.backbone).__name__} has none: use joint or separate"
            )
        self._built = True

    def check_training(self, with_target: bool) -> None:
        """Refuse a run that would leave layers untrained which the target is evaluated with.

        Args:
            with_target: Whether training sees target batches.

        Raises:
            ConfigurationError: If ``batch_norm="domain_specific"`` and it does not.
        """
        if self.batch_norm == "domain_specific" and not with_target:
            raise ConfigurationError(
                "batch_norm: domain_specific trains the target's own layers on target batches, and this run has none: "
                "name data.targets and a loss in adaptation, or set batch_norm: joint"
            )

    def forward(self, x: Any, role: Role = "target") -> tuple[Tensor, Tensor]:
        """Return ``(features, outputs)`` of ``x``; ``role`` picks the layers of domain-specific normalisation."""
        with self._as(role):
            features = self.backbone(x)
            return features, self.task(features)

    def encode(self, batch: DomainBatch) -> tuple[Encoded | None, Encoded | None]:
        """Return source and target after the network, in one pass or two as ``batch_norm`` says."""
        source, target = batch.source, batch.target
        if source is None or target is None or self.batch_norm != "joint":
            return self._encode(source, "source"), self._encode(target, "target")
        features, outputs = self(_concatenate(source.x, target.x))
        rows = [len(source), len(target)]
        (source_features, target_features), (source_outputs, target_outputs) = features.split(rows), outputs.split(rows)
        return (
            Encoded(source_features, source_outputs, source.y, source.domain, source.index),
            Encoded(target_features, target_outputs, target.y, target.domain, target.index),
        )

    def _encode(self, samples: Samples | None, role: Role) -> Encoded | None:
        if samples is None:
            return None
        features, outputs = self(samples.x, role)
        return Encoded(features, outputs, samples.y, samples.domain, samples.index)

    @contextmanager
    def _as(self, role: Role) -> Iterator[None]:
        if self.batch_norm == "domain_specific":
            for layer in self.modules():
                if isinstance(layer, DomainBatchNorm):
                    layer.role = role
        yield


class DomainBatchNorm(nn.Module):
    """A batch-norm layer for the sources and one for the targets; ``role`` says which is in use."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.source = layer
        self.target = copy.deepcopy(layer)
        self.role: Role = "target"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` with the layer of the current role."""
        result: Tensor = self.source(x) if self.role == "source" else self.target(x)
        return result

    @classmethod
    def replace(cls, module: nn.Module) -> int:
        """Put a ``DomainBatchNorm`` in the place of every batch-norm layer below ``module``; return how many."""
        count = 0
        for name, child in list(module.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, cls(child))
                count += 1
            else:
                count += cls.replace(child)
        return count


def _concatenate(source: Any, target: Any) -> Any:
    """Join the rows of two inputs; tokenised texts of different length are padded on the right, masked out."""
    if isinstance(source, Tensor):
        if source.shape[1:] != target.shape[1:]:
            raise ConfigurationError(
                f"source rows have shape {tuple(source.shape[1:])} and target rows {tuple(target.shape[1:])}: they "
                "cannot share a forward pass; make the shapes equal, or set batch_norm: separate"
            )
        return torch.cat([source, target])
    if source.keys() != target.keys():
        raise ConfigurationError(f"source inputs have the keys {sorted(source)}, target inputs {sorted(target)}")
    return {key: torch.cat(_pad(source[key], target[key], "attention_mask" in source)) for key in source}


def _pad(source: Tensor, target: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
    missing = target.shape[1] - source.shape[1] if source.dim() > 1 and target.dim() > 1 else 0
    if missing == 0:
        return source, target
    if not masked:
        raise ConfigurationError(
            f"source and target rows are {source.shape[1]} and {target.shape[1]} long and carry no attention_mask: "
            "they cannot share a forward pass; set batch_norm: separate"
        )
    # Zero in the attention mask hides the padded positions, so the value of the other keys there does not matter.
    if missing > 0:
        return nn.functional.pad(source, (0, missing)), target
    return source, nn.functional.pad(target, (0, -missing))
