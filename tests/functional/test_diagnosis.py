"""The ROC curve and its thresholds against scikit-learn and every threshold there is; resampled rows against a loop."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from tlkit.functional import auroc, resampled_counts, sensitivity_threshold, youden_threshold


def draw(rows, levels):
    """Scores with ties, higher with the finding."""
    positive = torch.arange(rows) % 3 == 0
    return ((torch.randn(rows) + positive) * levels).round() / levels, positive


@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_auroc_is_that_of_scikit_learn_with_weights_too(levels):
    score, positive = draw(200, levels)
    assert auroc(score, positive).item() == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    weights = torch.randint(0, 4, (5, 200))
    expected = [roc_auc_score(positive, score, sample_weight=row) for row in weights]
    assert auroc(score, positive, weights).tolist() == pytest.approx(expected, abs=1e-12)


def test_auroc_without_one_kind_is_nan():
    score, positive = draw(9, 3)
    assert auroc(score[positive], positive[positive]).isnan()
    assert auroc(score, positive, torch.stack([positive, torch.ones(9)])).isnan().tolist() == [True, False]


@pytest.mark.parametrize(("sensitivity", "expected"), [(1.0, 0.1), (0.95, 0.1), (0.75, 0.3), (0.7, 0.3), (0.26, 0.5)])
def test_threshold_at_a_sensitivity_by_hand(sensitivity, expected):
    score = torch.tensor([0.1, 0.3, 0.5, 0.9, 0.2, 0.95], dtype=torch.float64)
    positive = torch.tensor([True, True, True, True, False, False])
    assert sensitivity_threshold(score, positive, sensitivity) == expected


@pytest.mark.parametrize("sensitivity", [0.5, 0.8, 0.95, 1.0])
def test_threshold_is_the_highest_of_all_that_find_enough(sensitivity):
    score, positive = draw(101, 4)
    threshold = sensitivity_threshold(score, positive, sensitivity)
    enough = [t for t in score.unique() if (score[positive] >= t).double().mean() >= sensitivity - 1e-12]
    assert threshold == max(enough)


def test_youden_is_the_best_of_the_curve():
    score, positive = draw(301, 5)
    wrong, right, thresholds = roc_curve(positive, score)
    gain = right - wrong
    assert youden_threshold(score, positive).item() == thresholds[gain > gain.max() - 1e-12].min()


def test_there_is_no_threshold_without_rows_to_choose_by():
    nothing = torch.zeros(0)
    assert sensitivity_threshold(nothing, nothing.bool(), 0.9).isnan()
    assert youden_threshold(nothing, nothing.bool()).isnan()
    assert youden_threshold(torch.ones(3), torch.ones(3).bool()).isnan()


def test_resampled_rows_are_the_same_whatever_fits_at_once(monkeypatch):
    counts = torch.cat(list(resampled_counts(50, 200, seed=3)))
    assert counts.shape == (200, 50)
    assert (counts.sum(1) == 50).all()
    assert torch.equal(counts, torch.cat(list(resampled_counts(50, 200, seed=3))))
    assert not torch.equal(counts, torch.cat(list(resampled_counts(50, 200, seed=4))))
    monkeypatch.setattr("tlkit.functional.diagnosis._AT_ONCE", 500)
    parts = list(resampled_counts(50, 200, seed=3))
    assert [len(part) for part in parts] == [10] * 20
    # a row is left out of a share of (1 - 1/n)^n of the samples
    assert (counts == 0).double().mean().item() == pytest.approx(math.exp(-1), abs=0.02)


def test_the_mean_of_resampled_values_is_that_of_a_plain_loop():
    """The bootstrap of a mean, by counts and by drawing rows one sample after the other."""
    values = torch.randn(80, dtype=torch.float64)
    counts = torch.cat(list(resampled_counts(80, 2000))).double()
    by_counts = (counts @ values / 80).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    random = np.random.default_rng(0)
    by_loop = np.quantile([random.choice(values.numpy(), 80).mean() for _ in range(2000)], [0.025, 0.975])
    assert by_counts.tolist() == pytest.approx(by_loop, abs=0.03)
