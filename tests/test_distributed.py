from itertools import chain, islice

import pytest
import torch

from tlkit.distributed import EvalRows, TrainBatches, gather
from tlkit.errors import DataError
from tlkit.types import Encoded


def take(batches, count):
    return list(islice(iter(batches), count))


def test_every_pass_has_every_row_once_in_another_order():
    batches = TrainBatches(size=12, batch_size=4, seed=3)
    passes = [list(chain(*take(batches, 9)[3 * p : 3 * p + 3])) for p in range(3)]
    assert all(sorted(order) == list(range(12)) for order in passes)
    assert passes[0] != passes[1] != passes[2]


def test_the_dropped_rows_differ_between_passes():
    batches = TrainBatches(size=7, batch_size=3, seed=0)
    seen = take(batches, 20)
    assert batches.per_pass == 2
    dropped = {(set(range(7)) - set(seen[i]) - set(seen[i + 1])).pop() for i in range(0, 20, 2)}
    assert len(dropped) > 1


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_out_the_batches_of_one_rank(world):
    one = take(TrainBatches(100, 8 * world, seed=5), 30)
    ranks = [take(TrainBatches(100, 8, seed=5, rank=rank, world=world), 30) for rank in range(world)]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == one


@pytest.mark.parametrize("world", [1, 2])
def test_accumulated_batches_are_those_of_a_large_one(world):
    one = take(TrainBatches(100, 8 * 3 * world, seed=5), 10)
    ranks = [take(TrainBatches(100, 8, seed=5, rank=rank, world=world, accumulate=3), 30) for rank in range(world)]
    batches = [list(chain(*parts)) for parts in zip(*ranks, strict=True)]
    assert [list(chain(*batches[first : first + 3])) for first in range(0, 30, 3)] == one
    assert TrainBatches(100, 8, seed=5, accumulate=3).per_pass == 12  # of 100 // 8: steps are whole


def test_start_resumes_in_the_middle_of_any_pass():
    whole = take(TrainBatches(11, 2, seed=9), 40)
    for start in (0, 1, 5, 17):
        assert take(TrainBatches(11, 2, seed=9, start=start), 10) == whole[start : start + 10]


def test_seeds_do_not_repeat_each_others_passes():
    zero, one = (take(TrainBatches(32, 32, seed=seed), 4) for seed in (0, 1))
    assert not any(a == b for a in zero for b in one)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(
        DataError, match=r"batch_size 8 on 2 processes needs 16 rows, but the data set has 15.*at most 7"
    ):
        TrainBatches(15, 8, seed=0, world=2)


def test_a_step_larger_than_the_data_is_refused():
    with pytest.raises(DataError, match=r"8 on 2 processes, 3 batches a step, needs 48 rows.* has 47: .* at most 7"):
        TrainBatches(47, 8, seed=0, world=2, accumulate=3)


@pytest.mark.parametrize(("size", "world"), [(10, 1), (10, 4), (1, 3), (8, 4)])
def test_evaluation_counts_every_row_once_in_equal_steps(size, world):
    ranks = [list(EvalRows(size, rank, world)) for rank in range(world)]
    assert len({len(rows) for rows in ranks}) == 1
    assert len(ranks[0]) == len(EvalRows(size, 0, world))
    flat = [row for rows in ranks for row in rows]
    assert sorted(row for row in flat if row >= 0) == list(range(size))
    assert all(0 <= ~row < size for row in flat if row < 0)


def test_gather_on_one_process_returns_what_it_was_given():
    rows = torch.arange(2)
    side = Encoded(torch.rand(2, 3), torch.rand(2, 2), rows, rows, rows)
    source, target = gather(side, None)
    assert source is side
    assert target is None


def test_half_precision_is_raised_and_double_kept():
    rows = torch.arange(2)
    for given, expected in (
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ):
        raised = Encoded(torch.ones(2, 3, dtype=given), torch.ones(2, 2, dtype=given), None, rows, rows).raised()
        assert raised.features.dtype == raised.outputs.dtype == expected
