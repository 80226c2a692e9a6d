"""In which order a pass goes through its rows, where chance alone would be slow."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["by_length"]

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
