import copy

import lightning as L
import pytest
import torch
from torch.optim import SGD

from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.callbacks import ModelSelection
from tlkit.errors import BackboneError, CheckpointError, ConfigurationError, DataError
from tlkit.finetuning import GradualUnfreezing, LinearProbe
from tlkit.losses import BSS, CORAL, DANN, L2SP, MMD, AdaptationLoss
from tlkit.schedules import Linear
from tlkit.tasks import Classification
from tlkit.types import DataSpec, DomainBatch


def trainer(**kwargs):
    options = {
        "accelerator": "cpu",
        "max_steps": 6,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 2,
    }
    return L.Trainer(**options | kwargs)


def data(**kwargs):
    return ShiftedBlobs(**{"sources": ["still"], "targets": ["moved"]} | kwargs)


class Spy(AdaptationLoss):
    """Remembers what it was given; its loss pulls target features towards zero."""

    def __init__(self, weight=1.0):
        super().__init__(weight)
        self.seen = []

    def step(self, network, batch, source, target):
        self.seen.append((self.progress, batch, source, target, torch.is_autocast_enabled("cpu")))
        return {"loss": target.features.pow(2).mean(), "norm": target.features.detach().norm()}


def test_total_is_task_plus_weighted_losses():
    model, spy = None, Spy(weight=3.0)
    torch.manual_seed(0)
    model = TransferModule(MLP(), Classification(), [spy], optimizer=lambda p: SGD(p, lr=0.0))
    run = trainer(max_steps=2)
    run.fit(model, data())
    _, batch, *_ = spy.seen[-1]
    source, target = model.network.encode(batch)
    task = model.network.task.loss(source.outputs, source.y)
    logged = run.callback_metrics
    assert logged["train/task"].item() == pytest.approx(task.item(), rel=1e-5)
    assert logged["train/spy"].item() == pytest.approx(target.features.pow(2).mean().item(), rel=1e-5)
    assert logged["train/loss"].item() == pytest.approx(task.item() + 3 * logged["train/spy"].item(), rel=1e-5)
    assert logged["train/spy/weight"] == 3
    assert logged["train/spy/norm"] > 0
    assert logged["train/accuracy"].item() == pytest.approx(
        (source.outputs.argmax(1) == source.y).float().mean().item()
    )


def test_the_gradient_of_a_loss_reaches_the_backbone_with_its_weight():
    """Others shipped an MMD under torch.no_grad(): its value was logged, and nothing adapted."""
    for loss in (MMD(weight=3.0), CORAL(weight=3.0)):
        torch.manual_seed(0)
        spy = Spy(weight=0.0)
        model = TransferModule(MLP(), Classification(), [loss, spy], optimizer=lambda p: SGD(p, lr=0.0))
        trainer(max_steps=2).fit(model, data())
        got = [parameter.grad.clone() for parameter in model.network.backbone.parameters()]
        source, target = model.network.encode(spy.seen[-1][1])
        total = model.network.task.loss(source.outputs, source.y) + 3 * loss(source, target)
        expected = torch.autograd.grad(total, list(model.network.backbone.parameters()), retain_graph=True)
        torch.testing.assert_close(got, list(expected))
        alone = torch.autograd.grad(loss(source, target), next(model.network.backbone.parameters()))
        assert alone[0].norm() > 1e-4


def test_a_compiled_backbone_keeps_the_names_of_its_weights(tmp_path):
    model = TransferModule(MLP(), Classification(), [MMD()])
    names = list(model.state_dict())
    model.network.backbone.compile(backend="eager")
    run = trainer(max_steps=2)
    run.fit(model, data())
    assert [name for name in model.state_dict() if name in names] == names
    run.save_checkpoint(tmp_path / "run.ckpt")
    plain = TransferModule(MLP(), Classification(), [MMD()])
    trainer().test(plain, data(), ckpt_path=tmp_path / "run.ckpt", weights_only=True, verbose=False)


def test_target_labels_are_absent_from_every_training_step():
    spy = Spy()
    trainer(max_epochs=2, max_steps=-1).fit(TransferModule(MLP(), Classification(), [spy]), data())
    assert len(spy.seen) >= 12
    for _, batch, source, target, _ in spy.seen:
        assert isinstance(batch, DomainBatch)
        assert batch.target.y is None
        assert target.y is None
        assert source.y is not None
        assert set(source.domain.tolist()) == {0}
        assert set(target.domain.tolist()) == {1}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_inputs_in_float64_are_trained_on_where_the_precision_converts_them(precision):
    run, model = trainer(precision=precision), TransferModule(MLP(), Classification(), [MMD()])
    if precision in ("bf16-true", "64-true"):
        run.fit(model, data(dtype=torch.float64))
        return
    with pytest.raises(BackboneError, match=r"MLP and the head take float32, and x is \(2, 8\) \(float64\)"):
        run.fit(model, data(dtype=torch.float64))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda source, target: target.features.mean(dim=1), r"got a tensor of shape \(16,\): reduce it"),
        (lambda source, target: {"loss": target.features.mean(dim=0, keepdim=True)}, r"got a tensor of shape \(1, 6\)"),
        (lambda source, target: target.features.mean().item(), "got a float: compute it .* with torch"),
        (lambda source, target: {"distance": target.features.mean()}, "got a dict without 'loss'"),
        (lambda source, target: None, "got a NoneType"),
    ],
)
def test_a_loss_that_returns_no_scalar_is_named(returned, message):
    class Mine(AdaptationLoss):
        def forward(self, source, target):
            return returned(source, target)

    with pytest.raises(
        ConfigurationError, match=rf"the adaptation loss Mine must return a tensor of shape \(\).*{message}"
    ):
        trainer().fit(TransferModule(MLP(), Classification(), [Mine()]), data())


def test_weights_follow_the_trainers_progress_and_survive_a_resume(tmp_path):
    def spied(steps, **kwargs):
        torch.manual_seed(0)
        spy = Spy(weight=Linear(0, 2))
        run = trainer(max_epochs=-1, max_steps=10, **kwargs)
        return spy, run, TransferModule(MLP(), Classification(), [spy])

    spy, run, model = spied(10)
    run.fit(model, data())
    assert [round(progress, 6) for progress, *_ in spy.seen] == [i / 10 for i in range(10)]

    class StopAt(L.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "four.ckpt")

    spy, run, model = spied(10, callbacks=[StopAt()])
    run.fit(model, data())
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [seen[1].source.index.tolist() for seen in spy.seen]

    spy, run, model = spied(10)
    run.fit(model, data(), ckpt_path=tmp_path / "four.ckpt", weights_only=True)
    assert [round(progress, 6) for progress, *_ in spy.seen] == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert [seen[1].source.index.tolist() for seen in spy.seen] == batches[
        4:
    ]  # mid-epoch: no batch again, none left out
    assert all(torch.equal(whole[name], value) for name, value in model.state_dict().items())


def test_without_adaptation_the_target_is_not_loaded():
    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            assert batch.target is None
            assert batch.source is not None

    run = trainer(callbacks=[Watch()])
    run.fit(TransferModule(MLP(), Classification()), data())
    assert run.global_step == 6


def test_losses_run_in_float32_outside_autocast():
    spy = Spy()
    run = trainer(precision="bf16-mixed")
    run.fit(TransferModule(MLP(), Classification(), [spy, MMD(), CORAL(), DANN()]), data())
    for _, _, source, target, autocast in spy.seen:
        assert source.features.dtype == source.outputs.dtype == target.features.dtype == torch.float32
        assert not autocast
    assert all(torch.isfinite(value) for value in run.callback_metrics.values())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_losses_stay_finite_under_autocast_on_a_gpu(precision):
    run = trainer(accelerator="gpu", devices=1, precision=precision)
    run.fit(TransferModule(MLP(), Classification(), [MMD(), CORAL(), DANN()]), data())
    assert all(torch.isfinite(value) for value in run.callback_metrics.values())


def test_names_and_groups():
    model = TransferModule(
        MLP(), Classification(), [MMD(), MMD(), DANN()], backbone_lr_scale=0.1, lr_schedule=Linear(1, 0)
    )
    assert [name for name, _ in model.losses()] == ["mmd", "mmd_2", "dann"]
    run = trainer(max_steps=5)
    run.fit(model, data())
    groups = {group["name"]: group for group in run.optimizers[0].param_groups}
    assert groups["backbone"]["initial_lr"] == pytest.approx(1e-4)
    assert groups["head"]["initial_lr"] == pytest.approx(1e-3)
    assert groups["head"]["lr"] == pytest.approx(0)  # the line has reached its end
    discriminator = set(model.adaptation["dann"].parameters())
    assert discriminator
    assert discriminator <= set(groups["head"]["params"])


@pytest.mark.parametrize("finetuning", [None, LinearProbe(), GradualUnfreezing(0.5)], ids=["none", "probe", "gradual"])
def test_a_bottleneck_learns_as_the_head_whatever_the_finetuning(finetuning):
    backbone = MLP()
    backbone.bottleneck_features = 5
    losses = [MMD()] if isinstance(finetuning, LinearProbe) else [MMD(), L2SP()]
    model = TransferModule(
        backbone,
        Classification(),
        losses,
        lr_schedule=Linear(1, 0),
        backbone_lr_scale=0.1,
        finetuning=finetuning,
    )
    run = trainer(max_steps=2)
    run.fit(model, data())
    groups = {group["name"]: group for group in run.optimizers[0].param_groups}
    new = {*model.network.bottleneck.parameters(), *model.network.task.parameters()}
    assert set(groups["head"]["params"]) == new
    assert groups["head"]["initial_lr"] == pytest.approx(1e-3)
    assert all(group["initial_lr"] <= 1.01e-4 for name, group in groups.items() if name != "head")
    assert model.network.bottleneck[1].num_batches_tracked > 0  # a pass a step in training mode


def test_evaluation_names_what_it_saw():
    run = trainer()
    model, blobs = TransferModule(MLP(), Classification()), data(also_test=["third"])
    run.fit(model, blobs)
    validated = {name: value for part in run.validate(model, blobs, verbose=False) for name, value in part.items()}
    assert set(validated) == {
        "val/still/accuracy",
        "val/still/macro_f1",
        "oracle/moved/accuracy",
        "oracle/moved/macro_f1",
        "val/moved/mutual_information",
        "selection/source_accuracy",
        "selection/mutual_information",
    }
    tested = {name: value for part in run.test(model, blobs, verbose=False) for name, value in part.items()}
    of_classes = ["mean_class_accuracy", "recall/red", "recall/green", "recall/blue"]
    metrics = ["accuracy", "macro_f1", *of_classes]
    assert set(tested) == {f"test/{domain}/{name}" for domain in ("still", "moved", "third") for name in metrics}
    predicted = run.predict(model, blobs)
    assert len(predicted) == 3
    for domain, batches in enumerate(predicted):
        rows = torch.cat([batch["index"] for batch in batches])
        assert rows.tolist() == list(range(len(rows)))
        assert all((batch["domain"] == domain).all() for batch in batches)
    model.eval()
    x, y = blobs.dataset("moved", "test").tensors
    accuracy = (model(x).argmax(1) == y).float().mean().item()
    assert tested["test/moved/accuracy"] == pytest.approx(accuracy, abs=1e-6)


def test_checkpoint_is_plain_and_refuses_another_model(tmp_path):
    run = trainer()
    model = TransferModule(MLP(), Classification(), [DANN()])
    run.fit(model, data())
    run.save_checkpoint(tmp_path / "run.ckpt")
    stored = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert stored["tlkit"]["data"]["classes"] == ["red", "green", "blue"]

    again = TransferModule(MLP(), Classification(), [DANN()])
    trainer().test(again, data(), ckpt_path=tmp_path / "run.ckpt", weights_only=True, verbose=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))

    other = TransferModule(MLP(batch_norm=True), Classification(), [DANN()])
    with pytest.raises(CheckpointError, match=r"another model.*layers\.1"):
        trainer().test(other, data(), ckpt_path=tmp_path / "run.ckpt", weights_only=True, verbose=False)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")  # there is no source to validate on
def test_runs_that_cannot_work_are_refused_before_training():
    with pytest.raises(ConfigurationError, match="MMD needs a target domain"):
        trainer().fit(TransferModule(MLP(), Classification(), [MMD()]), data(targets=[]))
    with pytest.raises(ConfigurationError, match="MMD needs a source domain"):
        trainer().fit(TransferModule(MLP(), Classification(), [MMD()]), data(sources=[]))
    few = data(sources=[], label_fraction={"moved": 0.5})  # the labelled rows of a target are a labelled side
    trainer().fit(TransferModule(MLP(), Classification(), [MMD(), BSS()]), few)
    with pytest.raises(DataError, match="nothing to train on"):
        trainer().fit(TransferModule(MLP(), Classification()), data(sources=[]))
    with pytest.raises(ConfigurationError, match="max_steps or max_epochs"):
        trainer(max_steps=-1, max_epochs=-1).fit(TransferModule(MLP(), Classification(), [MMD()]), data())
    with pytest.raises(ConfigurationError, match=r"trainer\.fit\(model, datamodule\)"):
        trainer().fit(TransferModule(MLP(), Classification()), data().dataset("still", "train"))


def test_a_model_built_for_other_classes_is_refused():
    model = TransferModule(MLP(), Classification())
    model.build(DataSpec(("a",), ("a",), (), classes=("x", "y")))
    with pytest.raises(ConfigurationError, match=r"\['x', 'y'\], the data has \['red', 'green', 'blue'\]"):
        trainer().fit(model, data())


def test_losses_that_need_probabilities_refuse_a_task_without_them():
    class NeedsProbabilities(Spy):
        needs_probabilities = True

    class Bare(Classification):
        has_probabilities = False

    with pytest.raises(ConfigurationError, match="NeedsProbabilities needs class probabilities, and the task Bare"):
        trainer().fit(TransferModule(MLP(), Bare(), [NeedsProbabilities()]), data())


def test_gradients_accumulate_and_clip():
    run = trainer(accumulate_grad_batches=2, gradient_clip_val=0.1, max_steps=3)
    run.fit(TransferModule(MLP(), Classification(), [DANN()]), data())
    assert run.global_step == 3


@pytest.mark.parametrize("place", ["on_train_batch_end", "on_train_epoch_end"])
def test_a_run_counted_in_epochs_resumes_with_the_next_batch(tmp_path, place):
    """With a schedule of the learning rate, and from the end of an epoch, Lightning loses the loader's state."""

    class Save(L.Callback):
        """Keep the batches, and a checkpoint of the end of the first epoch."""

        def __init__(self):
            self.batches = []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.batches.append(batch.source.index.tolist())

    def save(self, trainer, module, *args):
        if trainer.global_step == 7:
            trainer.save_checkpoint(tmp_path / "seven.ckpt")

    setattr(Save, place, save)

    def fit(ckpt_path=None):
        L.seed_everything(0)
        save = Save()
        run = trainer(max_epochs=2, max_steps=-1, limit_val_batches=0, callbacks=[save])
        model = TransferModule(MLP(), Classification(), [MMD()], lr_schedule=Linear(1, 0))
        run.fit(model, data(), ckpt_path=ckpt_path, weights_only=True)
        return save.batches, model.state_dict()

    batches, whole = fit()
    rest, resumed = fit(tmp_path / "seven.ckpt")
    assert len(batches) == 14
    assert rest == batches[7:]
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())


def test_head_and_example_are_made_where_data_and_backbone_are():
    """Lightning builds under the accelerator as the default device; here "meta" is the device that nothing is on."""

    class Elsewhere(TransferModule):
        def configure_model(self):
            with torch.device("meta"):
                super().configure_model()

    model = Elsewhere(MLP(), Classification(), [MMD(), DANN()])
    trainer(max_steps=1).fit(model, data())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_logging_can_be_off():
    run = trainer(log_every_n_steps=0)
    run.fit(TransferModule(MLP(), Classification(), [MMD()]), data())
    assert run.global_step == 6


def test_what_training_needs_is_asked_for_at_every_fit_and_only_there():
    model = TransferModule(MLP(), Classification(), [MMD()])
    trainer().test(model, data(targets=[], also_test=["moved"]), verbose=False)
    trainer().fit(model, data())
    with pytest.raises(ConfigurationError, match="MMD needs a target domain"):
        trainer(limit_val_batches=1.0).fit(model, data(targets=[]))
    model = TransferModule(MLP(batch_norm=True), Classification(), batch_norm="adabn")
    with pytest.raises(ConfigurationError, match="adabn estimates the target's statistics before each validation"):
        trainer(limit_val_batches=0).fit(model, data())


def test_rows_of_another_domain_than_a_loader_stands_for_are_refused():
    """Else scores would carry the name of another domain."""
    model, both, run = TransferModule(MLP(), Classification(), [MMD()]), data(), trainer()
    run.fit(model, both)
    with pytest.raises(ConfigurationError, match="the place of domain 'still' gives rows of 'moved': evaluate with"):
        run.test(model, dataloaders=both.test_dataloader()[1], verbose=False)
    assert set(run.test(model, dataloaders=both.test_dataloader(), verbose=False)[0]) >= {"test/moved/accuracy"}


def test_inputs_of_other_names_are_refused(tmp_path):
    """Words or access points in other columns have the same shape: nothing else would find it."""

    def named(*names):
        blobs = data()
        blobs.input_names = names
        return blobs

    ours, others = named(*"abcdefgh"), named(*"abcdefhg")
    run, model = trainer(), TransferModule(MLP(), Classification(), [MMD()])
    run.fit(model, ours)
    run.save_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    with pytest.raises(ConfigurationError, match=r"the model was built for 8 named columns .* column 6 was 'g'"):
        trainer().test(model, others, verbose=False)

    def again(blobs, file):
        fresh = TransferModule(MLP(), Classification(), [MMD()])
        trainer().test(fresh, blobs, ckpt_path=str(tmp_path / file), weights_only=True, verbose=False)

    with pytest.raises(CheckpointError, match="the model of the checkpoint was built for 8 named columns of x"):
        again(others, "m.ckpt")
    again(ours, "m.ckpt")
    again(named(), "m.ckpt")
    old = torch.load(tmp_path / "m.ckpt", weights_only=True)
    del old["tlkit"]["data"]["input_names"]
    torch.save(old, tmp_path / "old.ckpt")
    again(others, "old.ckpt")


@pytest.mark.parametrize(("losses", "roles"), [([], {}), ([DANN()], {"targets": []})])
def test_domain_specific_layers_of_a_target_that_is_not_trained_on_are_refused(losses, roles):
    model = TransferModule(MLP(batch_norm=True), Classification(), losses, batch_norm="domain_specific")
    with pytest.raises(ConfigurationError, match="domain_specific trains the target's own layers"):
        trainer().fit(model, data(**roles))


def test_adabn_estimates_the_statistics_of_the_target_before_each_validation():
    model = TransferModule(MLP(batch_norm=True), Classification(), batch_norm="adabn")
    moved = data()
    run = trainer(max_steps=4, limit_val_batches=1.0, val_check_interval=4, check_val_every_n_epoch=None)
    run.fit(model, moved)
    norm = model.network.backbone.layers[1]
    model.eval()
    inputs = moved._domain("moved", "reference").read(torch.arange(len(moved.splits["moved"]["train"])))[0]
    weighted = torch.zeros(16)
    for batch in inputs.split(16):
        weighted += len(batch) * model.network.backbone.layers[0](batch).mean(0).detach()
    torch.testing.assert_close(norm.target.running_mean, weighted / len(inputs))
    assert not torch.allclose(norm.source.running_mean, norm.target.running_mean)


def test_adabn_ends_with_statistics_of_its_last_weights(tmp_path):
    """No validation comes after the last step, nor any before: the model and both checkpoints have them even so."""
    model, moved = TransferModule(MLP(batch_norm=True), Classification(), batch_norm="adabn"), data()
    learning = []
    model.on_before_zero_grad = lambda optimizer: learning.append(model.network.training)
    run = trainer(
        max_steps=3, limit_val_batches=1.0, enable_checkpointing=True, callbacks=[ModelSelection(dirpath=tmp_path)]
    )
    run.fit(model, moved)
    norm = model.network.backbone.layers[1]
    ended = copy.deepcopy(norm.target.state_dict())
    assert all(learning)
    model.eval()
    model.network.reestimate(batch.x for batch in moved.target_train_loader())
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(ended[name], norm.target.state_dict()[name])
    for file in ("best", "last"):
        kept = torch.load(tmp_path / f"{file}.ckpt", weights_only=True)["state_dict"]
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(kept[f"network.backbone.layers.1.target.{name}"], ended[name])


def test_adabn_that_could_never_estimate_is_refused():
    model = TransferModule(MLP(batch_norm=True), Classification(), batch_norm="adabn")
    with pytest.raises(ConfigurationError, match="adabn estimates statistics on the target's training rows"):
        trainer().fit(model, data(targets=[]))
