"""N ranks of batch b give the gradient of one rank of batch N*b. Real processes, a real Trainer, gloo."""

from itertools import chain

import lightning as L
import pytest
import torch
import torch.distributed as dist
from torch.optim import SGD

from tests.ranks import on_ranks
from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.distributed import gather
from tlkit.losses import BNM, BSS, CDAN, CORAL, DANN, DELTA, L2SP, MCC, MMD, HashEntropy, HashPairwise
from tlkit.schedules import Linear
from tlkit.tasks import Classification, Diagnosis, Hashing
from tlkit.types import Encoded

pytestmark = pytest.mark.ddp
GLOBAL_BATCH, STEPS = 24, 8
LOSSES = {
    "mmd": lambda: MMD(weight=2.0),
    "coral": lambda: CORAL(weight=Linear(0, 5)),
    "dann": lambda: DANN(weight=Linear(0, 2)),  # at weight 0 its parameters must not count as unused
    "cdan": lambda: CDAN(entropy=True),
    "mcc": MCC,
    "bnm": BNM,
    "bss": lambda: BSS(k=2),
    "l2_sp": lambda: L2SP(beta=0.1),
    "delta": lambda: DELTA(layers=["layers.0", "layers.3"]),
    "hash_entropy": HashEntropy,
    "hash_pairwise": lambda: HashPairwise(weight=Linear(0, 2)),
}
TASKS = {
    "mcc": lambda: Diagnosis(["red", "blue"], class_weights="balanced"),
    "hash_entropy": lambda: Hashing(bits=8),
    "hash_pairwise": lambda: Hashing(bits=8, k=10),
}


class Watch(L.Callback):
    """Remembers which target rows this rank was given at each step."""

    def __init__(self):
        self.target = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch.target is not None:  # a loss of the source alone
            assert batch.target.y is None
            self.target.append(batch.target.index.tolist())


def train(world, loss, batch_norm=False):
    """Return weights after some steps of plain SGD (the sum of the gradients), test metrics, and the target rows."""
    L.seed_everything(7)
    model = TransferModule(
        MLP(batch_norm).double(),
        TASKS.get(loss, Classification)(),
        [LOSSES[loss]()],
        optimizer=lambda p: SGD(p, lr=0.05),
    )
    data = ShiftedBlobs(["still"], ["moved"], batch_size=GLOBAL_BATCH // world, dtype=torch.float64)
    watch = Watch()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_steps=STEPS,
        precision="64-true",
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    trainer.fit(model, data)
    tested = trainer.test(model, data, verbose=False)
    metrics = {name: value for part in tested for name, value in part.items()}
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}, metrics, watch.target


def train_all(world):
    return {loss: train(world, loss) for loss in LOSSES} | {"batch_norm": train(world, "coral", batch_norm=True)}


@pytest.fixture(scope="module")
def one():
    return train_all(1)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return on_ranks(2, train_all, 2, folder=tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("loss", LOSSES)
def test_two_ranks_equal_one(one, two, loss):
    weights, metrics, _ = one[loss]
    for rank in (0, 1):
        other, other_metrics, _ = two[rank][loss]
        assert other.keys() == weights.keys()
        worst = max(abs(other[name] - weights[name]).max() for name in weights)
        assert worst < 1e-12, f"rank {rank}: weights differ by {worst}"
        # An odd number of test rows: a row counted twice to fill the last step would move the accuracy.
        assert other_metrics == pytest.approx(metrics, abs=1e-7)


def test_ranks_test_with_the_same_running_statistics(two):
    """In training each rank normalises its own rows; what is tested and saved must not depend on the rank."""
    (weights, metrics, _), (other_weights, other_metrics, _) = (ranks["batch_norm"] for ranks in two)
    assert any(name.endswith("running_mean") for name in weights)
    assert all((weights[name] == other_weights[name]).all() for name in weights)
    assert metrics == other_metrics


def test_the_short_domain_is_reshuffled_on_every_pass_and_shared_out(one, two):
    steps = [first + second for first, second in zip(*(two[rank]["mmd"][2] for rank in (0, 1)), strict=True)]
    assert steps == one["mmd"][2]  # together the ranks see what one rank sees
    per_pass = 3  # 72 or so target rows in batches of 24, while the epoch of the source is 5 batches long
    passes = [list(chain(*steps[start : start + per_pass])) for start in (0, per_pass)]
    assert all(len(set(rows)) == per_pass * GLOBAL_BATCH for rows in passes)  # no row twice in a pass, on any rank
    assert passes[0] != passes[1]
    for rank in (0, 1):
        mine = [set(chain(*two[rank]["mmd"][2][start : start + per_pass])) for start in (0, per_pass)]
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
    dist.destroy_process_group()
    return {
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
