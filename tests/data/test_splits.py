import numpy as np
import pytest

from tlkit.data import DomainDataModule
from tlkit.data.splits import divide, generator, tell_absent
from tlkit.errors import DataError


def test_exact_count_and_every_label_within_one_row_of_its_share():
    y = np.repeat([0, 1, 2], [61, 30, 9])
    kept, held = divide(np.arange(100), 25, y, None, np.random.default_rng(0))
    assert len(held) == 25
    assert sorted([*kept, *held]) == list(range(100))
    # by hand: 25 of 100 of 61, 30, 9 are 15.25, 7.5, 2.25; the one row left goes to the largest remainder, 7.5
    assert np.bincount(y[held]).tolist() == [15, 8, 2]


def test_only_the_given_rows_are_divided():
    kept, held = divide(np.array([2, 4, 6, 8]), 1, np.zeros(10, int), None, np.random.default_rng(0))
    assert sorted([*kept, *held]) == [2, 4, 6, 8]


def test_floating_labels_are_not_stratified():
    _, held = divide(np.arange(10), 3, np.linspace(0, 1, 10), None, np.random.default_rng(0))
    assert len(held) == 3


def test_groups_stay_whole_and_labels_keep_their_share():
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 5)
    y = random.integers(0, 2, 40)[groups]
    kept, held = divide(np.arange(200), 50, y, groups, random)
    assert not set(groups[kept]) & set(groups[held])
    assert abs(len(held) - 50) <= 5
    assert abs(y[held].mean() - y.mean()) < 0.1


def test_one_huge_group_is_not_chosen_when_a_small_one_fits_better():
    groups = np.repeat([0, 1, 2], [80, 15, 5])
    _, held = divide(np.arange(100), 2, np.zeros(100, int), groups, np.random.default_rng(0))
    assert set(groups[held]) == {2}


def test_too_few_rows_or_groups():
    with pytest.raises(DataError, match="0 rows are too few to hold out 1 of 0 rows"):
        divide(np.arange(0), 1, np.zeros(5, int), None, np.random.default_rng(0))
    with pytest.raises(DataError, match="1 rows are too few to hold out 1 of 1 rows"):
        divide(np.arange(1), 1, np.zeros(1, int), None, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"3 of the 9 rows left cannot be held out .* they are of 1 group \(0.0\), and"):
        divide(np.arange(9), 3, np.zeros(9, int), np.zeros(9), np.random.default_rng(0))


def test_the_generator_depends_on_domain_and_seed():
    first = {(seed, name): generator(seed, name).integers(2**60) for seed in (0, 1) for name in ("mnist", "usps")}
    assert len(set(first.values())) == 4
    assert first[0, "mnist"] == generator(0, "mnist").integers(2**60)


def drawn(y, groups, count, seed, **arguments):
    return divide(np.arange(len(y)), count, y, groups, np.random.default_rng(seed), **arguments)


def persons(rare=(0, 1)):
    """Eight persons with 20 rows of label 0; those named also have two rows of the rare label 1."""
    groups = np.repeat(np.arange(8), 20)
    y = np.zeros(160, int)
    for person in rare:
        y[np.flatnonzero(groups == person)[:2]] = 1
    return y, groups


@pytest.mark.parametrize("seed", range(40))
def test_a_label_of_two_groups_stays_to_be_trained_on(seed):
    y, groups = persons()
    kept, held = drawn(y, groups, 60, seed)
    assert set(y[kept]) == {0, 1}
    assert len(held)
    assert not set(groups[kept]) & set(groups[held])


def test_what_lacks_no_label_is_divided_as_it_was():
    """Measured results hang on the splits: only those that left nothing to be trained on of a label are others."""
    y, groups = persons()
    held = [set(groups[drawn(y, groups, 60, seed)[1]].tolist()) for seed in range(8)]
    expected = [{2, 6, 7}, {0, 2, 3}, {0, 3, 6}, ..., {1, 2, 3}, {1, 2, 3}, {1, 6, 7}, ...]
    assert all(old in (..., new) for old, new in zip(expected, held, strict=True))
    assert (held[3], held[7]) == ({0, 2, 6}, {1, 5, 7})  # {0, 1, 2} and {0, 1, 7} had all of the rare label
    assert set(groups[drawn(y, groups, 60, 3, keep_labels=False)[1]]) == {0, 1, 2}


def test_the_only_group_of_a_label_is_trained_on():
    y, groups = persons(rare=(3,))
    for seed in range(20):
        kept, held = drawn(y, groups, 60, seed)
        assert 3 in groups[kept]
        assert len(held)


def test_a_label_goes_where_there_is_no_other_way():
    y = np.repeat([0, 1], [30, 10])
    kept, held = drawn(y, y, 10, 0)
    assert (len(kept), len(held)) == (30, 10)
    with pytest.raises(DataError, match=r"30 of the 40 rows left cannot be .* they are of 2 groups \(0, 1\), and"):
        drawn(y, y, 30, 0)


def test_classes_without_rows_in_a_split_are_said(caplog):
    class Persons(DomainDataModule):
        domains = ("ward", "clinic")
        classes = ("common", "rare", "rarest")

        def dataset(self, domain, split):
            y, groups = persons(rare=(3, 5))
            y[groups == 6] = [2, *[0] * 19]
            return self.split(domain, y, groups)[split]

    data = Persons(["ward"], ["clinic"])
    data.dataset("ward", "train")
    assert (
        "domain 'ward' has no row of 'rarest' in its validation rows, none of 'rare', 'rarest' in its " in caplog.text
    )
    assert "too few rows or groups (patients, recordings) are of it" in caplog.text
    caplog.clear()
    data.dataset("clinic", "train")  # a target's validation rows are its training rows
    assert "domain 'clinic' has no row of " in caplog.text
    assert "validation" not in caplog.text


def test_nothing_is_said_of_what_is_whole_or_no_class(caplog):
    y, half = np.repeat([0, 1], 40), np.arange(40)
    tell_absent("ward", ("a", "b"), y, dict.fromkeys(("train", "val", "test"), np.arange(80)))
    tell_absent("ward", (), y / 2, {"train": half, "val": half, "test": half + 40})
    tell_absent("ward", ("a", "b"), y, {"train": np.arange(80), "val": np.arange(80), "test": half[:0]})
    assert not caplog.text  # an empty split is a fault of its own
    tell_absent("ward", ("a", "b"), y, dict.fromkeys(("train", "val", "test"), np.arange(80)), labelled=half)
    assert "no row of 'b' in its labelled training rows" in caplog.text
