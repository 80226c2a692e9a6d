"""Ctrl-C: real signals, and a resumed run that ends exactly where the uninterrupted one does."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.optim import Adam

from tests.ranks import on_ranks
from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.callbacks import MetricsFile, ModelSelection, StopCleanly, Throughput
from tlkit.losses import DANN, MMD
from tlkit.schedules import Linear
from tlkit.tasks import Classification

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # Lightning 2.6 on torch 2.15

STEPS, VALIDATE_EVERY = 24, 8
RATES = ("train/samples_per_second",)


class Signal(L.Callback):
    """Send this process a real signal at a chosen place."""

    def __init__(self, place, step, signum=signal.SIGINT, times=1):
        self.place, self.step, self.signum, self.times = place, step, signum, times

    def _at(self, place, step):
        if (place, step) == (self.place, self.step):
            for _ in range(self.times):
                os.kill(os.getpid(), self.signum)
            self.place = None

    def on_train_batch_start(self, trainer, *_):
        self._at("step", trainer.global_step + 1)

    def on_validation_batch_start(self, trainer, *_):
        self._at("validation", trainer.global_step)


def fit(folder, *callbacks, ckpt_path=None, workers=0, loss=MMD, **options):
    """Train a run of 24 steps with a validation every 8, on one process unless told otherwise."""
    L.seed_everything(1)
    model = TransferModule(
        MLP(),
        Classification(),
        [loss(weight=Linear(0, 2))],
        optimizer=lambda p: Adam(p, 0.01),
        lr_schedule=Linear(1.0, 0.1),
    )
    stop = StopCleanly()
    options = {"max_steps": STEPS, "devices": 1, "val_check_interval": VALIDATE_EVERY, **options}
    trainer = L.Trainer(
        accelerator="cpu",
        logger=MetricsFile(folder),
        check_val_every_n_epoch=None,
        log_every_n_steps=4,
        callbacks=[ModelSelection(), Throughput(), stop, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    data = ShiftedBlobs(["still"], ["moved"], batch_size=16 // trainer.world_size, num_workers=workers)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    except SIGTERMException as error:
        return stop, error.code
    return stop, 0


def weights(folder, name="last"):
    return torch.load(Path(folder) / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows(folder):
    with open(Path(folder) / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in RATES} for row in csv.DictReader(file)]


def same(folder, reference):
    for name in ("best", "last"):
        ours, theirs = weights(folder, name), weights(reference, name)
        assert ours["global_step"] == theirs["global_step"]
        assert ours["callbacks"]["ModelSelection"] == theirs["callbacks"]["ModelSelection"]
        for key, value in theirs["state_dict"].items():
            assert torch.equal(ours["state_dict"][key], value), key
    assert rows(folder) == rows(reference)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert fit(folder)[1] == 0
    return folder


@pytest.mark.parametrize(
    ("place", "step", "saved"),
    [
        ("step", 1, 1),
        ("step", 9, 9),  # epochs have 6 or 7 batches: some of these are at the end of one
        ("step", 11, 11),
        ("step", 12, 12),  # a logging step
        ("step", 14, 14),
        ("step", 16, 16),  # a validation follows
        ("validation", 16, 16),
        ("step", 23, 23),
        ("step", 24, 24),  # the last
    ],
)
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(tmp_path, uninterrupted, place, step, saved):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop, code = fit(tmp_path, Signal(place, step))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert (stop.interrupted, code) == (True, 130)
    assert stop.checkpoint == str(tmp_path / "checkpoints" / "last.ckpt")
    assert weights(tmp_path)["global_step"] == saved
    stop, code = fit(tmp_path, ckpt_path=stop.checkpoint)
    assert (stop.interrupted, stop.checkpoint, code) == (False, None, 0)
    same(tmp_path, uninterrupted)


def test_every_step_can_be_interrupted(tmp_path, uninterrupted):
    checkpoint = None
    for step in range(1, STEPS):
        stop, _ = fit(tmp_path, Signal("step", step), ckpt_path=checkpoint)
        checkpoint = stop.checkpoint
        assert weights(tmp_path)["global_step"] == step
    assert fit(tmp_path, ckpt_path=checkpoint)[1] == 0
    same(tmp_path, uninterrupted)


def test_sigterm_stops_cleanly_too(tmp_path, uninterrupted):
    stop, code = fit(tmp_path, Signal("step", 10, signal.SIGTERM))
    assert code == 143
    fit(tmp_path, ckpt_path=stop.checkpoint)
    same(tmp_path, uninterrupted)


def test_a_signal_that_a_launcher_delivers_twice_is_one(tmp_path):
    _, code = fit(tmp_path, Signal("step", 10, times=2))
    assert code == 130
    assert weights(tmp_path)["global_step"] == 10


def test_accumulated_gradients_are_used_first(tmp_path):
    fit(tmp_path / "whole", loss=DANN, accumulate_grad_batches=3, max_steps=8)
    parted = tmp_path / "parted"
    stop, _ = fit(parted, Signal("step", 4), loss=DANN, accumulate_grad_batches=3, max_steps=8)
    assert weights(parted)["global_step"] == 4
    fit(parted, ckpt_path=stop.checkpoint, loss=DANN, accumulate_grad_batches=3, max_steps=8)
    for key, value in weights(tmp_path / "whole")["state_dict"].items():
        assert torch.equal(weights(parted)["state_dict"][key], value), key


def test_a_validation_between_gradients_is_no_place_to_go_on_from(tmp_path):
    """It comes after batches 3, 6, 9 ..., a step after 2, 4, 6 ...: last.ckpt waits for the step."""
    options = {"loss": DANN, "accumulate_grad_batches": 2, "max_steps": 8, "val_check_interval": 3}
    fit(tmp_path / "whole", **options)
    for step in range(1, 8):
        folder = tmp_path / str(step)
        with pytest.raises(Killed):
            fit(folder, Die(step), **options)
        last = folder / "checkpoints" / "last.ckpt"
        assert last.exists() == (step > 1)
        fit(folder, ckpt_path=last if last.exists() else None, **options)
        for key, value in weights(tmp_path / "whole")["state_dict"].items():
            assert torch.equal(weights(folder)["state_dict"][key], value), (step, key)


def test_it_saves_by_itself_without_model_selection(tmp_path):
    stop = StopCleanly()
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=8,
        logger=False,
        enable_checkpointing=False,
        callbacks=[stop, Signal("step", 3)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(SystemExit):
        trainer.fit(TransferModule(MLP(), Classification()), datamodule=ShiftedBlobs(["still"]))
    assert stop.checkpoint == str(tmp_path / "checkpoints" / "last.ckpt")
    assert weights(tmp_path)["global_step"] == 3


class Slow(L.Callback):
    """Say when a step begins, and take a while."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step >= 5:
            print("step", trainer.global_step + 1, flush=True)
            until = time.monotonic() + 0.4
            while time.monotonic() < until:  # a signal ends a sleep, not this
                time.sleep(0.01)


PROGRAM = """
import sys
from tests.callbacks.test_interrupt import Slow, fit
sys.exit(fit(sys.argv[1], Slow(), workers=1)[1])
"""


def start(folder):
    # A process group of its own, as a terminal gives it: Ctrl-C reaches the loaders' workers as well.
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert any(line.startswith("step 6") for line in process.stdout)
    return process


def test_ctrl_c_in_a_process_with_workers(tmp_path, uninterrupted):
    process = start(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Press Ctrl-C again to stop at once" in errors
    assert "Traceback" not in errors
    assert weights(tmp_path)["global_step"] in (6, 7)
    fit(tmp_path, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    same(tmp_path, uninterrupted)


class Stuck(L.Callback):
    """A step that does not end by itself."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGINT)
            until = time.monotonic() + 30
            time.sleep(1.1)
            os.kill(os.getpid(), signal.SIGINT)
            while time.monotonic() < until:
                time.sleep(0.01)


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    began = time.monotonic()
    with pytest.raises(SystemExit):  # what Lightning makes of KeyboardInterrupt
        fit(tmp_path, Stuck())
    assert time.monotonic() - began < 20
    assert signal.getsignal(signal.SIGINT) == before
    assert not (tmp_path / "checkpoints").exists()


# Where rank 1 gets the signal, and the step that is saved: the one after, but for what waits for the others anyway.
ON_TWO = [
    ("step", 1, 2),
    ("step", 10, 11),
    ("step", 15, 16),  # a validation follows the step after
    ("step", 16, 16),  # a validation follows
    ("validation", 16, 16),
    ("step", 23, 24),  # the step after is the last
    ("step", 24, 24),  # the last
]


def on_two(root):
    """Train on two ranks, each with a folder of its own in mind: uninterrupted, interrupted on rank 1, and resumed."""
    rank = os.environ["RANK"]
    two = {"devices": 2, "strategy": "ddp"}
    fit(Path(root) / "whole" / rank, **two)
    found = []
    for place, step, _ in ON_TWO:
        folder = Path(root) / f"{place}-{step}" / rank
        stopped, code = fit(folder, *([Signal(place, step)] if rank == "1" else []), **two)
        saved = weights(Path(stopped.checkpoint).parent.parent)["global_step"]
        torch.distributed.barrier()
        resumed, last_code = fit(folder, ckpt_path=stopped.checkpoint, **two)
        found.append((stopped.interrupted, saved, code, resumed.interrupted, last_code))
    return found


@pytest.mark.ddp
def test_ranks_agree_on_the_step_and_on_the_folder(tmp_path):
    (tmp_path / "results").mkdir()
    first, second = on_ranks(2, on_two, str(tmp_path), folder=tmp_path / "results")
    # Rank 0 was told by rank 1, not by a signal of a known number.
    assert first == [(True, saved, 143, False, 0) for _, _, saved in ON_TWO]
    assert second == [(True, saved, 130, False, 0) for _, _, saved in ON_TWO]
    for place, step, _ in ON_TWO:
        same(tmp_path / f"{place}-{step}" / "0", tmp_path / "whole" / "0")
    names = sorted(str(each.relative_to(tmp_path)) for each in tmp_path.glob("*/*"))
    assert names == sorted(
        [*(f"{place}-{step}/0" for place, step, _ in ON_TWO), "results/0.pkl", "results/1.pkl", "whole/0"]
    )


def test_lightning_makes_no_rank_wait_for_another_in_every_step():
    """What is taken out of it is still there under its name, or a step on many ranks waits for rank 0 again."""
    assert callable(L.pytorch.loops.training_epoch_loop._TrainingEpochLoop._broadcast_sigterm_tensor)


class Terminated(L.Callback):
    """SIGTERM while Lightning still has it, before the first step."""

    def on_sanity_check_end(self, trainer, *_):
        os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_before_the_first_step_ends_after_it(tmp_path, uninterrupted):
    stop, code = fit(tmp_path, Terminated())
    assert (stop.interrupted, code) == (True, 143)
    assert weights(tmp_path)["global_step"] == 1
    fit(tmp_path, ckpt_path=stop.checkpoint)
    same(tmp_path, uninterrupted)


class Killed(BaseException):
    """The process ends here."""


class Die(L.Callback):
    """Die when so many steps have been made, without a word and without a checkpoint."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise Killed


@pytest.mark.parametrize(
    ("options", "an_epoch", "steps"),
    [
        ({}, 7, 24),
        ({"max_steps": -1, "max_epochs": 3}, 7, 21),
        ({"accumulate_grad_batches": 2, "loss": DANN, "max_steps": 9}, 3, 9),
    ],
    ids=["steps", "epochs", "accumulated"],
)
def test_a_run_that_never_validates_goes_on_at_the_end_of_an_epoch(tmp_path, monkeypatch, options, an_epoch, steps):
    """Lightning takes a step too many in an epoch, or in all, from a checkpoint of after the epoch's end."""
    monkeypatch.setattr("tlkit.callbacks.selection._REST_SECONDS", 0.0)
    options = {"limit_val_batches": 0, **options}
    fit(tmp_path / "whole", **options)
    assert weights(tmp_path / "whole")["global_step"] == steps
    for step in (an_epoch, an_epoch + 1, 2 * an_epoch):
        folder = tmp_path / str(step)
        with pytest.raises(Killed):
            fit(folder, Die(step), **options)
        last = folder / "checkpoints" / "last.ckpt"
        assert weights(folder)["global_step"] == step // an_epoch * an_epoch
        fit(folder, ckpt_path=last, **options)
        same(folder, tmp_path / "whole")


def test_short_epochs_without_validation_are_not_all_saved(tmp_path):
    """The first of a run is, and then one a minute: to write a large network may take longer than an epoch of it."""
    with pytest.raises(Killed):
        fit(tmp_path, Die(22), limit_val_batches=0)
    assert weights(tmp_path)["global_step"] == 7


class DieBeforeTheRow(L.Callback):
    """Save in the middle of a run, and die before the row of that step is in metrics.csv."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 12:
            next(each for each in trainer.callbacks if isinstance(each, ModelSelection)).replace_last(trainer)

            def die(*_, **__):
                raise Killed

            trainer.logger.log_metrics = die


def test_the_row_of_a_checkpoint_is_not_lost_with_the_process(tmp_path, uninterrupted):
    with pytest.raises(Killed):
        fit(tmp_path, DieBeforeTheRow())
    assert [row["step"] for row in rows(tmp_path)] == ["3", "7", "7"]
    assert weights(tmp_path)["global_step"] == 12
    fit(tmp_path, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    same(tmp_path, uninterrupted)


def test_a_run_that_is_trained_already_is_put_in_order_too(tmp_path, uninterrupted):
    """Killed while it was tested: rows of the test are dropped, and nothing is trained."""
    fit(tmp_path)
    MetricsFile(tmp_path).log_metrics({"epoch": 0, "test/moved/accuracy": 1.0}, step=STEPS)
    fit(tmp_path, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert rows(tmp_path)[-1]["step"] != str(STEPS)
    assert [row["step"] for row in rows(tmp_path)] == [row["step"] for row in rows(uninterrupted)]
