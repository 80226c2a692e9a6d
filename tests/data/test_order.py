import pytest
import torch

from tlkit.data.loader import TrainLoader, eval_loader
from tlkit.data.order import by_length
from tlkit.data.rows import DomainRows, SideRows
from tlkit.data.text.tokens import TokenRows, Tokens
from tlkit.distributed import TrainBatches

LENGTHS = torch.randint(1, 200, (5000,), generator=torch.Generator().manual_seed(0))


def order_of(step, seed=0, lengths=LENGTHS):
    return by_length(lengths, torch.Generator().manual_seed(seed), step)


def padding(lengths, step):
    """Share of a padded batch that is padding."""
    rows = lengths[: len(lengths) // step * step].reshape(-1, step).float()
    return 1 - float(rows.sum() / (rows.max(1).values * step).sum())


def test_every_row_comes_once_and_another_seed_gives_another_order():
    for step in (1, 32, 4999, 5000):
        assert order_of(step).sort().values.tolist() == list(range(5000))
    assert torch.equal(order_of(32), order_of(32))
    assert not torch.equal(order_of(32), order_of(32, seed=1))


def test_steps_need_hardly_any_padding_and_come_in_no_order():
    by_chance = LENGTHS[torch.randperm(5000, generator=torch.Generator().manual_seed(1))]
    assert padding(by_chance, 32) > 0.4
    assert padding(LENGTHS[order_of(32)], 32) < 0.03
    longest = LENGTHS[order_of(32)][: 156 * 32].reshape(-1, 32).max(1).values.float()
    assert abs(float(torch.corrcoef(torch.stack([longest, torch.arange(156.0)]))[0, 1])) < 0.25


def test_the_rows_that_fill_no_step_are_others_in_every_pass_whatever_their_length():
    left = torch.cat([order_of(32, seed)[156 * 32 :] for seed in range(300)])
    assert len(left.unique()) > 1500
    assert abs(float(LENGTHS[left].float().mean() / LENGTHS.float().mean()) - 1) < 0.05


def texts(count, seed, domain=0, labels=True):
    """Texts of random lengths whose tokens are all the number of the text, from 1 on."""
    lengths = torch.randint(1, 30, (count,), generator=torch.Generator().manual_seed(seed))
    ids = torch.arange(1, count + 1).repeat_interleave(lengths)
    tokens = Tokens({"input_ids": ids.int().numpy(), "ends": lengths.cumsum(0).numpy()}, pad=0)
    return DomainRows("ab"[domain], domain, "train", TokenRows(tokens, torch.arange(count) % 2), 2, labels)


def both_sides(seed=3, **options):
    source = SideRows([texts(200, 0), texts(130, 1, domain=1)], by_length=True)
    return TrainLoader(source, SideRows([texts(90, 2, labels=False)], by_length=True), 8, seed, **options)


def batches(loader, count):
    found = []
    while len(found) < count:
        found += list(loader)
    return found[:count]


def rows_of(samples):
    return list(zip(samples.domain.tolist(), samples.index.tolist(), strict=True))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_rows_that_one_rank_would_have(world):
    source = SideRows([texts(200, 0)], by_length=True)
    whole = TrainBatches(200, 8, seed=5, order=source.order)
    parts = [iter(TrainBatches(200, 8 // world, 5, rank, world, order=source.order)) for rank in range(world)]
    for _, rows in zip(range(100), whole, strict=False):
        assert rows == [row for part in parts for row in next(part)]


def test_a_side_of_several_domains_is_sorted_as_one():
    for batch in batches(both_sides(), 20):
        mask = batch.source.x["attention_mask"]
        assert mask.any(0).all()  # no column of padding alone
        assert torch.equal(batch.source.x["input_ids"], (batch.source.index[:, None] + 1) * mask)
        assert int(mask.sum(1).max() - mask.sum(1).min()) <= 8
    assert {int(d) for batch in batches(both_sides(), 20) for d in batch.source.domain} == {0, 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_resumes_sees_what_it_would_have_seen(workers):
    whole = batches(both_sides(num_workers=workers), 60)
    for start in (7, 45):  # in the first pass of both sides, and in the fourth of the shorter one
        again = both_sides(seed=99)
        again.load_state_dict({"position": start, "seed": 3})
        for ours, theirs in zip(batches(again, 60 - start), whole[start:], strict=True):
            for side in ("source", "target"):
                assert rows_of(getattr(ours, side)) == rows_of(getattr(theirs, side))


def test_texts_are_evaluated_longest_first_each_once_over_ranks():
    rows = SideRows([texts(75, 4)])
    found = [list(eval_loader(rows, 4, rank=rank, world=2)) for rank in (0, 1)]
    lengths = [[int(n) for batch in rank for n in batch.x["attention_mask"].sum(1)] for rank in found]
    seen = sorted(int(i) for rank in found for batch in rank for i in batch.index if i >= 0)
    assert seen == list(range(75))
    for rank in lengths:
        assert rank[:-1] == sorted(rank[:-1], reverse=True)  # the last may pad


def test_rows_without_lengths_are_drawn_by_chance():
    data = torch.utils.data.TensorDataset(torch.rand(10, 2), torch.arange(10) % 2)
    assert SideRows([DomainRows("a", 0, "train", data, 2)], by_length=True).order is None
    mixed = SideRows([texts(10, 0), DomainRows("b", 1, "train", data, 2)], by_length=True)
    assert mixed.row_lengths is None
    assert SideRows([texts(10, 0)]).order is None
