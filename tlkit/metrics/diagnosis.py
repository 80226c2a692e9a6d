"""Area under the ROC curve, sensitivity and specificity, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tlkit.functional import auroc, resampled_counts, sensitivity_threshold, youden_threshold

__all__ = ["DiagnosisIntervals", "DiagnosisScores", "DiagnosisThreshold"]


class _Findings(Metric):
    """Collects of each row the log-odds of the finding, whether it has it, and whether its class was predicted."""

    full_state_update = False
    is_differentiable = False
    score: list[Tensor]
    positive: list[Tensor]
    correct: list[Tensor]

    def __init__(self, positive: Sequence[int]) -> None:
        super().__init__()
        self.findings = list(positive)
        # All in float32: it is what torchmetrics gives a rank without rows, and ranks must agree on the type.
        for name in ("score", "positive", "correct"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, y: Tensor) -> None:
        """Add a batch of ``(B, C)`` logits and ``(B,)`` labels."""
        self.score.append(log_odds(logits, self.findings).float())
        self.positive.append(torch.isin(y, torch.tensor(self.findings, device=y.device)).float())
        self.correct.append((logits.argmax(1) == y).float())

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, and as bool, which rows have the finding and which classes were predicted.

        They are sorted, so that they come in one order however many ranks they were spread over.
        """
        columns = [
            dim_zero_cat(state) if len(state) else torch.zeros(0, device=self.device)
            for state in (self.score, self.positive, self.correct)
        ]
        for key in reversed(range(3)):
            order = columns[key].argsort(stable=True)
            columns = [column[order] for column in columns]
        return columns[0], columns[1].bool(), columns[2].bool()


def log_odds(logits: Tensor, classes: Sequence[int]) -> Tensor:
    """Return the log-odds that a row is of one of several classes; unlike the probability it does not saturate.

    Args:
        logits: ``(B, C)``.
        classes: Numbers of the classes.

    Returns:
        ``(B,)`` float32, or float64 for float64 logits.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    others = [number for number in range(logits.shape[1]) if number not in classes]
    return logits[:, list(classes)].logsumexp(1) - logits[:, others].logsumexp(1)


class DiagnosisScores(_Findings):
    """How well a finding is told from its absence: ``auroc``, and ``sensitivity`` and ``specificity`` at a threshold.

    The score of a row is the log-odds of the classes that are the finding; it is found if the score is at least the
    threshold. ``threshold`` is logged too, as a probability. A value is NaN where it has no meaning: all but the
    specificity without a row of the finding, all but the sensitivity without another.

    Args:
        positive: Numbers of the classes that are the finding.
        threshold: Returns the threshold, in log-odds; asked when the metric is computed.

    Example:
        >>> metric = DiagnosisScores([1], threshold=lambda: torch.tensor(0.0))
        >>> metric.update(torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.5]]), torch.tensor([0, 1, 1]))
        >>> {name: value.item() for name, value in metric.compute().items()}
        {'auroc': 1.0, 'sensitivity': 0.5, 'specificity': 1.0, 'threshold': 0.5}
    """

    higher_is_better = True

    def __init__(self, positive: Sequence[int], threshold: Callable[[], Tensor]) -> None:
        super().__init__(positive)
        self.threshold = threshold

    def compute(self) -> dict[str, Tensor]:
        """Return the values over all rows."""
        score, positive, _ = self.rows()
        found = score >= self.threshold().to(score)
        return {
            "auroc": auroc(score, positive).float(),
            "sensitivity": found[positive].float().mean(),
            "specificity": (~found[~positive]).float().mean(),
            "threshold": self.threshold().float().sigmoid(),
        }


class DiagnosisIntervals(_Findings):
    """95% intervals of ``accuracy``, ``auroc``, ``sensitivity`` and ``specificity``, named ``auroc_low`` and so on.

    The percentile bootstrap: rows are drawn anew with replacement, as many as there are, and the 2.5th and 97.5th
    percentiles of the values are taken. The draws are the same in every run. The threshold is held fixed: that it was
    chosen on other rows is not part of the interval. Rows count as independent, so that several images of one patient
    make it too narrow.

    Args:
        positive: Numbers of the classes that are the finding.
        threshold: Returns the threshold, in log-odds; asked when the metric is computed.
        resamples: Number of draws.

    Example:
        >>> metric = DiagnosisIntervals([1], threshold=lambda: torch.tensor(0.0), resamples=100)
        >>> logits = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> metric.update(logits, (logits[:, 1] > logits[:, 0]).long())
        >>> values = metric.compute()
        >>> values["auroc_low"].item(), values["accuracy_high"].item()
        (1.0, 1.0)
    """

    def __init__(self, positive: Sequence[int], threshold: Callable[[], Tensor], resamples: int = 1000) -> None:
        super().__init__(positive)
        self.threshold, self.resamples = threshold, resamples

    def compute(self) -> dict[str, Tensor]:
        """Return the lower and the upper end of each interval."""
        score, positive, correct = self.rows()
        found = score >= self.threshold().to(score)
        # Values are ratios of counts: of the rows that are right to the rows that they are among.
        ratios = {
            "accuracy": (correct, torch.ones_like(correct)),
            "sensitivity": (found & positive, positive),
            "specificity": (~found & ~positive, ~positive),
        }
        values: dict[str, list[Tensor]] = {name: [] for name in ("auroc", *ratios)}
        for block in resampled_counts(len(score), self.resamples):
            counts = block.to(score.device, torch.float64)
            values["auroc"].append(auroc(score, positive, counts))
            for name, (right, among) in ratios.items():
                values[name].append((counts @ right.double()) / (counts @ among.double()))
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64, device=score.device)
        result: dict[str, Tensor] = {}
        for name, parts in values.items():
            # A draw without any row of the finding, or without another, has no such value.
            low, high = torch.cat(parts).nanquantile(ends).float()
            result |= {f"{name}_low": low, f"{name}_high": high}
        return result


class DiagnosisThreshold(_Findings):
    """The threshold to find a finding by, in log-odds, chosen on labelled rows.

    Args:
        positive: Numbers of the classes that are the finding.
        at_sensitivity: The threshold is the highest that finds at least this share of the rows with the finding; None
            is the one with the highest sum of sensitivity and specificity.

    Example:
        >>> metric = DiagnosisThreshold([1], at_sensitivity=1.0)
        >>> metric.update(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.5]]), torch.tensor([0, 1, 1]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def __init__(self, positive: Sequence[int], at_sensitivity: float | None = 0.95) -> None:
        super().__init__(positive)
        self.at_sensitivity = at_sensitivity

    def compute(self) -> Tensor:
        """Return the threshold; NaN if there is no row to choose it by."""
        score, positive, _ = self.rows()
        if self.at_sensitivity is None:
            return youden_threshold(score, positive)
        return sensitivity_threshold(score, positive, self.at_sensitivity)
