"""Scores that need no labels, to choose a checkpoint by on an unlabelled target domain."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["MutualInformation"]


class MutualInformation(Metric):
    r"""Mutual information of input and predicted class, as a share of its largest value, ``log C``.

    :math:`[H(\frac1n \sum_i p_i) - \frac1n \sum_i H(p_i)] / \log C` over the predicted probabilities :math:`p_i`: high
    when single predictions are certain and all classes are predicted, 0 when every prediction is the same. It is the
    InfoMax objective of Bridle et al. (NeurIPS 1991), used as a validator ("IM") by Musgrave et al. (arXiv 2208.07360).
    It does not see an adaptation that maps classes onto the wrong ones with confidence.

    Args:
        num_classes: Number of classes, C.

    Example:
        >>> import torch
        >>> score = MutualInformation(num_classes=2)
        >>> score.update(torch.tensor([[30.0, 0.0], [0.0, 30.0]]))
        >>> round(score.compute().item(), 4)
        1.0
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    sum_probabilities: Tensor
    sum_entropy: Tensor
    count: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        # Sums in float64: the score is a difference of entropies, read to four digits over up to millions of rows.
        self.add_state("sum_probabilities", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("sum_entropy", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor) -> None:
        """Add a batch of ``(B, C)`` logits."""
        log_p = logits.float().log_softmax(dim=1)
        p = log_p.exp()
        self.sum_probabilities += p.sum(dim=0)
        self.sum_entropy -= (p * log_p).sum()
        self.count += len(logits)

    def compute(self) -> Tensor:
        """Return the score, in [0, 1]."""
        marginal = self.sum_probabilities / self.count
        marginal_entropy = torch.special.entr(marginal).sum()
        share: Tensor = (marginal_entropy - self.sum_entropy / self.count) / math.log(self.num_classes)
        return share.float()
