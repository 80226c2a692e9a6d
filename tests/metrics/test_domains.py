import pytest
import torch

from tlkit.metrics import DomainMetrics
from tlkit.tasks import Classification, Diagnosis
from tlkit.types import DataSpec

SPEC = DataSpec(("a", "b", "c", "extra"), ("a", "b"), ("c",), classes=("x", "y"))
RIGHT = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
WRONG = RIGHT.flip(0)
Y = torch.tensor([0, 1])


@pytest.fixture
def metrics():
    task = Classification()
    task.build(3, SPEC)
    return DomainMetrics(SPEC, task)


def test_sealed_labels_only_show_under_oracle(metrics):
    for domain, outputs in enumerate((RIGHT, WRONG, WRONG)):
        metrics.update(domain, outputs, Y)
    values = metrics.validation_values()
    assert values["val/a/accuracy"] == 1
    assert values["val/b/accuracy"] == 0
    assert values["oracle/c/accuracy"] == 0
    assert values["selection/source_accuracy"] == 0.5
    assert values["selection/mutual_information"] == values["val/c/mutual_information"] > 0.9
    assert not any(name.startswith("val/c/") and "mutual" not in name for name in values)
    assert not any("extra" in name for name in values)


def test_selection_scores_do_not_move_with_target_labels(metrics):
    scores = []
    for y in (Y, Y.flip(0)):
        for domain in range(3):
            metrics.update(domain, RIGHT, y if domain == 2 else Y)
        values = metrics.validation_values()
        scores.append({name: value.item() for name, value in values.items() if not name.startswith("oracle/")})
    assert scores[0] == scores[1]


def test_a_domain_without_the_score_has_no_say_in_the_choice():
    spec = DataSpec(("a", "b"), ("a", "b"), (), classes=("well", "ill"), class_counts=(2, 2))
    task = Diagnosis(positive=["ill"])
    task.build(3, spec)
    metrics = DomainMetrics(spec, task)
    metrics.update(0, RIGHT, Y)
    metrics.update(1, RIGHT, torch.tensor([0, 0]))  # none is ill
    values = metrics.validation_values()
    assert values["val/b/auroc"].isnan()
    assert values["selection/source_auroc"] == values["val/a/auroc"] == 1


def test_unlabelled_and_empty_batches(metrics):
    metrics.update(2, RIGHT, None)
    metrics.update(0, RIGHT, Y)
    metrics.update(0, RIGHT[:0], Y[:0])  # a rank whose last batch is all padding
    values = metrics.validation_values()
    assert "oracle/c/accuracy" not in values
    assert values["val/a/accuracy"] == 1
    assert metrics.validation_values() == {}  # it starts anew


def test_test_values_are_named_by_domain(metrics):
    metrics.update(3, WRONG, Y)
    assert {name: value.item() for name, value in metrics.test_values().items()} == {
        "test/extra/accuracy": 0.0,
        "test/extra/macro_f1": 0.0,
    }
