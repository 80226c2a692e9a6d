"""N ranks of batch b give the gradient of one rank of batch N*b. Real processes, a real Trainer, gloo."""

import lightning as L
import pytest
import torch
import torch.distributed as dist
from torch.optim import SGD

from tests.ranks import on_ranks
from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.distributed import gather
from tlkit.losses import CORAL, DANN, MMD
from tlkit.schedules import Linear
from tlkit.tasks import Classification
from tlkit.types import Encoded

pytestmark = pytest.mark.ddp
GLOBAL_BATCH = 24
LOSSES = {
    "mmd": lambda: MMD(weight=2.0),
    "coral": lambda: CORAL(weight=Linear(0, 5)),
    "dann": lambda: DANN(),
}


def train(world, loss, steps, limit_val_batches=0):
    """Return weights after some steps of plain SGD: the sum of the gradients, up to the learning rate."""
    L.seed_everything(7)
    model = TransferModule(MLP().double(), Classification(), [LOSSES[loss]()], optimizer=lambda p: SGD(p, lr=0.05))
    data = ShiftedBlobs(["still"], ["moved"], batch_size=GLOBAL_BATCH // world, dtype=torch.float64)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_steps=steps,
        precision="64-true",
        limit_val_batches=limit_val_batches,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    tested = trainer.test(model, data, verbose=False)
    metrics = {name: value for part in tested for name, value in part.items()}
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}, metrics


def train_all(world, steps):
    return {loss: train(world, loss, steps) for loss in LOSSES}


def test_two_ranks_equal_one(tmp_path):
    one = train_all(1, steps=8)
    two = on_ranks(2, train_all, 2, 8, folder=tmp_path)
    for loss, (weights, metrics) in one.items():
        for rank in (0, 1):
            other, other_metrics = two[rank][loss]
            assert other.keys() == weights.keys()
            worst = max(abs(other[name] - weights[name]).max() for name in weights)
            assert worst < 1e-12, f"{loss}, rank {rank}: weights differ by {worst}"
            # 19 of the test rows do not divide by two: a padded duplicate would move the accuracy.
            assert other_metrics == pytest.approx(metrics, abs=1e-7)


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
        assert result["target"][0] == whole.detach()[[0, 1, 3, 4]].tolist() and result["target"][1] is None
