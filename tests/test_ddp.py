"""N ranks of batch b give the gradient of one rank of batch N*b. Real processes, a real Trainer, gloo."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.ranks import on_ranks
from tests.scaling import BACKBONE_CASES, CASES, GLOBAL_BATCH, LOSSES, OTHERS, TASK_CASES, distance, train, train_all
from tests.shift import MLP
from tlkit.distributed import gather, mean_over_ranks
from tlkit.types import Encoded

pytestmark = pytest.mark.ddp
# What is not here runs with the slow tests, which put every case through both numbers of ranks and both precisions.
QUICK = {
    2: (
        "mmd", "coral", "hash_pairwise", *OTHERS, "CNN1d", "TransformersBackbone", "timm mobilenetv3_small_050",
        "Hashing-bits=8", "Regression-loss=euclidean",
    ),
    4: ("several", "batch norm over ranks", "unlabelled target"),
}  # fmt: skip
# Of the largest value. Deep networks with batch normalisation differ by more in float32: by its rounding, as one rank
# does from itself when rows come in another order.
LIMITS = {(torch.float64, True): 1e-12, (torch.float64, False): 1e-12, (torch.float32, True): 1e-6}
LIMITS[torch.float32, False] = 1e-4


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return a function that runs cases on a number of ranks, once, and returns each rank's results."""
    known, mktemp = {}, tmp_path_factory.mktemp

    def run(world, names, dtype=torch.float64, steps=8):
        key = (world, names, dtype, steps)
        if key not in known:
            alone = world == 1
            known[key] = [train_all(*key)] if alone else on_ranks(world, train_all, *key, folder=mktemp("ranks"))
        return known[key]

    return run


def check(one, ranks, limit, curve, steps=50):
    for rank, other in enumerate(ranks):
        assert distance(one.gradient, other.gradient) < limit, f"rank {rank}"
        np.testing.assert_allclose(other.losses[:steps], one.losses[:steps], rtol=curve, atol=curve)
        # Odd numbers of test rows: a row counted twice to fill the last step would move the metrics.
        if steps == 50:
            close = 1e-5 if limit > 1e-10 else 1e-6  # metrics are float32, some in metres
            assert other.metrics == pytest.approx(one.metrics, rel=close, abs=close)


@pytest.mark.parametrize(("world", "name"), [(world, name) for world, names in QUICK.items() for name in names])
def test_ranks_equal_one(results, world, name):
    one, ranks = results(1, QUICK[world])[0][name], [rank[name] for rank in results(world, QUICK[world])]
    check(one, ranks, 1e-12, 1e-12)
    assert all(distance(one.weights, other.weights) < 1e-12 for other in ranks)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_loss_of_fifty_steps(results, dtype):
    names = ("several",)
    one, ranks = results(1, names, dtype, 50)[0]["several"], results(2, names, dtype, 50)
    assert len(one.losses) == 50
    check(one, [rank["several"] for rank in ranks], LIMITS[dtype, True], 1e-11 if dtype == torch.float64 else 1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", ["losses", "backbones", "tasks", "others"])
def test_everything_on_two_and_four_ranks(results, kind, world, dtype):
    """Every loss, backbone and task of tlkit, with the losses of 50 steps."""
    names = tuple({"losses": LOSSES, "backbones": BACKBONE_CASES, "tasks": TASK_CASES, "others": OTHERS}[kind])
    shallow, exact = kind != "backbones", dtype == torch.float64
    curve = {(True, True): 1e-10, (True, False): 1e-2, (False, True): 1e-8, (False, False): 1e-3}[shallow, exact]
    # A deep network's steps amplify rounding, in float32 beyond comparison after some.
    compared = 50 if shallow or exact else 5
    one, ranks = results(1, names, dtype, 50)[0], results(world, names, dtype, 50)
    failed = []
    for name in names:
        try:
            check(one[name], [rank[name] for rank in ranks], LIMITS[dtype, shallow], curve, compared)
        except AssertionError as error:
            failed.append(f"{name}: {error}")
    assert not failed, "\n".join(failed)


def unsynchronised(world):
    return train(replace(CASES["coral"], backbone=lambda: MLP(batch_norm=True)), world)


def test_ranks_test_with_the_same_running_statistics(tmp_path):
    """In training each rank normalises its own rows; what is tested and saved must not depend on the rank."""
    one, other = on_ranks(2, unsynchronised, 2, folder=tmp_path)
    assert any(name.endswith("running_mean") for name in one.weights)
    assert all((other.weights[name] == value).all() for name, value in one.weights.items())
    assert one.metrics == other.metrics
    # What is stated of batch normalisation without trainer.sync_batchnorm: it is not that of one rank.
    assert distance(unsynchronised(1).gradient, one.gradient) > 1e-3


def test_the_short_domain_is_reshuffled_on_every_pass_and_shared_out(results):
    ranks = [rank["mmd"].target for rank in results(2, QUICK[2])]
    steps = [first + second for first, second in zip(*ranks, strict=True)]
    assert steps == results(1, QUICK[2])[0]["mmd"].target  # together the ranks see what one rank sees
    per_pass = 3  # 72 or so target rows in batches of 24, while the epoch of the source is 5 batches long
    passes = [list(chain(*steps[start : start + per_pass])) for start in (0, per_pass)]
    assert all(len(set(rows)) == per_pass * GLOBAL_BATCH for rows in passes)  # no row twice in a pass, on any rank
    assert passes[0] != passes[1]
    for rank in ranks:
        mine = [set(chain(*rank[start : start + per_pass])) for start in (0, per_pass)]
        assert mine[0] != mine[1]  # also the shard of a rank changes, within the epoch


def gathered_gradient():
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    whole = torch.arange(12.0, dtype=torch.float64).reshape(6, 2).sin()
    share = whole[rank * 3 : rank * 3 + 3].clone().requires_grad_()
    labels = torch.arange(6)[rank * 3 : rank * 3 + 3]
    side = Encoded(share, share * 2, labels, labels * 10, labels + 100)
    target = Encoded(share.detach()[:2], share.detach()[:2], None, labels[:2], labels[:2])
    source, target = gather(side, target)
    (source.features.prod(dim=1).sum() ** 2 + source.outputs.sum()).backward()
    mean = mean_over_ranks({"a": share.detach().half()[0, 0], "b": 1.0 + rank, "c": share.detach()[0, 1]}, share.device)
    dist.destroy_process_group()
    return {
        "mean": {name: float(value) for name, value in mean.items()},
        "grad": (share.grad / world).tolist(),
        "features": source.features.tolist(),
        "rows": (source.y.tolist(), source.domain.tolist(), source.index.tolist()),
        "target": (target.features.tolist(), target.y),
    }


def test_gather_is_in_rank_order_and_its_gradient_is_that_of_the_whole(tmp_path):
    whole = torch.arange(12.0, dtype=torch.float64).reshape(6, 2).sin().requires_grad_()
    (whole.prod(dim=1).sum() ** 2 + 2 * whole.sum()).backward()
    for rank, result in enumerate(on_ranks(2, gathered_gradient, folder=tmp_path)):
        torch.testing.assert_close(torch.tensor(result["features"], dtype=torch.float64), whole.detach())
        expected = whole.grad[rank * 3 : rank * 3 + 3]
        torch.testing.assert_close(torch.tensor(result["grad"], dtype=torch.float64), expected)
        assert result["rows"] == (list(range(6)), list(range(0, 60, 10)), list(range(100, 106)))
        assert result["target"][0] == whole.detach()[[0, 1, 3, 4]].tolist()
        assert result["target"][1] is None
        first = whole.detach()[[0, 3]]  # of each rank
        assert result["mean"] == {
            "a": float(first[:, 0].half().double().mean()),
            "b": 1.5,
            "c": float(first[:, 1].mean()),
        }
