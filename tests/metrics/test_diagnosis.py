import numpy as np
import pytest
import torch
from sklearn.metrics import recall_score, roc_auc_score

from tlkit.functional import resampled_counts
from tlkit.metrics import DiagnosisIntervals, DiagnosisScores, DiagnosisThreshold
from tlkit.metrics.diagnosis import log_odds


def draw(rows=120, classes=4):
    y = torch.randint(0, classes, (rows,))
    return torch.randn(rows, classes) + 1.5 * torch.eye(classes)[y], y


def half():
    return torch.tensor(0.0)


def test_log_odds_are_of_the_probability_and_do_not_saturate():
    logits, _ = draw(9)
    p = logits.softmax(1)[:, [0, 2]].sum(1)
    torch.testing.assert_close(log_odds(logits, [0, 2]).sigmoid(), p)
    certain = torch.tensor([[60.0, 0.0], [61.0, 0.0]])
    assert log_odds(certain, [0]).tolist() == [60.0, 61.0]  # probabilities of both are 1 in float32
    assert log_odds(certain.bfloat16(), [0]).dtype == torch.float32


def test_values_are_those_of_scikit_learn_and_of_two_classes_as_one_finding():
    logits, y = draw()
    threshold = torch.tensor(0.7)
    metric = DiagnosisScores([0, 2], lambda: threshold)
    for rows in (slice(0, 100), slice(100, 120)):
        metric.update(logits[rows], y[rows])
    positive = np.isin(y, [0, 2])
    score = log_odds(logits, [0, 2]).numpy()
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values["auroc"] == pytest.approx(roc_auc_score(positive, score), abs=1e-6)
    assert values["sensitivity"] == pytest.approx(recall_score(positive, score >= 0.7), abs=1e-6)
    assert values["specificity"] == pytest.approx(recall_score(~positive, score < 0.7), abs=1e-6)
    assert values["threshold"] == pytest.approx(1 / (1 + np.exp(-0.7)), abs=1e-6)
    threshold.fill_(100.0)  # asked anew
    metric._computed = None
    assert metric.compute()["sensitivity"] == 0


def test_a_value_without_rows_is_nan():
    metric = DiagnosisScores([1], half)
    metric.update(torch.randn(5, 2), torch.zeros(5, dtype=torch.int64))
    values = metric.compute()
    assert values["auroc"].isnan()
    assert values["sensitivity"].isnan()
    assert values["specificity"].isfinite()


def test_intervals_are_those_of_a_plain_loop_over_the_same_draws():
    logits, y = draw(60, classes=2)
    metric = DiagnosisIntervals([1], half, resamples=200)
    metric.update(logits, y)
    values = metric.compute()
    score, positive, correct = (column.numpy() for column in metric.rows())
    loop = {name: [] for name in ("accuracy", "auroc", "sensitivity", "specificity")}
    for counts in torch.cat(list(resampled_counts(60, 200))).numpy():
        rows = np.repeat(np.arange(60), counts)
        loop["accuracy"].append(correct[rows].mean())
        loop["auroc"].append(roc_auc_score(positive[rows], score[rows]))
        loop["sensitivity"].append((score[rows] >= 0)[positive[rows]].mean())
        loop["specificity"].append((score[rows] < 0)[~positive[rows]].mean())
    assert set(values) == {f"{name}_{end}" for name in loop for end in ("low", "high")}
    for name, found in loop.items():
        low, high = np.quantile(found, [0.025, 0.975])
        assert values[f"{name}_low"].item() == pytest.approx(low, abs=1e-6)
        assert values[f"{name}_high"].item() == pytest.approx(high, abs=1e-6)
        assert low < high


def test_intervals_do_not_depend_on_the_order_of_rows():
    logits, y = draw(90)
    values = []
    for order in (torch.arange(90), torch.randperm(90)):
        metric = DiagnosisIntervals([1, 3], half, resamples=50)
        for part in order.split(40):
            metric.update(logits[part], y[part])
        values.append(metric.compute())
    assert values[0] == values[1]


def test_an_interval_leaves_out_draws_without_the_finding():
    metric = DiagnosisIntervals([1], half, resamples=300)
    y = torch.zeros(20, dtype=torch.int64)
    y[0] = 1  # a third of the draws have no row of it
    metric.update(torch.randn(20, 2), y)
    assert all(value.isfinite() for value in metric.compute().values())


def test_the_threshold_is_chosen_as_asked():
    logits, y = draw(100, classes=2)
    score, positive = log_odds(logits, [1]), y == 1
    for at in (0.9, 1.0, None):
        metric = DiagnosisThreshold([1], at)
        metric.update(logits, y)
        found = score >= metric.compute()
        if at is not None:
            assert found[positive].double().mean() >= at
        else:
            assert found[positive].double().mean() - found[~positive].double().mean() > 0.4
    empty = DiagnosisThreshold([1])
    empty.update(logits[~positive], y[~positive])
    assert empty.compute().isnan()
