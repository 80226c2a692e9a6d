import numpy as np
import pytest

from tlkit.data.splits import divide, generator
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
    with pytest.raises(DataError, match="1 rows are too few to hold out 1 of 1 rows"):
        divide(np.arange(1), 1, np.zeros(1, int), None, np.random.default_rng(0))
    with pytest.raises(DataError, match="1 groups are too few"):
        divide(np.arange(9), 3, np.zeros(9, int), np.zeros(9), np.random.default_rng(0))


def test_the_generator_depends_on_domain_and_seed():
    first = {(seed, name): generator(seed, name).integers(2**60) for seed in (0, 1) for name in ("mnist", "usps")}
    assert len(set(first.values())) == 4
    assert first[0, "mnist"] == generator(0, "mnist").integers(2**60)
