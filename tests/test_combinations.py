"""What cannot be combined is refused before training, in words; what can gives the numbers of one large batch."""

from itertools import chain

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging

from tests.losses.settings import OF_THE_NETWORK, SETTINGS, batch, encoded, network
from tests.ranks import on_ranks
from tests.scaling import CASES, LOSSES, QUIET, Case, distance, train
from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.combinations import check_run
from tlkit.errors import ConfigurationError
from tlkit.finetuning import Full
from tlkit.losses import CDAN, DANN, DELTA, L2SP, AdaptationLoss
from tlkit.network import Network
from tlkit.schedules import Linear
from tlkit.tasks import Classification, Regression
from tlkit.types import DataSpec, DomainBatch, Encoded, Samples

PARTS, ROWS = 3, 4
ACCUMULATED = Case(
    lambda: [
        DANN(hidden_size=8, weight=Linear(0, 2)),
        CDAN(hidden_size=8),
        DELTA(layers=["layers.0"]),
        L2SP(weight=0.1),
    ]
)


def rows_of(side, part):
    rows = slice(part * ROWS, (part + 1) * ROWS)
    y = None if side.y is None else side.y[rows]
    if isinstance(side, Samples):
        return Samples(side.x[rows], y, side.domain[rows], side.index[rows])
    return Encoded(side.features[rows], side.outputs[rows], y, side.domain[rows], side.index[rows])


def loss_value(result):
    return result["loss"] if isinstance(result, dict) else result


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_loss_is_the_mean_over_parts_of_a_batch_if_and_only_if_it_says_so(setting):
    draw = torch.Generator().manual_seed(3)
    # Parts differ, as small batches do: with a few rows of each class in some and none in others.
    sides = [
        encoded(
            torch.randn(PARTS * ROWS, 5, generator=draw, dtype=torch.float64) + shift,
            torch.randn(PARTS * ROWS, 3, generator=draw, dtype=torch.float64),
        )
        for shift in (0.0, 0.7)
    ]
    loss = setting.make().double()
    whole = loss_value(loss(*sides))
    parts = torch.stack([loss_value(loss(*(rows_of(side, part) for side in sides))) for part in range(PARTS)]).mean()
    gap = float(((whole - parts).abs() / whole.abs()).detach())
    assert (gap < 1e-12) == loss.accumulates, f"{gap}"


@pytest.mark.parametrize("setting", OF_THE_NETWORK, ids=str)
def test_a_loss_of_the_network_is_the_mean_over_parts_of_a_batch(setting):
    double = network(torch.float64)
    loss = setting.make(double).double()
    with torch.no_grad():
        for parameter in double.parameters():
            parameter.add_(0.1)
    rows = batch(PARTS * ROWS, torch.float64)
    whole = loss.step(double, rows, None, None)
    parts = [
        loss.step(double, DomainBatch(rows_of(rows.source, part), None), None, None).detach() for part in range(PARTS)
    ]
    assert loss.accumulates
    torch.testing.assert_close(torch.stack(parts).mean(), whole.detach(), rtol=1e-12, atol=0)


def accumulated(world, batches):
    # 40 steps go twice over the data: a pass holds whole steps, so the same rows are left out.
    return train(ACCUMULATED, world, steps=40, accumulate_grad_batches=batches, log_every_n_steps=50)


@pytest.fixture(scope="module")
def large_batches():
    return accumulated(1, 1)


@pytest.mark.parametrize("batches", [2, 3])
def test_accumulated_batches_are_one_large_batch(large_batches, batches):
    small = accumulated(1, batches)
    assert distance(large_batches.gradient, small.gradient) < 1e-12
    assert distance(large_batches.weights, small.weights) < 1e-12
    together = [list(chain(*small.target[step * batches : (step + 1) * batches])) for step in range(40)]
    assert together == large_batches.target
    assert small.metrics == large_batches.metrics


@pytest.mark.ddp
def test_accumulated_batches_of_two_ranks_are_one_large_batch(large_batches, tmp_path):
    for result in on_ranks(2, accumulated, 2, 2, folder=tmp_path):
        assert distance(large_batches.gradient, result.gradient) < 1e-12
        assert distance(large_batches.weights, result.weights) < 1e-12


def fit(losses=(), backbone=None, **options):
    module = TransferModule(backbone or MLP(), Classification(), list(losses))
    trainer = L.Trainer(**{**QUIET, "max_steps": 2, **options})
    trainer.fit(module, ShiftedBlobs(["still"], ["moved"], batch_size=8))
    return trainer


@pytest.mark.parametrize(
    "name", [name for name in LOSSES if not all(loss.accumulates for loss in LOSSES[name].losses())]
)
def test_accumulating_an_alignment_loss_is_refused(name):
    losses = CASES[name].losses()
    named = [type(loss).__name__ for loss in losses if not loss.accumulates]
    with pytest.raises(ConfigurationError, match=rf"accumulate_grad_batches=4.*{', '.join(named)} of small batches"):
        train(CASES[name], 1, accumulate_grad_batches=4)


def test_a_loss_of_ones_own_is_refused_until_it_says_that_it_accumulates():
    class Nearness(AdaptationLoss):
        def forward(self, source, target):
            return source.features.square().mean() + target.features.square().mean()

    with pytest.raises(ConfigurationError, match="Nearness of small batches is another loss than of a large one"):
        fit([Nearness()], accumulate_grad_batches=2)
    Nearness.accumulates = True
    assert fit([Nearness()], accumulate_grad_batches=2).global_step == 2


@pytest.mark.parametrize("limit", [3, 1, 0.5])
def test_an_epoch_that_would_end_in_the_middle_of_a_step_is_refused(limit):
    with pytest.raises(ConfigurationError, match=rf"limit_train_batches={limit} would end .* multiple of 2"):
        fit(accumulate_grad_batches=2, limit_train_batches=limit)
    assert fit(accumulate_grad_batches=2, limit_train_batches=4).num_training_batches == 4


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_precision_that_rounds_measured_labels_is_refused(precision):
    rounding = L.Trainer(**{**QUIET, "precision": precision, "max_steps": 1})
    data = DataSpec(("a",), ("a",), (), quantities=("x_m",))
    with pytest.raises(ConfigurationError, match=rf"precision: {precision} rounds the labels"):
        check_run(rounding, Network(MLP(), Regression()), [], Full(), data)


def test_an_average_that_would_miss_the_head_is_refused():
    average = StochasticWeightAveraging(swa_lrs=0.1)
    with pytest.raises(ConfigurationError, match="would average the backbone alone: take lightning's EMA"):
        fit(backbone=MLP(), callbacks=[average], max_epochs=2, max_steps=-1)


def test_an_epoch_holds_whole_steps():
    trainer = fit(accumulate_grad_batches=4)
    assert trainer.num_training_batches % 4 == 0
    assert trainer.num_training_batches > 4


def test_a_schedule_of_accumulation_is_refused():
    with pytest.raises(ConfigurationError, match=r"GradientAccumulationScheduler .* to one number"):
        fit(callbacks=[GradientAccumulationScheduler({0: 1, 1: 2})])


def test_batch_norm_under_accumulation_is_said(caplog):
    fit(backbone=MLP(batch_norm=True), accumulate_grad_batches=2)
    assert "batch normalisation takes its statistics from each of the 2 batches of a step" in caplog.text
    caplog.clear()
    fit(accumulate_grad_batches=2)
    assert "batch normalisation" not in caplog.text


@pytest.mark.gpu
def test_a_strategy_that_cannot_shard_the_model_is_refused():
    with pytest.raises(ConfigurationError, match=r"FSDPStrategy does not know which parts .* fsdp2, or ddp"):
        fit(strategy="fsdp", accelerator="gpu")
