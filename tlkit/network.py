"""Backbone and task head as one network, and the one place that decides how domains share a forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tlkit.backbones.contract import check_backbone
from tlkit.batchnorm import DomainBatchNorm, layers_to_estimate, reestimate
from tlkit.errors import CheckpointError, ConfigurationError
from tlkit.notes import say
from tlkit.tasks import Task
from tlkit.types import DataSpec, DomainBatch, Encoded, Role, Samples

__all__ = ["BatchNormMode", "Network", "check_checkpoint", "check_weights", "weights_that_differ"]

BatchNormMode = Literal["joint", "separate", "domain_specific", "adabn"]


class Network(nn.Module):
    """``x -> backbone -> features -> task -> outputs``, with a bottleneck behind the backbone if it is asked for.

    Args:
        backbone: Any module with ``num_features`` that maps ``x`` to ``(B, num_features)``.
        task: Head, loss and metrics.
        batch_norm: How source and target rows meet in batch normalisation, which makes three different methods:

            - ``"joint"``: one forward pass over all rows; they are normalised together.
            - ``"separate"``: a pass each; each is normalised by its own batch statistics while training, and both
              update the same running statistics (source first).
            - ``"domain_specific"``: a pass each through its own batch-norm layers (statistics and affine parameters),
              one set for the sources and one for the targets (Chang et al., CVPR 2019).
            - ``"adabn"``: a pass each, with one scale and shift and statistics for each side; before every validation
              and after the last step the targets' are estimated anew on their unlabelled training rows (Li et al.,
              2016). It needs no loss: with ``adaptation: []`` training never sees the target.

    A backbone whose attribute ``bottleneck_features`` is a number asks for a linear layer of that width behind it, with
    batch normalisation, ReLU and dropout of one half after it; its output is then the features that losses and task
    see. The layer is new, so it is no part of the backbone: no fine-tuning strategy holds it back, and it learns as
    fast as the head.

    Raises:
        ConfigurationError: If ``batch_norm`` is unknown.
    """

    num_features: int
    bottleneck: nn.Module

    def __init__(self, backbone: nn.Module, task: Task, batch_norm: BatchNormMode = "joint") -> None:
        super().__init__()
        if batch_norm not in get_args(BatchNormMode):
            allowed = ", ".join(map(repr, get_args(BatchNormMode)))
            raise ConfigurationError(f"batch_norm must be one of {allowed}, got {batch_norm!r}")
        self.backbone = backbone
        self.bottleneck = nn.Identity()
        self.task = task
        self.batch_norm = batch_norm
        self.built = False
        # What the model that training starts from was trained on, and its network; see tlkit.start.
        self.start: tuple[DataSpec, Network] | None = None

    @property
    def num_outputs(self) -> int:
        """Width of the task's outputs."""
        return self.task.num_outputs

    @property
    def num_probabilities(self) -> int:
        """Width of the task's probabilities."""
        return self.task.num_probabilities

    def build(self, data: DataSpec, example: Any | None = None) -> None:
        """Check the backbone on an example, if there is one, and create the head. Does nothing the second time.

        Args:
            data: What the task may know of the data.
            example: Inputs of a few rows; without it ``backbone.num_features`` is taken at its word.

        Raises:
            BackboneError: If the backbone breaks its contract.
            ConfigurationError: If ``batch_norm`` keeps layers for each domain and there is no batch normalisation, or
                estimates statistics that no layer keeps.
        """
        if self.built:
            return
        self.num_features = check_backbone(self.backbone, example)
        width = getattr(self.backbone, "bottleneck_features", None)
        if width is not None:
            layer = nn.Linear(self.num_features, width)
            self.bottleneck = nn.Sequential(layer, nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5))
            self.num_features = width
        self.task.build(self.num_features, data)
        self._start_head(data)
        if self.by_domain and not DomainBatchNorm.replace(self, share_affine=self.batch_norm == "adabn"):
            raise ConfigurationError(
                f"batch_norm: {self.batch_norm} needs a network with batch normalisation, and "
                f"{type(self.backbone).__name__} has none: use joint or separate"
            )
        if self.batch_norm == "adabn" and not layers_to_estimate(self):
            raise ConfigurationError(
                f"batch_norm: adabn estimates batch-norm statistics, and the layers of {type(self.backbone).__name__} "
                "keep none (track_running_stats=False): use joint or separate, or let them keep statistics"
            )
        self.built = True

    def _start_head(self, data: DataSpec) -> None:
        """Take over the bottleneck and the head that training starts from, if the labels mean the same."""
        if self.start is None:
            return
        old, trained = self.start
        self.start = None
        if difference := old.difference(replace(data, classes=old.classes, quantities=old.quantities)):
            raise ConfigurationError(f"start_from: the model to start from {difference}")
        why = old.difference(data)
        if why is None and weights_that_differ(trained.bottleneck.state_dict(), self.bottleneck.state_dict()):
            why = "has another bottleneck"
        if why is None and not self.task.take_over(trained.task):
            why = f"has another head, that of {type(trained.task).__name__}"
        if why is None:
            self.bottleneck.load_state_dict(trained.bottleneck.state_dict())
        elif data.sources or data.labelled:
            say(f"training starts from the backbone alone and the head begins anew: the model to start from {why}")
        else:
            raise ConfigurationError(
                f"start_from: the head would begin anew and has no labels to learn from: the model to start from {why}."
                " Give this run its task and its classes, or name a source"
            )

    @property
    def by_domain(self) -> bool:
        """Whether sources and targets have batch-norm statistics of their own."""
        return self.batch_norm in ("domain_specific", "adabn")

    def forward(self, x: Any, role: Role = "target") -> tuple[Tensor, Tensor]:
        """Return ``(features, outputs)`` of ``x``; ``role`` picks the layers of domain-specific normalisation."""
        with self._as(role):
            features = self.bottleneck(self.backbone(x))
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
        if self.by_domain:
            for layer in self.modules():
                if isinstance(layer, DomainBatchNorm):
                    layer.role = role
        yield

    def reestimate(self, inputs: Iterable[Any]) -> None:
        """Estimate the targets' batch-norm statistics anew from batches of target inputs (``batch_norm="adabn"``)."""
        reestimate(self, inputs, lambda x: self(x, "target"))


def check_checkpoint(
    checkpoint: Mapping[str, Any], data: DataSpec | None, weights: Mapping[str, Tensor]
) -> DataSpec | None:
    """Return what a model was trained on, if its checkpoint says so; refuse one of another model, in words.

    Args:
        checkpoint: The checkpoint. What it was trained on is compared if it says so (``checkpoint["tlkit"]["data"]``).
        data: What the model that it is meant for was built for.
        weights: Those of that model.

    Raises:
        CheckpointError: If classes, quantities, names of inputs, or a weight's name or shape differ.
    """
    stored = checkpoint.get("tlkit", {}).get("data")
    trained = DataSpec.from_checkpoint(stored) if stored else None
    if trained and data and (difference := trained.difference(data)):
        raise CheckpointError(f"the model of the checkpoint {difference}")
    check_weights(checkpoint["state_dict"], weights)
    return trained


def check_weights(
    old: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    problem: str = "the checkpoint is of another model",
    advice: str = "use the config.yaml of the run that wrote it",
) -> None:
    """Refuse the weights of another model, in words.

    Args:
        old: The weights of a checkpoint.
        new: Those of the model that they are meant for.
        problem: What the error begins with.
        advice: What it ends with.

    Raises:
        CheckpointError: If a name or a shape differs.
    """
    if differ := weights_that_differ(old, new):
        raise CheckpointError(
            f"{problem}: {len(differ)} of {len(old.keys() | new.keys())} parameters and buffers are missing, "
            f"unexpected or of another shape, {', '.join(differ[:3])} among them; {advice}"
        )


def weights_that_differ(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> list[str]:
    """Return the names that are in one of two models alone, or of another shape in the new one."""
    differ = sorted(old.keys() ^ new.keys())  # of the others, a lazy layer's parameter takes any shape
    both = [name for name in old if name in new and isinstance(new[name], Tensor)]  # not what get_extra_state returned
    return differ + [k for k in both if not nn.parameter.is_lazy(new[k]) and old[k].shape != new[k].shape]


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
