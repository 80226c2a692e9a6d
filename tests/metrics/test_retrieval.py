import pytest
import torch

from tlkit.errors import ConfigurationError
from tlkit.functional import pack_codes
from tlkit.metrics import HashRetrieval


def test_values_are_those_of_a_ranking_written_out():
    queries, database = torch.randn(6, 24), torch.randn(50, 24)
    y, labels = torch.randint(0, 3, (6,)), torch.randint(0, 3, (50,))
    metric = HashRetrieval(24, lambda: (pack_codes(database), labels), k=10)
    metric.update(queries[:4], y[:4])
    metric.update(queries[4:], y[4:])
    expected = {"map": [], "map_at_10": [], "precision_radius_2": []}
    for query, label in zip(queries, y, strict=True):
        distance = ((query > 0) != (database > 0)).sum(1)
        hits = labels == label
        for name, k in (("map", 50), ("map_at_10", 10)):
            # Positions of one distance share their mean: here by many random orders of them.
            values = []
            for _ in range(400):
                order = torch.argsort(distance + 0.5 * torch.rand(50))
                found = hits[order][:k].double()
                precision = found.cumsum(0) / torch.arange(1, k + 1)
                values.append(((precision * found).sum() / min(int(hits.sum()), k)).item())
            expected[name].append(sum(values) / len(values))
        near = distance <= 2
        expected["precision_radius_2"].append((near & hits).sum().item() / max(int(near.sum()), 1))
    for name, value in metric.compute().items():
        assert value.item() == pytest.approx(sum(expected[name]) / 6, abs=0.01), name


def test_the_order_of_the_data_base_does_not_matter():
    queries, database = torch.randn(20, 8), torch.randn(300, 8)
    y, labels = torch.randint(0, 4, (20,)), torch.randint(0, 4, (300,))
    values = []
    for order in (torch.arange(300), labels.argsort(), torch.randperm(300)):
        packed = pack_codes(database[order]), labels[order]
        metric = HashRetrieval(8, lambda packed=packed: packed)
        metric.update(queries, y)
        values.append(metric.compute()["map"].item())
    assert values[0] == pytest.approx(values[1], abs=1e-6) == pytest.approx(values[2], abs=1e-6)


def test_a_query_without_a_relevant_row_counts_zero():
    packed = pack_codes(torch.ones(3, 8)), torch.tensor([0, 0, 1])
    metric = HashRetrieval(8, lambda: packed, k=2)
    metric.update(torch.ones(1, 8), torch.tensor([2]))
    assert all(value == 0 for value in metric.compute().values())


def test_k_is_positive():
    with pytest.raises(ConfigurationError, match=r"HashRetrieval\(k=...\) is at least 1, got 0"):
        HashRetrieval(8, lambda: (None, None), k=0)
