"""The random generators in checkpoints: what is drawn after a resume is what would have been drawn."""

import random
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from tests.ranks import on_ranks
from tests.shift import ShiftedBlobs
from tlkit import TransferModule
from tlkit.callbacks import ModelSelection
from tlkit.random_state import random_states, restore_random_state
from tlkit.tasks import Classification


class Drawing(nn.Module):
    """A backbone that draws from all three generators when it is trained."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.layer, self.dropout = nn.Linear(8, 4), nn.Dropout(0.5)

    def forward(self, x):
        x = self.layer(x)
        return self.dropout(x) * (1 + random.random() + np.random.rand()) if self.training else x  # noqa: NPY002


def draws():
    return random.random(), np.random.rand(), np.random.randn(), torch.rand(3).tolist()  # noqa: NPY002


def test_states_are_plain_and_bring_the_same_draws_back(tmp_path):
    draws()
    torch.save(random_states([]), tmp_path / "states")
    expected = draws()
    states = torch.load(tmp_path / "states", weights_only=True)
    restore_random_state(states, 0)
    assert draws() == expected
    after = draws()
    restore_random_state(states, 0)  # once only
    assert draws() != after


def test_states_that_wait_are_saved_as_they_are():
    waiting = random_states([])
    draws()
    assert random_states(waiting)[0]["python"] == waiting[0]["python"]


def test_a_rank_that_there_was_not_keeps_its_own():
    states = random_states([])
    own = torch.get_rng_state()
    restore_random_state(states, 1)
    assert torch.equal(torch.get_rng_state(), own)
    assert not states  # a rank that still had some would not take part in the exchange of the next checkpoint


def fit(folder, steps, resume=None, **options):
    L.seed_everything(3)
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_steps=steps, logger=False, limit_val_batches=0,
        callbacks=[ModelSelection()], enable_progress_bar=False, enable_model_summary=False,
        **{"devices": 1, **options},
    )  # fmt: skip
    if trainer.world_size > 1:
        torch.manual_seed(trainer.global_rank)  # another mask a rank
    trainer.fit(
        TransferModule(Drawing(), Classification()), datamodule=ShiftedBlobs(["still"], batch_size=8),
        ckpt_path=resume, weights_only=True,
    )  # fmt: skip
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def resumed_equals_whole(folder, **options):
    whole = fit(folder / "whole", 12, **options)
    fit(folder / "parted", 5, **options)
    parted = fit(folder / "parted", 12, folder / "parted" / "checkpoints" / "last.ckpt", **options)
    return all(torch.equal(parted[key], value) for key, value in whole.items())


def test_a_resumed_training_draws_on(tmp_path):
    assert resumed_equals_whole(tmp_path)


def on_two(folder):
    return resumed_equals_whole(Path(folder), devices=2, strategy="ddp", use_distributed_sampler=False)


def more_ranks(folder):
    folder = Path(folder)
    options = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    weights = fit(folder, 8, folder / "checkpoints" / "last.ckpt", **options)
    return all(bool(torch.isfinite(value).all()) for value in weights.values())


@pytest.mark.ddp
def test_a_run_goes_on_with_more_ranks_than_wrote_its_checkpoint(tmp_path):
    fit(tmp_path, 4)
    (tmp_path / "results").mkdir()
    assert on_ranks(2, more_ranks, str(tmp_path), folder=tmp_path / "results") == [True, True]


@pytest.mark.slow  # tests/test_stress_resume.py has the quick form
@pytest.mark.ddp
def test_every_rank_draws_on_from_its_own_state(tmp_path):
    (tmp_path / "results").mkdir()
    assert on_ranks(2, on_two, str(tmp_path), folder=tmp_path / "results") == [True, True]
