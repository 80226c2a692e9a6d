"""A loss that is not finite: what stops a run, what a gradient scaler may skip, and what is saved."""

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from tests.ranks import on_ranks
from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.callbacks import ModelSelection, StopOnNonFinite
from tlkit.errors import RunError
from tlkit.losses import AdaptationLoss
from tlkit.tasks import Classification

STEPS = 40


class Infinite(AdaptationLoss):
    """Infinite at some steps, on some ranks."""

    def __init__(self, steps, rank=None):
        super().__init__()
        self.steps, self.rank, self.step_number = steps, rank, 0

    def forward(self, source, target):
        self.step_number += 1
        here = self.rank is None or torch.distributed.get_rank() == self.rank
        return source.features.sum() * 0 + (torch.inf if here and self.step_number in self.steps else 0.0)


def fit(folder, steps, rank=None, **options):
    L.seed_everything(0)
    model = TransferModule(MLP(), Classification(), [Infinite(steps, rank)])
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_steps=STEPS, log_every_n_steps=10, logger=False,
        limit_val_batches=0, callbacks=[ModelSelection(every_n_steps=5), StopOnNonFinite()],
        enable_progress_bar=False, enable_model_summary=False, **{"devices": 1, **options},
    )  # fmt: skip
    message = ""
    try:
        trainer.fit(model, datamodule=ShiftedBlobs(["still"], ["moved"], batch_size=8))
    except RunError as error:
        message = str(error)
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return message, last["global_step"], all(value.isfinite().all() for value in last["state_dict"].values())


def test_it_stops_at_the_next_checkpoint_or_logging_step(tmp_path):
    message, step, finite = fit(tmp_path, range(13, 99))
    assert message.startswith("the loss is inf at step 13: train/infinite is not finite (train/task ")
    assert (step, finite) == (10, True)


def scaled():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    return MixedPrecision("16-mixed", "cpu", scaler)


def test_what_a_gradient_scaler_skips_is_no_error(tmp_path):
    assert fit(tmp_path, (7, 8, 22), plugins=[scaled()]) == ("", STEPS, True)


def test_skipping_for_ever_is_one(tmp_path):
    message, step, finite = fit(tmp_path, range(4, 99), plugins=[scaled()])
    assert message.startswith("the loss is inf at step 35: train/infinite")  # the 32nd in a row
    assert (step, finite) == (30, True)


def test_a_run_without_losses_that_are_wrong_is_left_alone(tmp_path):
    assert fit(tmp_path, ()) == ("", STEPS, True)


def on_two(folder):
    from pathlib import Path

    return fit(Path(folder), range(13, 99), rank=1, devices=2, strategy="ddp", use_distributed_sampler=False)


@pytest.mark.slow
@pytest.mark.ddp
def test_all_ranks_stop_where_one_of_them_must(tmp_path):
    (tmp_path / "results").mkdir()
    first, second = on_ranks(2, on_two, str(tmp_path), folder=tmp_path / "results")
    assert first[0].startswith("the loss is not finite at step 13, on another rank")
    assert second[0].startswith("the loss is inf at step 13: train/infinite")
    assert first[1:] == second[1:] == (10, True)
