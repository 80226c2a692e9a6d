"""Hamming distance, search and average precision against unpacked bits, sorted lists and all orders of ties."""

import itertools

import numpy as np
import pytest
import torch

from tlkit.errors import ConfigurationError
from tlkit.functional import (
    average_precision,
    count_by_distance,
    hamming,
    hamming_distance,
    hamming_search,
    pack_codes,
    precision_within,
)


@pytest.mark.parametrize("bits", [1, 8, 13, 64, 65, 200])
def test_packed_codes_and_distances_are_those_of_the_unpacked_bits(bits):
    queries, database = torch.randn(7, bits), torch.randn(11, bits)
    queries[0], database[0] = 1.0, -1.0  # all bits set: the sign of a 64-bit word too
    packed = pack_codes(queries)
    assert np.array_equal(packed.numpy(), np.packbits((queries > 0).numpy(), axis=1))
    expected = ((queries > 0)[:, None] != (database > 0)[None]).sum(2)
    assert expected[0, 0] == bits
    assert torch.equal(hamming_distance(packed, pack_codes(database)), expected)


def test_a_zero_is_a_zero_bit_and_precision_does_not_matter():
    assert pack_codes(torch.tensor([[0.0, -0.0, 1e-7]], dtype=torch.bfloat16)).tolist() == [[0b00100000]]


def test_search_is_a_stable_sort_by_distance(monkeypatch):
    monkeypatch.setattr(hamming, "_AT_ONCE", 100)  # three queries at a time
    queries, database = pack_codes(torch.randn(10, 6)), pack_codes(torch.randn(30, 6))
    distance = hamming_distance(queries, database)
    expected = distance.sort(dim=1, stable=True)
    distances, rows = hamming_search(queries, database, k=12)
    assert torch.equal(distances, expected.values[:, :12])
    assert torch.equal(rows, expected.indices[:, :12])
    assert hamming_search(queries, database, k=99)[1].shape == (10, 30)


def test_counts_are_over_pairs_however_many_are_compared_at_a_time(monkeypatch):
    queries, database = torch.randn(9, 5), torch.randn(40, 5)
    y, labels = torch.randint(0, 3, (9,)), torch.randint(0, 3, (40,))
    whole = count_by_distance(pack_codes(queries), y, pack_codes(database), labels, bits=5)
    distance = hamming_distance(pack_codes(queries), pack_codes(database))
    for d in range(6):
        assert torch.equal(whole[0][:, d], (distance == d).sum(1))
        assert torch.equal(whole[1][:, d], ((distance == d) & (y[:, None] == labels)).sum(1))
    monkeypatch.setattr(hamming, "_AT_ONCE", 80)
    parted = count_by_distance(pack_codes(queries), y, pack_codes(database), labels, bits=5)
    assert all(map(torch.equal, whole, parted))
    none = count_by_distance(pack_codes(queries[:0]), y[:0], pack_codes(database), labels, bits=5)
    assert none[0].shape == none[1].shape == (0, 6)


def of_a_list(relevant, k):
    """Average precision of one list of hits and misses, as in a textbook."""
    hits = [sum(relevant[: i + 1]) / (i + 1) for i in range(min(k, len(relevant))) if relevant[i]]
    return sum(hits) / max(min(sum(relevant), k), 1)


@pytest.mark.parametrize("k", [None, 1, 2, 4, 6, 50])
def test_average_precision_is_the_mean_over_all_orders_of_ties(k):
    groups = [[1, 0, 0], [], [1, 1, 0], [0], [1]]
    counts = torch.tensor([[len(group) for group in groups]])
    relevant = torch.tensor([[sum(group) for group in groups]])
    orders = list(itertools.product(*(itertools.permutations(group) for group in groups)))
    values = [of_a_list(list(itertools.chain(*order)), k or 50) for order in orders]
    assert average_precision(counts, relevant, k).item() == pytest.approx(np.mean(values), abs=1e-12)


def test_average_precision_without_ties_is_that_of_scikit_learn():
    from sklearn.metrics import average_precision_score

    hits = torch.tensor([[0, 1, 1, 0, 0, 1, 0, 1]])
    expected = average_precision_score(hits[0], -np.arange(8))
    assert average_precision(torch.ones_like(hits), hits).item() == pytest.approx(expected, abs=1e-12)


def test_by_hand():
    # First a miss, then two hits at one distance: (1/2 + 2/3) / 2. Of the first two places one hit is sure to be there.
    counts, relevant = torch.tensor([[1, 2, 0, 5]]), torch.tensor([[0, 2, 0, 0]])
    assert average_precision(counts, relevant).item() == pytest.approx(7 / 12)
    assert average_precision(counts, relevant, k=2).item() == pytest.approx(0.5 / 2)
    assert precision_within(counts, relevant, radius=0).item() == 0
    assert precision_within(counts, relevant, radius=2).item() == pytest.approx(2 / 3)


def test_nothing_relevant_and_nothing_near_are_zero():
    counts, nothing = torch.tensor([[0, 0, 0, 4]]), torch.zeros(1, 4, dtype=torch.int64)
    assert average_precision(counts, nothing).tolist() == [0.0]
    assert precision_within(counts, torch.tensor([[0, 0, 0, 4]])).tolist() == [0.0]
    assert average_precision(nothing, nothing, k=3).tolist() == [0.0]


def test_what_is_refused():
    with pytest.raises(ConfigurationError, match=r"hamming_distance\(database=...\) takes packed codes"):
        hamming_distance(torch.zeros(1, 2, dtype=torch.uint8), torch.zeros(1, 3, dtype=torch.uint8))
    with pytest.raises(ConfigurationError, match=r"hamming_distance\(queries=...\).*got torch.float32"):
        hamming_distance(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.uint8))
    with pytest.raises(ConfigurationError, match="pack_codes takes a matrix"):
        pack_codes(torch.zeros(3))
