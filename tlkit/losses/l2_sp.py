"""L2-SP: the backbone stays near the weights that it came with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tlkit import functional
from tlkit.losses.base import AdaptationLoss, learning_parameters
from tlkit.schedules import Schedule
from tlkit.types import DomainBatch, Encoded, Encoder

__all__ = ["L2SP"]


class L2SP(AdaptationLoss):
    r"""Half the squared distance of the backbone's parameters from where they were when training began.

    :math:`\tfrac12 \lVert w - w^0 \rVert^2`, see :func:`tlkit.functional.l2_sp`; ``weight`` is the paper's
    :math:`\alpha`. Li et al., "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML 2018.
    It takes the place of weight decay: by an optimizer that has one too, the backbone is pulled to 0 as well. For the
    paper's penalty set the optimizer's ``weight_decay`` to 0 and ``beta`` to 1, which holds the head near 0 with the
    same strength. Usual weight: 0.01 to 0.1.

    All trainable parameters of the backbone count, scale and shift of batch normalisation among them; its running
    statistics are no parameters. The starting point is that of the first start, also in a resumed run: it is in every
    checkpoint. No data is looked at.

    Args:
        beta: Factor of :math:`\tfrac12 \lVert w \rVert^2` over the parameters of the task's head, on top of ``weight``.
        weight: Factor of the loss, a number or a schedule.

    Example:
        >>> from types import SimpleNamespace
        >>> network = SimpleNamespace(backbone=nn.Linear(2, 3), task=nn.Module())
        >>> loss = L2SP()
        >>> loss.build(network)
        >>> with torch.no_grad():
        ...     _ = network.backbone.bias.add_(2.0)
        >>> loss.step(network, None, None, None).detach()
        tensor(6.)
    """

    needs_source = False
    needs_target = False
    accumulates = True
    uses_parameters = True
    start: Tensor

    def __init__(self, beta: float = 0.0, weight: float | Schedule = 1.0) -> None:
        super().__init__(weight)
        self.beta = beta

    def build(self, network: Encoder) -> None:
        """Remember the starting point."""
        parameters = learning_parameters(network, self)
        # No buffer: distributed training sends every buffer to all ranks before each step.
        if any(
            map(nn.parameter.is_lazy, parameters)
        ):  # a model that is built to load a checkpoint, which has the start
            self.start = nn.UninitializedParameter(requires_grad=False)
        else:
            values = torch.cat([parameter.detach().flatten() for parameter in parameters])
            self.start = nn.Parameter(values, requires_grad=False)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}start")
        if saved is not None and isinstance(self.start, nn.UninitializedParameter):
            self.start.materialize(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def step(self, network: Encoder, batch: DomainBatch, source: Encoded, target: Encoded) -> Tensor:
        """Return the distance from the starting point, and ``beta`` times the head's from 0."""
        loss = functional.l2_sp(learning_parameters(network, self), self.start)
        head = [parameter for parameter in network.task.parameters() if parameter.requires_grad]
        if self.beta and head:
            loss = loss + self.beta * functional.l2_sp(head, torch.zeros_like(self.start[:1]))
        return loss
