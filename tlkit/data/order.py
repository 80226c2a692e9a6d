"""In which order a pass goes through its rows, where chance alone would be slow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["by_length", "by_shard"]

_POOL = 64  # steps whose rows are sorted together: the more, the less padding, and the less chance in a batch


def by_length(lengths: Tensor, generator: torch.Generator, step: int) -> Tensor:
    """Return an order of rows in which those of a step are of about the same length; the steps come as chance has it.

    Rows are drawn into pools of 64 steps, and sorted by length inside a pool. The rows that fill no step come last.

    Args:
        lengths: ``(N,)`` length of each row.
        generator: What the order is drawn from.
        step: Rows a step, over all ranks.

    Example:
        >>> lengths = torch.tensor([3, 9, 1, 8, 2, 9, 3])
        >>> order = by_length(lengths, torch.Generator().manual_seed(0), step=2)
        >>> lengths[order]
        tensor([3, 3, 8, 9, 1, 2, 9])
    """
    order = torch.randperm(len(lengths), generator=generator)
    whole = len(order) // step * step
    # Sorted by length, then stably by pool.
    rows = order[:whole]
    pool = torch.arange(whole) // (step * _POOL)
    by = lengths[rows].argsort(stable=True)
    rows = rows[by[pool[by].argsort(stable=True)]].reshape(-1, step)
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    return torch.cat([shuffled.flatten(), order[whole:]])


def by_shard(domains: Sequence[tuple[Tensor, int]], generator: torch.Generator, step: int) -> Tensor:
    """Return an order of the rows of some domains in which neighbours are of a few shards.

    The shards of a domain come in a random order and are taken a window at a time, whose rows are shuffled. The
    domains, one after the other in the rows, are mixed as chance has it, in proportion to their rows. Rows that fill no
    step come last; each is as likely to, whatever its shard.

    Args:
        domains: Of each domain ``(N,)`` the number of the shard of each row, and how many shards make a window.
        generator: What the order is drawn from.
        step: Rows a step, over all ranks.

    Example:
        >>> shards = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
        >>> order = by_shard([(shards, 2)], torch.Generator().manual_seed(0), step=2)
        >>> shards[order], order.sort().values
        (tensor([0, 1, 0, 1, 2, 3, 3, 2]), tensor([0, 1, 2, 3, 4, 5, 6, 7]))
    """
    orders = [_of_one(*each, generator) for each in domains]
    sizes = torch.tensor([len(order) for order in orders])
    owner = torch.arange(len(orders)).repeat_interleave(sizes)
    if len(orders) > 1:
        owner = owner[torch.randperm(len(owner), generator=generator)]
    mixed = torch.empty(len(owner), dtype=torch.int64)
    for number, (order, end) in enumerate(zip(orders, sizes.cumsum(0).tolist(), strict=True)):
        mixed[owner == number] = order + (end - len(order))
    # Not those that happen to be last: the rows of a small shard would be so much too often.
    late = torch.zeros(len(mixed), dtype=torch.bool)
    late[torch.randperm(len(mixed), generator=generator)[: len(mixed) % step]] = True
    late = late[mixed]
    return torch.cat([mixed[~late], mixed[late]])


def _of_one(shards: Tensor, window: int, generator: torch.Generator) -> Tensor:
    present, place = np.unique(shards.numpy(), return_inverse=True)
    turn = torch.randperm(len(present), generator=generator) // window
    order = torch.randperm(len(shards), generator=generator)
    return order[turn[torch.from_numpy(place)[order]].argsort(stable=True)]
