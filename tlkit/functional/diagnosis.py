"""How well a score tells rows with a finding from those without: curves, thresholds, and resampled rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from tlkit.functional.deterministic import cumulative_sum

__all__ = ["auroc", "resampled_counts", "sensitivity_threshold", "youden_threshold"]

_AT_ONCE = 2**21  # numbers of a block of resamples: 16 MiB in float64


def auroc(score: Tensor, positive: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Return the area under the ROC curve: how often a row with the finding scores above one without, ties for half.

    Args:
        score: ``(n,)``, the higher the more likely the finding.
        positive: ``(n,)`` bool, whether a row has it.
        weights: ``(..., n)`` how often each row counts, for many samples of the same rows at once; each once by
            default.

    Returns:
        ``(...)`` float64; NaN where one of the two kinds of rows is missing.

    Example:
        >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([False, False, True, True]))  # 3.5 of 4 pairs
        tensor(0.8750, dtype=torch.float64)
    """
    counts = torch.ones(len(score), dtype=torch.float64, device=score.device) if weights is None else weights.double()
    values, group = torch.unique(score, return_inverse=True)  # ascending
    with_it, without = (
        counts.new_zeros(*counts.shape[:-1], len(values)).index_add(-1, group, counts * rows)
        for rows in (positive, ~positive)
    )
    below = cumulative_sum(without, dim=-1) - without
    return (with_it * (below + without / 2)).sum(-1) / (with_it.sum(-1) * without.sum(-1))


def sensitivity_threshold(score: Tensor, positive: Tensor, sensitivity: float) -> Tensor:
    """Return the highest threshold at which the given share of the rows with the finding is found.

    A row is found if its score is at least the threshold.

    Args:
        score: ``(n,)``.
        positive: ``(n,)`` bool.
        sensitivity: The share, in (0, 1].

    Returns:
        A scalar of the type of the scores, one of them; NaN if no row has the finding.

    Example:
        >>> sensitivity_threshold(torch.tensor([3.0, 1.0, 2.0, 4.0, 9.0]), torch.tensor([1, 1, 1, 1, 0]).bool(), 0.75)
        tensor(2.)
    """
    found = score[positive].sort(descending=True).values
    if len(found) == 0:
        return score.new_tensor(torch.nan)
    return found[math.ceil(sensitivity * len(found) - 1e-9) - 1]


def youden_threshold(score: Tensor, positive: Tensor) -> Tensor:
    """Return the threshold with the highest sum of sensitivity and specificity (Youden, Cancer 1950).

    A row is found if its score is at least the threshold. Of several it is the lowest, which finds the most.

    Args:
        score: ``(n,)``.
        positive: ``(n,)`` bool.

    Returns:
        A scalar of the type of the scores, one of them; NaN if one of the two kinds of rows is missing.

    Example:
        >>> youden_threshold(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([False, True, False, True]))
        tensor(2.)
    """
    if len(score) == 0 or positive.all() or not positive.any():
        return score.new_tensor(torch.nan)
    values, group = torch.unique(score, return_inverse=True)
    share = torch.zeros(2, len(values), dtype=torch.float64, device=score.device)
    for row, kind in enumerate((positive, ~positive)):
        share[row].index_add_(0, group[kind], kind[kind].double() / kind.sum())
    at_least = cumulative_sum(share.flip(1), dim=1).flip(1)  # sensitivity, and 1 - specificity
    gain = at_least[0] - at_least[1]
    best: Tensor = values[(gain > gain.max() - 1e-12).nonzero()[0, 0]]
    return best


def resampled_counts(rows: int, resamples: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield how often each row is drawn in samples of as many rows, drawn with replacement (the bootstrap).

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993. The draws depend on the seed alone.

    Args:
        rows: Number of rows.
        resamples: Number of samples.
        seed: Seed of the draws.

    Yields:
        ``(part, rows)`` int64, blocks of the samples.

    Example:
        >>> counts = torch.cat(list(resampled_counts(rows=5, resamples=3)))
        >>> counts.shape, counts.sum(1)
        (torch.Size([3, 5]), tensor([5, 5, 5]))
    """
    random = torch.Generator().manual_seed(seed)
    block = max(_AT_ONCE // max(rows, 1), 1)
    for start in range(0, resamples, block):
        number = min(block, resamples - start)
        drawn = torch.randint(rows, (number, rows), generator=random) + rows * torch.arange(number)[:, None]
        yield drawn.flatten().bincount(minlength=number * rows).view(number, rows)
