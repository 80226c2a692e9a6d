"""The contract of an adaptation loss."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from tlkit.errors import ConfigurationError, ContractError, unknown
from tlkit.schedules import Constant, Schedule
from tlkit.tasks.base import Task
from tlkit.types import DataSpec, DomainBatch, Encoded, Encoder

__all__ = ["AdaptationLoss", "as_values", "by_name", "check_on", "learning_parameters"]


class AdaptationLoss(nn.Module):
    """A loss on an encoded source batch and an encoded target batch.

    A subclass defines ``forward(source, target)`` and returns a scalar, or a dict with ``"loss"`` and values to log.
    It is called with autocast off and with features and outputs in float32 (or float64), and under distributed training
    with the rows of all ranks, so it never has to think of precision or ranks.

    Args:
        weight: Factor of the loss in the total; a number, or a schedule of training progress.

    Attributes:
        needs_source: Whether the loss is undefined without a labelled side: rows of the sources, and of targets some
            of whose labels are trained on. Class attribute.
        needs_target: Whether the loss is undefined without a target side; the run is refused then. Class attribute.
        needs_probabilities: Whether it calls ``self.probabilities``, the task's map from outputs to probabilities; a
            task without them is refused. Class attribute.
        needs_classes: Whether it compares the classes of labels; a run whose labels are measured values is refused.
            Class attribute.
        accumulates: Whether its value on a batch is the mean of its values on equal parts of the batch, so that the
            gradients of several small batches add up to that of a large one. A mean over rows is; a distance of means,
            covariances or kernels is not. A run with ``trainer.accumulate_grad_batches`` is refused unless it holds for
            all of its losses. Class attribute, or set by a constructor whose arguments decide.
        uses_parameters: Whether it looks at the backbone's parameters themselves, and not only at what the network
            computes; refused where they are sharded over the ranks. Class attribute.
        progress: Training progress in [0, 1]; the module sets it before every step.
    """

    needs_source: bool = True
    needs_target: bool = True
    needs_probabilities: bool = False
    needs_classes: bool = False
    accumulates: bool = False
    uses_parameters: bool = False
    probabilities: Callable[[Tensor], Tensor]

    def __init__(self, weight: float | Schedule = 1.0) -> None:
        super().__init__()
        self.weight: Schedule = weight if isinstance(weight, Schedule) else Constant(float(weight))
        self.progress = 0.0

    @property
    def name(self) -> str:
        """The name in logs: the class name in snake case (``MMD`` -> ``mmd``, ``DeepCORAL`` -> ``deep_coral``)."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(self).__name__).lower()

    def check(self, task: Task, data: DataSpec) -> None:
        """Refuse a run in which this loss cannot be computed.

        Raises:
            ConfigurationError: If there is no target, no domain with labels, no classes, or the task has no
                probabilities, where needed.
        """
        if self.needs_target and not data.targets:
            raise ConfigurationError(
                f"the adaptation loss {type(self).__name__} needs a target domain, and data.targets is empty: name "
                "one, or set adaptation: []"
            )
        if self.needs_source and not (data.sources or data.labelled):
            raise ConfigurationError(
                f"the adaptation loss {type(self).__name__} needs a source domain, and data.sources is empty: name "
                "one, give a target labels (data.labels_per_class), or set adaptation: []"
            )
        if self.needs_classes and not data.classes:
            labels = f" (its labels are {', '.join(data.quantities)})" if data.quantities else ""
            raise ConfigurationError(
                f"the adaptation loss {type(self).__name__} compares classes, and the data of the task "
                f"{type(task).__name__} names none{labels}: use another loss, or data with classes and a task for "
                "them, such as Hashing"
            )
        if self.needs_probabilities and not task.has_probabilities:
            raise ConfigurationError(
                f"the adaptation loss {type(self).__name__} needs class probabilities, and the task "
                f"{type(task).__name__} has none: use another loss, or a task such as Classification"
            )

    def build(self, network: Encoder) -> None:
        """Create layers that depend on the network's shapes. Called once, before the optimizer is made.

        A subclass with ``needs_probabilities`` that defines it calls ``super().build(network)``.
        """
        if self.needs_probabilities:
            self.probabilities = network.task.probabilities

    def forward(self, source: Encoded, target: Encoded) -> Tensor | dict[str, Tensor]:
        """Return the loss of a source and a target batch."""
        raise ContractError(f"{type(self).__name__} must define forward(source, target)")

    def step(
        self, network: Encoder, batch: DomainBatch, source: Encoded, target: Encoded
    ) -> Tensor | dict[str, Tensor]:
        """What the module calls: ``forward``, unless a loss must encode again (a second view, mixed inputs)."""
        result: Tensor | dict[str, Tensor] = self(source, target)
        return result


def as_values(loss: AdaptationLoss, result: Any) -> Mapping[str, Any]:
    """Return what a loss returned, a scalar or a dict, as a dict with ``"loss"``.

    Raises:
        ConfigurationError: If the loss is no tensor of shape ``()``.
    """
    values = result if isinstance(result, Mapping) else {"loss": result}
    value = values.get("loss")
    if isinstance(value, Tensor) and value.dim() == 0:
        return values
    what = "a dict without 'loss'" if "loss" not in values else f"a {type(value).__name__}"
    hint = "compute it from features and outputs with torch, or nothing learns from it"
    if isinstance(value, Tensor):
        what, hint = f"a tensor of shape {tuple(value.shape)}", "reduce it, as with .mean()"
    raise ConfigurationError(
        f"the adaptation loss {type(loss).__name__} must return a tensor of shape (), or a dict with such a 'loss', "
        f"got {what}: {hint}"
    )


def learning_parameters(network: Encoder, loss: AdaptationLoss) -> list[nn.Parameter]:
    """Return the backbone's trainable parameters, for a loss that holds a backbone back while it learns.

    Raises:
        ConfigurationError: If there are none.
    """
    parameters = [parameter for parameter in network.backbone.parameters() if parameter.requires_grad]
    if not parameters:
        raise ConfigurationError(
            f"the adaptation loss {type(loss).__name__} holds the backbone back while it learns, and no parameter of "
            f"{type(network.backbone).__name__} does: leave the loss out, or choose another finetuning than LinearProbe"
        )
    return parameters


def check_on(loss: AdaptationLoss, on: str) -> None:
    """Refuse what a loss is to compare unless it is the features or the outputs.

    Raises:
        ConfigurationError: If it is neither.
    """
    if on not in ("features", "outputs"):
        raise ConfigurationError(f"{type(loss).__name__}(on=...): {unknown('part', str(on), ('features', 'outputs'))}")


def by_name(losses: Iterable[AdaptationLoss]) -> dict[str, AdaptationLoss]:
    """Give each loss its name in logs; a second one of a class is numbered."""
    named: dict[str, AdaptationLoss] = {}
    for loss in losses:
        same = sum(other.name == loss.name for other in named.values())
        named[f"{loss.name}_{same + 1}" if same else loss.name] = loss
    return named
