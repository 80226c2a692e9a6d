"""The order of a pass over shards: by chance, and yet from a few shards at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["by_shard"]


def by_shard(shards: Sequence[Tensor], windows: Sequence[int], generator: torch.Generator, step: int) -> Tensor:
    """Return an order of the rows of some domains in which neighbours are of a few shards.

    The shards of a domain come in a random order and are taken a window at a time, whose rows are shuffled. The
    domains, one after the other in the rows, are mixed as chance has it, in proportion to their rows.

    Args:
        shards: ``(N,)`` the number of the shard of each row, a domain each.
        windows: Shards whose rows are shuffled together, a domain each.
        generator: What the order is drawn from.
        step: Rows a step, over all ranks; the order does not depend on it.

    Example:
        >>> shards = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
        >>> order = by_shard([shards], [2], torch.Generator().manual_seed(0), step=2)
        >>> shards[order], order.sort().values
        (tensor([0, 1, 0, 1, 2, 3, 3, 2]), tensor([0, 1, 2, 3, 4, 5, 6, 7]))
    """
    orders = [_of_one(*each, generator) for each in zip(shards, windows, strict=True)]
    sizes = torch.tensor([len(order) for order in orders])
    owner = torch.arange(len(orders)).repeat_interleave(sizes)
    if len(orders) > 1:
        owner = owner[torch.randperm(len(owner), generator=generator)]
    mixed = torch.empty(len(owner), dtype=torch.int64)
    for number, (order, end) in enumerate(zip(orders, sizes.cumsum(0).tolist(), strict=True)):
        mixed[owner == number] = order + (end - len(order))
    return mixed


def _of_one(shards: Tensor, window: int, generator: torch.Generator) -> Tensor:
    present, place = np.unique(shards.numpy(), return_inverse=True)
    turn = torch.randperm(len(present), generator=generator) // window
    order = torch.randperm(len(shards), generator=generator)
    return order[turn[torch.from_numpy(place)[order]].argsort(stable=True)]
