import pickle
import random
import timeit

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from tests.data.small_sets import Noisy, side, tensors
from tlkit.data.rows import DomainRows, Draw, SideRows, TensorRows, mix, row_draws
from tlkit.errors import DataError


class Pairs(Dataset):
    """A list of rows as a data set."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


def read(data, rows, num_classes=2, **kwargs):
    return SideRows([DomainRows("a", 0, "train", data, num_classes, **kwargs)]).__getitems__(rows)


def test_rows_of_several_domains_come_in_the_order_asked_for():
    samples = side(4, 3, 5).__getitems__([11, 0, 4, 6, 3])
    assert samples.x.flatten().tolist() == [204, 0, 100, 102, 3]
    assert samples.domain.tolist() == [2, 0, 1, 1, 0]
    assert samples.index.tolist() == [4, 0, 0, 2, 3]
    assert samples.y.tolist() == [0, 0, 0, 0, 1]
    assert samples.domain.dtype == samples.index.dtype == torch.int64


def test_padding_rows_hold_a_real_row_and_index_minus_one():
    for rows in (side(4), side(2, 2)):
        samples = rows.__getitems__([1, ~3])
        assert samples.index.tolist() == [1, -1]
        assert len(samples.x) == 2


def test_labels_that_are_sealed_are_not_read():
    class Sealed(Pairs):
        def __getitem__(self, row):
            return torch.zeros(2), "never collated"

    assert read(Sealed([0] * 3), [0, 2], labels=False).y is None
    assert side(3, labels=False).__getitems__([0, 1]).y is None
    assert side(3, 3, labels=False).__getitems__([0, 4]).y is None
    # and a target may hold anything in their place
    x = torch.zeros(3, 1)
    assert read(TensorDataset(x, torch.tensor([-1, 7, -1])), [0], labels=False).y is None


def test_nested_subsets_of_tensors_are_sliced_as_tensors():
    data = Subset(Subset(tensors(10), [9, 7, 5, 3]), [3, 0])
    samples = read(data, [0, 1])
    assert samples.x.flatten().tolist() == [3, 9]
    assert samples.index.tolist() == [0, 1]


def test_a_subclass_of_tensor_dataset_keeps_its_own_getitem():
    class Doubled(TensorDataset):
        def __getitem__(self, row):
            x, y = super().__getitem__(row)
            return 2 * x, y

    assert read(Doubled(*tensors(5).tensors), [3]).x.tolist() == [[6]]


def test_a_data_set_with_getitems_is_asked_for_whole_batches():
    class Batched(Pairs):
        asked = []

        def __getitems__(self, rows):
            self.asked.append(rows)
            return [(torch.tensor([float(row)]), row % 2) for row in rows]

        def __getitem__(self, row):
            raise AssertionError("one by one")

    data = Batched([0] * 9)
    assert read(data, [4, 2]).x.tolist() == [[4], [2]]
    assert data.asked == [[4, 2]]


def test_mappings_are_collated_by_key():
    rows = [({"ids": torch.tensor([i, i]), "mask": torch.ones(2)}, 0) for i in range(3)]
    one = DomainRows("a", 0, "train", Pairs(rows), 2)
    two = DomainRows("b", 1, "train", Pairs(rows), 2)
    for parts, wanted in (([one], [2, 0]), ([one, two], [5, 0])):
        x = SideRows(parts).__getitems__(wanted).x
        assert x["ids"].tolist() == [[2, 2], [0, 0]]
        assert x["mask"].shape == (2, 2)


def test_small_integer_labels_become_int64():
    x = torch.zeros(3, 1)
    assert read(TensorDataset(x, torch.tensor([0, 1, 1], dtype=torch.uint8)), [0]).y.dtype == torch.int64
    assert read(TensorDataset(x, torch.rand(3, 2)), [0], 0).y.dtype == torch.float32


def test_noise_depends_on_seed_pass_domain_and_row_only():
    rows = side(5, 5, data=Noisy)
    one = rows.__getitems__(Draw([3, 7], (1, 0))).x
    assert torch.equal(one, rows.__getitems__(Draw([7, 3], (1, 0))).x.flip(0))
    for other in (Draw([3, 7], (1, 1)), Draw([3, 7], (2, 0))):
        assert (one[:, 1:] != rows.__getitems__(other).x[:, 1:]).all()
    same_row = rows.__getitems__(Draw([3, 8], (1, 0))).x
    assert (same_row[0, 1:] != same_row[1, 1:]).all()


def test_the_callers_generators_are_left_as_they_were():
    rows = side(5, data=Noisy)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    rows.__getitems__([0, 1, 2])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_faults_of_tensors_are_found_at_once():
    x, y = tensors(6).tensors
    x[4] = torch.nan
    with pytest.raises(DataError, match="domain 'a', train split, index 4: x holds NaN"):
        DomainRows("a", 0, "train", TensorDataset(x, y), 2)
    with pytest.raises(DataError, match="domain 'a', train split, index 1: x holds NaN"):
        DomainRows("a", 0, "train", Subset(TensorDataset(x, y), [5, 4]), 2)
    DomainRows("a", 0, "train", Subset(TensorDataset(x, y), [0, 1]), 2)
    with pytest.raises(DataError, match="index 1: the label is 1, but with 1 classes"):
        DomainRows("a", 0, "train", tensors(6), 1)
    with pytest.raises(DataError, match=r"rows \(x, y\), got 3 tensors"):
        DomainRows("a", 0, "train", TensorDataset(x, y, y), 2)


def test_faults_of_other_data_are_found_in_their_batch():
    good = (torch.zeros(2), 1)
    with pytest.raises(DataError, match="domain 'a', train split, index 2: x holds NaN"):
        read(Pairs([good, good, (torch.tensor([0, torch.nan]), 1)]), [0, 2])
    with pytest.raises(DataError, match="domain 'a', train split, index 1: the label is 5"):
        read(Pairs([good, (torch.zeros(2), 5)]), [0, 1])
    with pytest.raises(DataError, match="rows do not stack into a batch, all x must have one shape"):
        read(Pairs([good, (torch.zeros(3), 1)]), [0, 1])
    with pytest.raises(DataError, match=r"domain 'a': a data set has rows \(x, y\), got 3 values"):
        read(Pairs([(*good, 0)]), [0])
    with pytest.raises(DataError, match=r"domain 'a': a data set has rows \(x, y\), got Tensor"):
        read(Pairs([torch.zeros(2)]), [0])


class Drawn(Pairs):
    """Rows that read their own batches: the row's number, and what is drawn for it."""

    def seeded_batch(self, rows, key):
        x = torch.stack([rows.double(), torch.from_numpy(row_draws(key, rows)[:, 0])], 1)
        return x, torch.tensor([self.rows[row] for row in rows])


def test_a_data_set_may_read_its_own_batches():
    data = Subset(Drawn([0, 1, 0, 1, 1, 5]), [5, 4, 3, 2, 1])
    rows = SideRows([DomainRows("a", 3, "train", data, 6)])
    state = torch.get_rng_state()
    whole = rows.__getitems__(Draw([0, 1, 2, 3, 4], (7, 0)))
    assert whole.x[:, 0].tolist() == [5, 4, 3, 2, 1]
    assert whole.y.tolist() == [5, 1, 1, 0, 1]
    wanted = row_draws((7, 0, 3), torch.tensor([5, 4, 3, 2, 1]))[:, 0]
    assert whole.x[:, 1].tolist() == wanted.tolist()
    halves = [rows.__getitems__(Draw(part, (7, 0))).x for part in ([0, 1, 2], [3, 4])]
    assert torch.equal(torch.cat(halves), whole.x)  # two ranks draw what one draws
    assert torch.equal(torch.get_rng_state(), state)
    assert read(data, [0], labels=False).y is None
    with pytest.raises(DataError, match="domain 'a', train split, index 0: the label is 5"):
        read(data, [0])


def test_draws_are_even_and_depend_on_key_and_row_alone():
    rows = torch.arange(20_000)
    values = row_draws((3, 1), rows)
    assert values.shape == (20_000, 8)
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram(values, 10, (0, 1))[0]
    assert np.abs(counts / values.size - 0.1).max() < 0.003
    assert np.abs(np.corrcoef(values.T) - np.eye(8)).max() < 0.03
    assert abs(np.corrcoef(values[1:, 0], values[:-1, 0])[0, 1]) < 0.03
    some = torch.tensor([7, 19_999, 3])
    assert np.array_equal(row_draws((3, 1), some), values[some.numpy()])
    for other in ((3, 2), (4, 1), (3,)):
        assert abs(np.corrcoef(row_draws(other, rows)[:, 0], values[:, 0])[0, 1]) < 0.03


def test_an_empty_data_set():
    with pytest.raises(DataError, match="domain 'a' has no rows in its train split"):
        DomainRows("a", 0, "train", tensors(0), 2)


def test_a_draw_survives_the_way_to_a_worker():
    draw = pickle.loads(pickle.dumps(Draw([1, 2], (3, 4))))
    assert draw == [1, 2]
    assert draw.key == (3, 4)


def test_seeds_of_neighbouring_keys_are_unrelated():
    keys = [(seed, number, row) for seed in range(5) for number in range(5) for row in range(5)]
    assert len({mix(*key) for key in keys}) == len(keys)


def test_a_batch_of_tensors_takes_no_time():
    table = TensorDataset(torch.rand(2000, 9, 128), torch.zeros(2000).long())
    rows = SideRows([DomainRows("a", 0, "train", table, 2)])
    wanted = Draw(torch.randperm(2000)[:64].tolist(), (0, 0))

    def best(fetch):
        return min(timeit.repeat(fetch, number=50, repeat=5))

    one_by_one = best(lambda: default_collate([table[row] for row in wanted]))
    assert best(lambda: rows.__getitems__(wanted)) < 0.4 * one_by_one  # a seventh of it on a quiet machine


def test_tokens_of_several_domains_are_padded_to_one_length():
    parts = []
    for number, length in enumerate((3, 5)):
        x = {
            "input_ids": torch.full((2, 6), 7 + number),
            "attention_mask": (torch.arange(6) < length).long().repeat(2, 1),
        }
        parts.append(DomainRows("ab"[number], number, "train", TensorRows(x, torch.tensor([0, 1])), 2))
    x = SideRows(parts).__getitems__([2, 1]).x
    assert x["input_ids"].tolist() == [[8] * 5, [7, 7, 7, 0, 0]]
    assert x["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
