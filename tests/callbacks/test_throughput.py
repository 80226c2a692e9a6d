"""Rates and totals: what is counted, and what is left out."""

import csv
import time

import lightning as L
import pytest
from torch.optim import SGD

from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.callbacks import MetricsFile, Throughput
from tlkit.losses import MMD
from tlkit.schedules import Linear
from tlkit.tasks import Classification

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # Lightning 2.6 on torch 2.15

STEP, VALIDATION = 0.02, 0.3  # seconds


class Slow(L.Callback):
    """Makes steps and validations last, and times the training between its validations itself: machines differ."""

    def __init__(self):
        self.seconds, self.since = 0.0, None

    def on_train_start(self, *_):
        self.since = time.monotonic()

    def on_train_batch_start(self, *_):
        time.sleep(STEP)

    def on_validation_start(self, trainer, *_):
        if not trainer.sanity_checking:
            self.on_train_end()

    def on_validation_epoch_start(self, *_):
        time.sleep(VALIDATION)

    def on_validation_end(self, *_):
        self.on_train_start()

    def on_train_end(self, *_):
        self.seconds += time.monotonic() - self.since


def fit(folder, throughput, adaptation=(), slow=None, **options):
    model = TransferModule(
        MLP(),
        Classification(),
        list(adaptation),
        optimizer=lambda p: SGD(p, lr=0.5),
        lr_schedule=Linear(1.0, 0.0),
        backbone_lr_scale=0.1,
    )
    options = {"max_steps": 10, **options}
    trainer = L.Trainer(
        accelerator="cpu",
        logger=MetricsFile(folder),
        val_check_interval=5,
        check_val_every_n_epoch=None,
        log_every_n_steps=2,
        callbacks=[throughput, slow or Slow()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, datamodule=ShiftedBlobs(["still"], ["moved"], batch_size=8))
    return trainer


def logged(folder, key):
    with open(folder / "metrics.csv", newline="") as file:
        return [(int(row["step"]), float(row[key])) for row in csv.DictReader(file) if row[key]]


def test_validation_is_left_out_and_both_domains_count(tmp_path):
    throughput, slow = Throughput(), Slow()
    fit(tmp_path, throughput, [MMD()], slow)
    summary = throughput.summary
    assert summary["steps"] == 10
    assert 10 * STEP <= summary["seconds"] < slow.seconds + VALIDATION  # of three validations, none is in it
    assert summary["samples_per_second"] == pytest.approx(10 * 16 / summary["seconds"])
    rates = logged(tmp_path, "train/samples_per_second")
    assert [step for step, _ in rates] == [1, 3, 5, 7, 9]
    assert all(0 < rate < 16 / STEP for _, rate in rates)


def test_a_run_that_does_not_adapt_counts_one_domain(tmp_path):
    throughput = Throughput()
    fit(tmp_path, throughput)
    assert throughput.samples_per_second == pytest.approx(10 * 8 / throughput.seconds)


def test_learning_rates_are_logged_by_group(tmp_path):
    fit(tmp_path, Throughput())
    # After n of 10 steps of Linear(1, 0) the factor is 1 - n / 10.
    assert logged(tmp_path, "lr/head") == [(s, pytest.approx(0.5 * (1 - (s + 1) / 10))) for s in (1, 3, 5, 7, 9)]
    assert logged(tmp_path, "lr/backbone") == [(s, pytest.approx(0.05 * (1 - (s + 1) / 10))) for s in (1, 3, 5, 7, 9)]


def test_accumulation_counts_every_batch_and_logs_a_step_once(tmp_path):
    throughput = Throughput()
    fit(tmp_path, throughput, accumulate_grad_batches=2, max_steps=4)
    assert throughput.summary["steps"] == 4
    assert throughput.samples_per_second == pytest.approx(8 * 8 / throughput.seconds)
    assert [step for step, _ in logged(tmp_path, "lr/head")] == [1, 3]


def test_totals_are_carried_on():
    before, after = Throughput(), Throughput()
    before.load_state_dict({"samples": 600, "seconds": 3.0, "steps": 20})
    after.load_state_dict(before.state_dict())
    assert after.summary == {"steps": 20, "seconds": 3.0, "samples_per_second": 200.0}
    assert Throughput().summary == {"steps": 0, "seconds": 0.0, "samples_per_second": 0.0}
