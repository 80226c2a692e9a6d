import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, recall_score

from tests.ranks import on_ranks
from tlkit.metrics import ClassRecall


def draw(rows=90, classes=4):
    y = torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(0))
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(1)) + torch.eye(classes)[y], y


def test_values_are_those_of_scikit_learn():
    logits, y = draw()
    metric = ClassRecall("abcd")
    for part in (slice(0, 64), slice(64, 90)):
        metric.update(logits[part], y[part])
    values = {name: value.item() for name, value in metric.compute().items()}
    expected = recall_score(y, logits.argmax(1), average=None)
    assert [values[f"recall/{name}"] for name in "abcd"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert values["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(y, logits.argmax(1)), abs=1e-6)


def test_a_class_without_rows_has_no_value_and_is_not_in_the_mean():
    metric = ClassRecall("abc")
    metric.update(torch.eye(3)[[0, 1, 2]], torch.tensor([0, 2, 2]))  # one b is predicted, none is there
    assert metric.compute() == {"recall/a": 1, "recall/c": 0.5, "mean_class_accuracy": 0.75}
    metric.reset()
    metric.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert metric.compute() == {}


@pytest.mark.parametrize(
    ("classes", "keys"),
    [
        (("0/1", "Alarm Clock", "t-shirt", "größe"), ["0_1", "Alarm_Clock", "t-shirt", "größe"]),
        (("a/b", "a_b", "a_b_1"), ["a_b_0", "a_b_1", "a_b_1_2"]),
    ],
)
def test_every_name_has_a_key_of_its_own(classes, keys):
    metric = ClassRecall(classes)
    labels = torch.arange(len(classes))
    metric.update(torch.eye(len(classes)), labels)
    assert list(metric.compute()) == [*(f"recall/{key}" for key in keys), "mean_class_accuracy"]


def shared():
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    metric = ClassRecall("abcd")
    logits, y = draw()
    rows = (y == 0) if rank == 0 else (y != 0)  # a class that only one rank has, and unequal shares
    metric.update(logits[rows], y[rows])
    values = {name: value.item() for name, value in metric.compute().items()}
    torch.distributed.destroy_process_group()
    return values


@pytest.mark.ddp
def test_two_ranks_equal_one(tmp_path):
    metric = ClassRecall("abcd")
    metric.update(*draw())
    whole = {name: value.item() for name, value in metric.compute().items()}
    assert on_ranks(2, shared, folder=tmp_path) == [whole, whole]
