import itertools

import pytest
import torch
from torch.utils.data import Dataset

from tests.data.small_sets import Noisy, side
from tlkit.data.loader import TrainLoader, eval_loader
from tlkit.data.rows import DomainRows, SideRows
from tlkit.errors import DataError

WORKERS = pytest.mark.parametrize("num_workers", [0, 2])


def same(one, other):
    """Whether two training batches are equal in every value."""
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in ((one.source, other.source), (one.target, other.target))
        for name in ("x", "domain", "index")
    )


def endless(loader):
    return itertools.chain.from_iterable(itertools.repeat(loader))


def take(loader, number):
    return list(itertools.islice(endless(loader), number))


def noisy(num_workers=0, seed=0, batch_size=4, **kwargs):
    return TrainLoader(
        side(21, data=Noisy), side(9, data=Noisy, labels=False), batch_size, seed, num_workers=num_workers, **kwargs
    )


def test_an_epoch_is_one_pass_over_the_longer_side():
    assert len(TrainLoader(side(40), side(13), 4, 0)) == 10
    assert len(TrainLoader(side(13), side(43), 4, 0)) == 10
    assert len(TrainLoader(side(13), side(43), 4, 0, world=2)) == 5
    assert len(TrainLoader(None, side(9), 4, 0)) == 2
    loader = TrainLoader(side(40), side(13), 4, 0)
    batches = list(loader)
    assert len(batches) == 10
    assert sorted(torch.cat([batch.source.index for batch in batches]).tolist()) == list(range(40))


def test_the_short_side_is_reshuffled_on_every_pass():
    target = torch.stack([batch.target.index for batch in take(TrainLoader(side(40), side(12), 4, 0), 12)])
    passes = target.reshape(4, 12)
    assert all(sorted(order.tolist()) == list(range(12)) for order in passes)
    assert len({tuple(order.tolist()) for order in passes}) == 4


def test_the_sides_have_orders_of_their_own():
    batches = take(TrainLoader(side(12), side(12), 4, 0), 3)
    assert any(batch.source.index.tolist() != batch.target.index.tolist() for batch in batches)


@WORKERS
def test_epochs_follow_each_other(num_workers):
    loader, reference = noisy(num_workers), noisy()
    assert len(loader) == 5
    first, second = list(loader), list(loader)
    assert loader.position == 10
    assert all(map(same, first + second, take(reference, 10)))


def test_other_seeds_other_batches():
    assert not same(*(next(iter(noisy(seed=seed))) for seed in (0, 1)))


def test_two_iterators_that_took_nothing_start_at_the_same_batch():
    loader = noisy()
    iter(loader)
    assert loader.position == 0
    assert same(next(iter(loader)), next(iter(noisy())))


@WORKERS
def test_position_counts_what_was_handed_out_not_what_was_prefetched(num_workers):
    loader = noisy(num_workers)
    batches = iter(loader)
    for number in range(1, 4):
        next(batches)
        assert loader.state_dict() == {"position": number, "seed": 0}
    loader.close()


@WORKERS
@pytest.mark.parametrize("stop", [1, 3, 5, 7])
def test_resume_gives_the_batches_that_were_left(num_workers, stop):
    whole = take(noisy(), 12)
    interrupted = noisy(num_workers)
    take(interrupted, stop)
    resumed = noisy(num_workers, seed=99)
    next(iter(resumed))  # workers that are already ahead must be called back
    resumed.load_state_dict(interrupted.state_dict())
    assert all(map(same, take(resumed, 12 - stop), whole[stop:]))
    interrupted.close()
    resumed.close()


def test_ranks_share_the_batch_of_one_rank_also_in_its_augmentation():
    one = take(noisy(batch_size=4), 6)
    ranks = [take(noisy(batch_size=2, rank=rank, world=2), 6) for rank in (0, 1)]
    for whole, *parts in zip(one, *ranks, strict=True):
        for name in ("source", "target"):
            shards = [getattr(part, name) for part in parts]
            assert not set(shards[0].index.tolist()) & set(shards[1].index.tolist())
            assert torch.equal(torch.cat([shard.x for shard in shards]), getattr(whole, name).x)
            assert torch.equal(torch.cat([shard.index for shard in shards]), getattr(whole, name).index)


def test_a_side_that_is_not_there():
    batch = next(iter(TrainLoader(side(8), None, 4, 0)))
    assert batch.target is None
    assert len(batch.source) == 4
    batch = next(iter(TrainLoader(None, side(8), 4, 0)))
    assert batch.source is None


def test_a_batch_larger_than_a_side():
    with pytest.raises(DataError, match="batch_size 8 needs 8 rows, but the data set has 7"):
        TrainLoader(side(20), side(7), 8, 0)


def test_loading_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    take(noisy(), 7)
    list(eval_loader(side(5, data=Noisy), 2))
    assert torch.equal(before, torch.get_rng_state())


@WORKERS
def test_evaluation_reads_every_row_once_in_order_and_alike_every_time(num_workers):
    loader = eval_loader(side(7, data=Noisy), 3, num_workers, persistent=True)
    first, second = ([batch.x for batch in loader] for _ in range(2))
    assert [len(x) for x in first] == [3, 3, 1]
    assert torch.cat(first)[:, 0].tolist() == list(range(7))
    assert torch.equal(torch.cat(first), torch.cat(second))


def test_ranks_evaluate_every_row_once_and_mark_what_pads():
    ranks = [list(eval_loader(side(7), 2, rank=rank, world=2)) for rank in (0, 1)]
    index = [torch.cat([batch.index for batch in batches]) for batches in ranks]
    assert [len(i) for i in index] == [4, 4]
    assert sorted(torch.cat(index).tolist()) == [-1, *range(7)]


class Broken(Dataset):
    """A data set whose last row cannot be read."""

    def __len__(self):
        return 6

    def __getitem__(self, row):
        return torch.tensor([float("nan") if row == 5 else 0.0]), 0


@WORKERS
def test_the_message_comes_through_worker_processes_unchanged(num_workers):
    rows = SideRows([DomainRows("a", 0, "train", Broken(), 2)])
    message = "domain 'a', train split, index 5: x holds NaN or infinity"
    for loader in (eval_loader(rows, 2, num_workers), TrainLoader(rows, None, 2, 0, num_workers=num_workers)):
        with pytest.raises(DataError) as caught:
            list(loader)
        assert str(caught.value).startswith(message)
