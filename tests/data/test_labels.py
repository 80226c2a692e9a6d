"""Few labels: ``labels_per_class`` and ``label_fraction``."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from tests.data.small_sets import Lines
from tlkit.data import DomainDataModule, HoldOut
from tlkit.data.splits import choose_labelled
from tlkit.errors import DataError


class Visits(Lines):
    """Lines whose rows come in groups of five (a patient's visits), and labels in thirds."""

    classes = ["none", "mild", "severe"]

    def dataset(self, domain, split):
        size = self.sizes[domain]
        y = np.arange(size) % 3
        rows = self.split(domain, y, groups=np.arange(size) // 5)[split]
        x = torch.arange(size, dtype=torch.float32)[:, None] + 1000 * self.domains.index(domain)
        return TensorDataset(x[rows], torch.as_tensor(y[rows]))


def ready(kind=Lines, sources=("long",), targets=("short",), **options):
    data = kind(list(sources), list(targets), **{"batch_size": 2} | options)
    data.setup()
    return data


def side_rows(data, role):
    """Return ``(domain, row of the data set, x, y)`` of every row of a side, in order."""
    parts = data._sides().get(role, [])
    found = []
    for part in parts:
        x, y = part.read(torch.arange(len(part)))
        found += [(part.name, int(value), None if y is None else int(y[n])) for n, value in enumerate(x[:, 0].tolist())]
    return found


def test_a_number_of_each_class_for_every_source():
    data = ready(sources=["long", "other"], labels_per_class=3)
    for domain in ("long", "other"):
        assert np.bincount(data.splits[domain]["train"] % 2).tolist() == [3, 3]
    assert data.spec().class_counts == (6, 6)
    assert len(data.splits["short"]["train"]) == 24  # a target without a budget has none
    assert data.labelled == {}


def test_a_share_of_the_rows_keeps_the_share_of_the_classes():
    data = ready(label_fraction=0.25)
    assert len(data.splits["long"]["train"]) == 18  # a quarter of 72
    assert np.bincount(data.splits["long"]["train"] % 2).tolist() == [9, 9]
    assert len(ready(label_fraction=0.03).splits["long"]["train"]) == 2
    whole = ready(label_fraction=1.0).splits["long"]["train"]
    assert np.array_equal(whole, ready().splits["long"]["train"])


@pytest.mark.parametrize("budget", [{"labels_per_class": 2}, {"label_fraction": 0.3}])
@pytest.mark.parametrize("kind", [Lines, Visits])
def test_a_budget_changes_neither_validation_nor_test(kind, budget):
    few, all_rows = ready(kind, **budget).splits["long"], ready(kind).splits["long"]
    assert np.array_equal(few["val"], all_rows["val"])
    assert np.array_equal(few["test"], all_rows["test"])
    assert set(few["train"]) < set(all_rows["train"])
    assert np.array_equal(few["reference"], np.union1d(few["train"], few["val"]))


def test_a_sources_other_rows_are_on_no_side():
    data = ready(labels_per_class=2)
    chosen = set(data.splits["long"]["train"])
    assert {row for name, row, _ in side_rows(data, "source")} == chosen
    assert not [name for name, *_ in side_rows(data, "target") if name == "long"]


@pytest.mark.parametrize("budget", [{"labels_per_class": {"short": 3}}, {"label_fraction": {"short": 0.25}}])
def test_a_labelled_target_joins_the_source_side_and_stays_unlabelled_on_its_own(budget):
    data = ready(**budget)
    source, target = side_rows(data, "source"), side_rows(data, "target")
    joined = [(row - 1000, y) for name, row, y in source if name == "short"]
    assert len(joined) == 6  # three of each class; a quarter of 24
    assert sorted(row for row, _ in joined) == data.labelled["short"].tolist()
    assert all(y == row % 2 for row, y in joined)
    # its own side: every training row, those whose labels are known among them, and no label
    assert [row - 1000 for _, row, _ in target] == data.splits["short"]["train"].tolist()
    assert {y for *_, y in target} == {None}
    assert not set(data.labelled["short"]) & set(data.splits["short"]["test"])
    # the source keeps all of its labels
    assert len([name for name, *_ in source if name == "long"]) == 72
    assert sum(data.spec().class_counts) == 72 + 6


def test_batches_hold_the_labelled_target_on_the_source_side():
    data = ready(labels_per_class={"short": 10}, batch_size=20)
    seen = set()
    for batch in data.train_dataloader():
        assert torch.equal(batch.source.y, batch.source.x[:, 0].long() % 2)
        assert batch.target is None or batch.target.y is None
        seen |= set(batch.source.domain.tolist())
    assert seen == {0, 1}


def test_a_few_labels_of_a_target_and_nothing_else():
    """``sources: []`` with a labelled target is few-shot fine-tuning on the target."""
    data = ready(sources=(), targets=["short"], labels_per_class={"short": 4})
    source = side_rows(data, "source")
    assert {name for name, *_ in source} == {"short"}
    assert np.bincount([y for *_, y in source]).tolist() == [4, 4]
    assert len(side_rows(data, "target")) == 24


def test_a_number_of_each_class_comes_from_as_many_groups_as_there_are():
    groups = np.repeat(np.arange(6), 10)
    y = np.tile([0, 1], 30)
    random = np.random.default_rng(0)
    chosen = choose_labelled(np.arange(60), 6, y, groups, random)
    for label in (0, 1):
        assert sorted(groups[chosen[y[chosen] == label]]) == [0, 1, 2, 3, 4, 5]
    chosen = choose_labelled(np.arange(60), 8, y, groups, random)
    counts = np.bincount(groups[chosen[y[chosen] == 0]])
    assert sorted(counts) == [1, 1, 1, 1, 2, 2]


def test_a_group_with_one_class_gives_its_rows_in_turn_with_the_others():
    groups = np.array([0, 0, 0, 0, 1, 2])
    chosen = choose_labelled(np.arange(6), 3, np.zeros(6, int), groups, np.random.default_rng(3))
    assert sorted(groups[chosen]) == [0, 1, 2]


def test_a_share_is_of_whole_groups():
    data = ready(Visits, label_fraction=0.3)
    groups = np.arange(100) // 5
    chosen, everything = data.splits["long"]["train"], ready(Visits).splits["long"]["train"]
    assert 0 < len(chosen) < len(everything)
    for group in set(groups[chosen]):
        assert set(np.flatnonzero(groups == group)) <= set(chosen)
    assert abs(len(chosen) - 0.3 * len(everything)) <= 5


def test_a_labelled_targets_groups_are_whole_too():
    data = ready(Visits, targets=["other"], label_fraction={"other": 0.4})
    groups = np.arange(50) // 5
    chosen = data.labelled["other"]
    assert all(set(np.flatnonzero(groups == group)) <= set(chosen) for group in set(groups[chosen]))


@pytest.mark.parametrize("budget", [{"labels_per_class": 5}, {"label_fraction": 0.3}])
def test_the_choice_depends_on_the_seed_of_the_splits_alone(budget, monkeypatch):
    first = ready(**budget).splits["long"]["train"]
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    torch.manual_seed(3)
    np.random.seed(4)  # noqa: NPY002 - the global state must not matter
    again = ready(sources=["other", "long"], targets=["short"], **budget).splits["long"]["train"]
    assert np.array_equal(first, again)
    other = ready(**budget, hold_out=HoldOut(seed=1)).splits["long"]["train"]
    assert not np.array_equal(first, other)


def test_the_choice_is_the_same_whether_a_domain_is_source_or_target_only_where_its_rows_are():
    """A source holds validation rows out first, so that the rows to choose from are others."""
    as_source = ready(sources=["other"], labels_per_class={"other": 4}).splits["other"]["train"]
    as_target = ready(targets=["other"], labels_per_class={"other": 4}).labelled["other"]
    assert len(as_source) == len(as_target) == 8
    test = ready(sources=["other"]).splits["other"]["test"]
    assert not set(test) & (set(as_source) | set(as_target))


def test_both_kinds_of_budget_on_different_domains():
    data = ready(labels_per_class={"short": 2}, label_fraction=0.5)
    assert data.budgets == {"short": 2, "long": 0.5}
    assert len(data.splits["long"]["train"]) == 36
    assert len(data.labelled["short"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"labels_per_class": {"shrt": 3}},
            "unknown domain of this run 'shrt': did you mean 'short'",
        ),
        ({"labels_per_class": {"other": 3}}, "unknown domain of this run 'other'.* Allowed: long, short"),
        ({"label_fraction": {"logn": 0.1}}, "label_fraction: unknown domain of this run 'logn': did you mean 'long'"),
        ({"labels_per_class": 2, "label_fraction": 0.5}, "'long' has both labels_per_class and label_fraction"),
        ({"labels_per_class": 0}, "labels_per_class is a whole number from 1 up, got 0 for 'long'"),
        ({"labels_per_class": {"short": 2.5}}, "whole number from 1 up, got 2.5 for 'short'"),
        ({"label_fraction": 0.0}, "label_fraction lies above 0 and at most at 1, got 0.0 for 'long'"),
        ({"label_fraction": {"short": 1.5}}, "at most at 1, got 1.5 for 'short'"),
        (
            {"labels_per_class": 37},
            "domain 'long' cannot be split: labels_per_class is 37, but class number 0 has 36 training rows: give",
        ),
        (
            {"labels_per_class": {"short": 13}},
            "'short' cannot be split: labels_per_class is 13, but class number . has",
        ),
        (
            {"labels_per_class": 1, "batch_size": 3},
            "batch_size 3 is larger than .* of the source 'long'",
        ),
    ],
)
def test_budgets_that_cannot_be_met_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        ready(**arguments)


class Measured(DomainDataModule):
    domains = ["a"]
    quantities = ["x_m"]

    def dataset(self, domain, split):
        y = np.linspace(0, 1, 40, dtype=np.float32)[:, None]
        rows = self.split(domain, y)[split]
        return TensorDataset(torch.as_tensor(y[rows]), torch.as_tensor(y[rows]))


def test_measured_labels_have_no_classes_but_shares():
    with pytest.raises(DataError, match="labels_per_class needs labels that are classes: use label_fraction"):
        ready(Measured, sources=["a"], targets=(), labels_per_class=2)
    data = ready(Measured, sources=["a"], targets=(), label_fraction=0.5)
    assert len(data.splits["a"]["train"]) == 14  # half of 40 - 8 - 3, rounded to even


class Unsplit(Lines):
    def dataset(self, domain, split):
        return TensorDataset(torch.zeros(8, 1), torch.arange(8) % 2)


def test_a_data_module_that_does_not_split_by_the_base_has_no_budgets():
    with pytest.raises(DataError, match=r"need Unsplit.dataset to take its rows from self.split\(domain, y\)"):
        ready(Unsplit, labels_per_class=2)
