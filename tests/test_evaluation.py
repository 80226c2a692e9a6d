"""What was learned stays as it was learned, whatever data a model is evaluated on or trained on next."""

from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.optim import Adam

from tests.shift import MLP, QUIET, ShiftedBlobs
from tlkit import TransferModule
from tlkit.data import DomainDataModule, HoldOut
from tlkit.data.rows import TensorRows
from tlkit.errors import ConfigurationError
from tlkit.losses import MMD
from tlkit.tasks import Classification, Diagnosis, PlaceRegression


def trainer(**options):
    return L.Trainer(**{**QUIET, "max_steps": 40, **options})


class Places(DomainDataModule):
    """Positions along a line, others in each domain."""

    domains = ["a", "b"]
    quantities = ["x_m"]

    def dataset(self, domain, split):
        count, first = {"a": (4, 0), "b": (7, 100)}[domain]
        y = (torch.arange(70) % count + first).float()[:, None]
        x = torch.randn(70, 8, generator=torch.Generator().manual_seed(first)) + y
        rows = self.split(domain, y.numpy())[split]
        return torch.utils.data.Subset(TensorRows(x, y), rows.tolist())


@pytest.mark.parametrize("batch_norm", ["adabn", "domain_specific"])
def test_a_domain_is_normalised_as_in_its_training_whatever_its_role_in_a_test(batch_norm, tmp_path):
    losses = [MMD()] if batch_norm == "domain_specific" else []
    model = TransferModule(MLP(batch_norm=True), Classification(), losses, batch_norm, partial(Adam, lr=0.02))
    fit = trainer(limit_val_batches=1.0)
    fit.fit(model, ShiftedBlobs(["still"], ["third"]))
    fit.save_checkpoint(tmp_path / "m.ckpt")
    key = "test/{}/accuracy".format
    (_, third) = trainer().test(model, ShiftedBlobs(["still"], ["third"]), verbose=False)
    for roles in ({"sources": ["third"]}, {"sources": ["third"], "targets": ["still"]}):
        data = ShiftedBlobs(**roles)
        assert trainer().test(model, data, verbose=False)[0][key("third")] == third[key("third")]
        again = TransferModule(MLP(batch_norm=True), Classification(), losses, batch_norm)
        (found, *_) = trainer().test(again, data, verbose=False, ckpt_path=str(tmp_path / "m.ckpt"))
        assert found[key("third")] == third[key("third")]
    assert (model.data_spec.sources, model.data_spec.targets) == (("still",), ("third",))  # what a checkpoint will say


def test_the_places_of_a_head_are_those_of_its_training(tmp_path):
    model = TransferModule(MLP(), PlaceRegression())
    fit = trainer(max_steps=3)
    fit.fit(model, Places(["a"]))
    fit.save_checkpoint(tmp_path / "m.ckpt")
    data = Places(["b"])
    data.trained = model.data_spec  # as the command does
    again = TransferModule(MLP(), PlaceRegression())
    trainer().test(again, data, verbose=False, ckpt_path=str(tmp_path / "m.ckpt"))
    assert again.network.task.points.tolist() == [[0], [1], [2], [3]]
    with pytest.raises(
        ConfigurationError, match=r"built for 4 reference points, and .* have others, 7: make a new Tran"
    ):
        trainer(max_steps=6).fit(model, Places(["b"]))
    trainer(max_steps=6).fit(model, Places(["a"]))


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_averaged_weights_have_the_targets_statistics_or_are_refused():
    data = ShiftedBlobs(["still"], ["third"])

    def fitted(steps):
        model = TransferModule(MLP(batch_norm=True), Classification(), [], "adabn", partial(Adam, lr=0.02))
        options = {"limit_val_batches": 1.0, "val_check_interval": 20, "check_val_every_n_epoch": None}
        trainer(max_steps=steps, callbacks=[EMAWeightAveraging(decay=0.9)], **options).fit(model, data)
        return model.network

    network = fitted(40)
    mean = network.backbone.layers[1].target.running_mean
    before = mean.clone()
    network.reestimate([batch.x for batch in data.target_train_loader()])
    torch.testing.assert_close(mean, before)
    with pytest.raises(ConfigurationError, match=r"make trainer.max_steps=55 a multiple of val_check_interval=20"):
        fitted(55)


class FewRed(ShiftedBlobs):
    """With a third of the reds."""

    def rows(self, domain):
        x, y = super().rows(domain)
        kept = ((y > 0) | (torch.arange(len(y)) < len(y) // 3)).nonzero()[:, 0]
        return x[kept], y[kept]


def test_classes_are_weighed_by_the_rows_of_each_training():
    model = TransferModule(MLP(), Classification(class_weights="balanced"))
    trainer(max_steps=2).fit(model, ShiftedBlobs(["still"]))
    trainer(max_steps=4).fit(model, FewRed(["still"]))
    counts = torch.tensor(model.data_spec.class_counts, dtype=torch.float32)
    assert 2 * counts[0] < counts[1]
    torch.testing.assert_close(model.network.task.row_weights, counts.sum() / (3 * counts))


def test_only_a_training_chooses_the_threshold():
    model = TransferModule(MLP(), Diagnosis(["red"]))
    trainer(limit_val_batches=1.0).fit(model, ShiftedBlobs(["still"]))
    chosen = model.network.task.threshold.clone()
    assert chosen != 0
    trainer(limit_val_batches=1.0).validate(model, ShiftedBlobs(["third"]), verbose=False)
    assert model.network.task.threshold == chosen
    untrained = TransferModule(MLP(), Diagnosis(["red"]))
    options = {"num_sanity_val_steps": 2, "limit_val_batches": 1.0, "check_val_every_n_epoch": 50}
    trainer(max_steps=2, **options).fit(untrained, ShiftedBlobs(["still"]))
    assert untrained.network.task.threshold == 0


@pytest.mark.parametrize("value", [0.1234567, -0.1234567, 3.0, -2.718, 0.0])
def test_half_precision_does_not_round_a_threshold_up(value):
    task = Diagnosis(["red"]).bfloat16()
    task.calibrate(torch.tensor(value))
    kept = float(task.threshold)
    assert kept <= value
    assert value - kept <= abs(value) / 128  # the next number below


def test_the_sensitivity_is_met_in_half_precision_on_the_rows_that_the_threshold_is_chosen_by():
    data = ShiftedBlobs(["still"], hold_out=HoldOut(val_fraction=0.4, test_fraction=0.2))
    for seed in range(4):
        torch.manual_seed(seed)
        model = TransferModule(MLP(), Diagnosis(["red"]))
        fit = trainer(max_steps=8, limit_val_batches=1.0, precision="bf16-true")
        fit.fit(model, data)
        assert fit.callback_metrics["val/still/sensitivity"] >= 0.95
