import os
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.ranks import on_ranks
from tlkit.metrics import PositioningError


def values(*batches):
    metric = PositioningError()
    for outputs, y in batches:
        metric.update(outputs, y)
    return {name: value.item() for name, value in metric.compute().items()}


def test_a_case_worked_by_hand():
    y = torch.zeros(4, 2)
    outputs = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0], [6.0, 8.0]])  # errors 5, 1, 0 and 10
    found = values((outputs, y))
    assert found == pytest.approx({"error_mean": 4.0, "error_median": 3.0, "error_p75": 6.25, "error_p95": 9.25})


def test_numpy_agrees_whatever_the_batches():
    random = np.random.default_rng(0)
    outputs, y = random.normal(0, 9, (101, 2)), random.normal(0, 9, (101, 2))
    errors = np.hypot(*(outputs - y).T)
    parts = [(torch.tensor(outputs[part]), torch.tensor(y[part])) for part in (slice(0, 64), slice(64, 101))]
    expected = {"error_mean": errors.mean(), "error_median": np.median(errors)}
    expected |= {f"error_p{q}": np.percentile(errors, q) for q in (75, 95)}
    assert values(*parts) == pytest.approx(expected, rel=1e-6)


def test_one_quantity_has_absolute_errors_and_one_row_is_every_percentile():
    y = torch.tensor([1.0, 5.0])
    found = values((torch.tensor([[2.0], [2.0]]), y))
    assert found["error_mean"] == 2
    assert found["error_p95"] == pytest.approx(2.9)
    assert set(values((torch.zeros(1, 2), torch.tensor([[0.0, 7.0]]))).values()) == {7.0}


def test_centimetres_survive_far_from_the_origin_and_in_half_precision():
    y = torch.tensor([[4_864_745.02, 0.0]], dtype=torch.float64)
    assert values((y + torch.tensor([0.01, 0.0]), y))["error_mean"] == pytest.approx(0.01, rel=1e-4)
    assert values((torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16), torch.zeros(1, 2)))["error_mean"] == pytest.approx(
        5**0.5
    )


def _errors_of_rank():
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    metric = PositioningError()
    for row in range(5)[rank : 5 - 2 * rank]:  # 5 rows on the first, 2 on the second
        metric.update(torch.tensor([[float(row), rank]]), torch.zeros(1, 2))
    lone = PositioningError()
    if rank == 0:  # the other rank was given padding alone
        lone.update(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        return metric.compute()["error_median"].item(), lone.compute()["error_mean"].item()


def test_ranks_with_unequal_numbers_of_rows_see_all_of_them(tmp_path):
    errors = [0, 1, 2, 3, 4, 2**0.5, 5**0.5]
    assert on_ranks(2, _errors_of_rank, folder=tmp_path) == [pytest.approx((float(np.median(errors)), 5.0))] * 2
