"""The one optimizer of a run and how its learning rates follow training progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tlkit.finetuning.base import ParameterGroup
from tlkit.schedules import Schedule

__all__ = ["make_optimizer"]


def make_optimizer(
    factory: Callable[[Iterable[Any]], Optimizer],
    groups: Sequence[ParameterGroup],
    schedule: Schedule | None,
    progress: Callable[[int], float],
) -> Any:
    """Return an optimizer with a group for each of ``groups`` and, if any learning rate changes, its scheduler.

    Args:
        factory: Called with the groups as torch takes them.
        groups: Parameters that learn alike.
        schedule: Factor on every learning rate as a function of training progress.
        progress: Maps a number of steps to training progress in [0, 1].

    Returns:
        The optimizer, or what Lightning's ``configure_optimizers`` takes for one with a scheduler.

    Example:
        >>> import torch
        >>> weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
        >>> groups = [ParameterGroup("deep", weights[:1], lr_scale=0.1, start=0.5), ParameterGroup("head", weights[1:])]
        >>> made = make_optimizer(lambda given: torch.optim.SGD(given, lr=1.0), groups, None, lambda step: step / 4)
        >>> for _ in range(2):
        ...     made["optimizer"].step()
        ...     made["lr_scheduler"]["scheduler"].step()
        ...     print([group["lr"] for group in made["optimizer"].param_groups])
        [0.0, 1.0]
        [0.1, 1.0]
    """
    optimizer = factory([{"params": list(group.parameters), "name": group.name} for group in groups])
    for given, group in zip(optimizer.param_groups, groups, strict=True):
        given["lr"] = given["lr"] * group.lr_scale  # not in place: a tensor is the same one in every group
    if schedule is None and not any(group.start for group in groups):
        return optimizer

    def factor(start: float, step: int) -> float:
        if (now := progress(step)) < start:
            return 0.0
        return 1.0 if schedule is None else schedule(now)

    scheduler = LambdaLR(optimizer, [partial(factor, group.start) for group in groups])
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
