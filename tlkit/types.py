"""The values that pass between the parts of tlkit: batches, encoded batches, and what a task may know of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["Backbone", "DataSpec", "DomainBatch", "Encoded", "Encoder", "Role", "Samples", "Split", "map_tensors"]

Role = Literal["source", "target"]
Split = Literal["train", "val", "test", "reference"]


@runtime_checkable
class Backbone(Protocol):
    """A feature extractor: any module called as ``backbone(x) -> (B, num_features)``."""

    num_features: int

    def __call__(self, x: Any) -> Tensor:
        """Return the features of ``x``."""


def map_tensors(x: Any, function: Any) -> Any:
    """Apply ``function`` to a tensor, or to every value of a mapping of tensors."""
    if isinstance(x, Tensor):
        return function(x)
    return {key: function(value) for key, value in x.items()}


@dataclass
class Samples:
    """What one side of a batch holds.

    Attributes:
        x: Inputs, a ``(B, ...)`` tensor or a mapping of such tensors (a tokenizer's output).
        y: Labels, ``(B,)`` or ``(B, K)``; ``None`` where they are sealed.
        domain: ``(B,)`` int64, index into the data module's ``domains``.
        index: ``(B,)`` int64, position in the domain's data set; -1 marks a row that only pads an evaluation batch.
    """

    x: Any
    y: Tensor | None
    domain: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.domain)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Samples:
        """Return the samples on ``device``; a copy to the CPU waits for its values, which nothing else would."""
        non_blocking = non_blocking and torch.device(device).type not in ("cpu", "mps")
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Samples:
        """Return the samples in page-locked memory (what a loader calls)."""
        return self._map(lambda t: t.pin_memory())

    def _map(self, function: Any) -> Samples:
        y = None if self.y is None else function(self.y)
        return Samples(map_tensors(self.x, function), y, function(self.domain), function(self.index))


@dataclass
class DomainBatch:
    """One training batch: a source side, a target side, or both."""

    source: Samples | None
    target: Samples | None

    def __len__(self) -> int:
        return sum(len(side) for side in (self.source, self.target) if side is not None)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> DomainBatch:
        """Return the batch on ``device``."""
        return self._map(lambda side: side.to(device, non_blocking))

    def pin_memory(self) -> DomainBatch:
        """Return the batch in page-locked memory (what a loader calls)."""
        return self._map(lambda side: side.pin_memory())

    def _map(self, function: Any) -> DomainBatch:
        return DomainBatch(*(None if side is None else function(side) for side in (self.source, self.target)))


@dataclass
class Encoded:
    """Samples after the network; the rows of all ranks once gathered.

    Attributes:
        features: ``(B, D)`` output of the backbone.
        outputs: ``(B, C)`` output of the task's head.
        y: Labels as in :class:`Samples`.
        domain: ``(B,)`` int64.
        index: ``(B,)`` int64.
    """

    features: Tensor
    outputs: Tensor
    y: Tensor | None
    domain: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.domain)

    def raised(self) -> Encoded:
        """Return it with half precision raised to float32: distances overflow and covariances cancel in less."""
        half = (torch.float16, torch.bfloat16)
        features, outputs = (t.float() if t.dtype in half else t for t in (self.features, self.outputs))
        return replace(self, features=features, outputs=outputs)


@dataclass(frozen=True)
class DataSpec:
    """What the model may know of the data before it sees a batch. It is stored in every checkpoint.

    Attributes:
        domains: All domains of the run, in the order that ``Samples.domain`` counts them.
        sources: The labelled domains that are trained on.
        targets: The domains to adapt to, labels sealed.
        classes: Class names in the order of the labels; empty when the labels are not classes.
        class_counts: Number of labelled training rows of each class; empty when it is not known.
        quantities: Names of the columns of the labels when they are measured values, with their units: ``("x_m",
            "y_m")``; empty when the labels are classes.
        centre: Mean of each quantity over the labelled training rows.
        scale: Standard deviation of each quantity over the labelled training rows.
        points: The distinct labels of the labelled training rows when they are measured values, at most 4,096; empty if
            there are more.
        labelled: The targets some of whose labels are trained on.
        input_names: What the columns of ``x`` stand for where each has a meaning of its own, the words of a bag, the
            access points of a scan or the channels of a window; empty for other inputs.
    """

    domains: tuple[str, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    classes: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    quantities: tuple[str, ...] = ()
    centre: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    points: tuple[tuple[float, ...], ...] = ()
    labelled: tuple[str, ...] = ()
    input_names: tuple[str, ...] = ()

    @classmethod
    def from_checkpoint(cls, stored: Mapping[str, Sequence[Any]]) -> DataSpec:
        """Return what a checkpoint holds; what an older one does not have is not known."""
        return cls(**{name: tuple(value) for name, value in stored.items()})

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 when the labels are not classes."""
        return len(self.classes)

    def role(self, domain: str) -> Role:
        """Return the role that a domain is evaluated in: ``"source"`` if it is trained on, else ``"target"``."""
        return "source" if domain in self.sources else "target"

    def difference(self, new: DataSpec) -> str | None:
        """Say in which way other data would mean something else to a model that was built for this; None if in none.

        Inputs whose columns have no names, on either side, are taken to be the same.
        """
        for kind in ("classes", "quantities"):
            ours, theirs = list(getattr(self, kind)), list(getattr(new, kind))
            if ours != theirs:
                return f"was built for the {kind} {ours}, the data has {theirs}"
        if not self.input_names or not new.input_names or self.input_names == new.input_names:
            return None
        return (
            f"was built for {len(self.input_names)} named columns of x, and the {len(new.input_names)} of the data are "
            f"others: {_columns_that_differ(self.input_names, new.input_names)}. Give those that it was trained with: "
            "access points as in the table of its training; the same channels and signals.channels; words of the same "
            "data.sources and data.targets, which a bag of words is made from (other domains go into data.also_test)"
        )


def _columns_that_differ(old: Sequence[str], new: Sequence[str]) -> str:
    known, found = set(old), set(new)
    if known == found:
        place, one, other = next(
            (place, *pair) for place, pair in enumerate(zip(old, new, strict=True)) if len(set(pair)) > 1
        )
        return f"they are in another order, column {place} was {one!r} and is {other!r}"
    missing, added = [name for name in old if name not in found], [name for name in new if name not in known]
    return " and ".join(
        f"{len(names)} {what} ({', '.join(map(repr, names[:3]))}{', ...' if len(names) > 3 else ''})"
        for names, what in ((missing, "missing"), (added, "new"))
        if names
    )


class Encoder(Protocol):
    """What an adaptation loss may use of the network (:class:`tlkit.network.Network`)."""

    backbone: nn.Module
    task: Any

    def __call__(self, x: Any, role: Role) -> tuple[Tensor, Tensor]:
        """Return ``(features, outputs)`` of the inputs of one side."""

    @property
    def num_features(self) -> int:
        """Width of the features."""

    @property
    def num_outputs(self) -> int:
        """Width of the task's outputs."""

    @property
    def num_probabilities(self) -> int:
        """Width of what the task's ``probabilities`` returns."""

    def encode(self, batch: DomainBatch) -> tuple[Encoded | None, Encoded | None]:
        """Return source and target after the network."""
