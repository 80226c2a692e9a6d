"""Gradual unfreezing: what Lightning's BackboneFinetuning gets wrong under DDP (#20340) and after a resume (#21901)."""

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from tests.finetuning.networks import Deep, changed, copied, data, model, trainer
from tests.ranks import on_ranks
from tlkit.backbones import TimmBackbone
from tlkit.errors import ConfigurationError
from tlkit.finetuning import FineTuning, GradualUnfreezing, LinearProbe, LoRA
from tlkit.losses import MMD
from tlkit.schedules import Linear

STEPS = 12
# over=0.5 and three layers: they start at 1/6, 2/6 and 3/6 of 12 steps, the one under the head first.
STARTS = {"layers.0": 6, "layers.1": 6, "layers.4": 4, "layers.6": 2}
OPTIMIZERS = {
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.5),
    "adam": lambda p: Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "rmsprop": lambda p: RMSprop(p, lr=0.01, momentum=0.9),
}


class Watch(L.Callback):
    """Remembers the backbone before every step, its gradients before the optimizer's, and the modes in the step."""

    def __init__(self):
        self.states, self.gradients, self.modes, self.rates = [], [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.states.append(copied(module.network.backbone))
        self.rates.append({group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups})

    def on_before_backward(self, trainer, module, loss):
        self.modes.append({name: each.training for name, each in module.network.backbone.named_modules()})

    def on_before_optimizer_step(self, trainer, module, optimizer):
        named = module.network.backbone.named_parameters()
        self.gradients.append({name: parameter.grad.clone() for name, parameter in named})


def run(optimizer="sgd", finetuning=None, steps=STEPS, callbacks=(), backbone=None, options=(), **more):
    watch = Watch()
    finetuning = finetuning or GradualUnfreezing(over=0.5)
    gradual = model(finetuning, backbone, OPTIMIZERS[optimizer], **dict(options))
    fit = trainer(steps, [watch, *callbacks], **more)
    fit.fit(gradual, data())
    watch.states.append(copied(gradual.network.backbone))
    return watch, gradual, fit


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", [None, Linear(1.0, 0.1)], ids=["constant", "linear"])
def test_each_layer_stays_as_it_came_to_the_last_bit_until_its_start_and_moves_then(optimizer, schedule):
    watch, *_ = run(optimizer, options={"lr_schedule": schedule})
    assert len(watch.states) == STEPS + 1
    for step in range(STEPS):
        before, after = watch.states[step], watch.states[step + 1]
        for name in before:
            start = STARTS[name.rpartition(".")[0]]
            assert torch.equal(before[name], after[name]) == (step < start), (name, step)


def test_dropout_and_statistics_rest_with_their_layer():
    watch, *_ = run(limit_val_batches=1.0, val_check_interval=5)
    for step, modes in enumerate(watch.modes):
        for name in ("layers.0", "layers.1", "layers.3"):
            assert modes[name] == (step >= 6), (name, step)
        assert modes["layers.4"] == (step >= 4)
        assert modes["layers.6"] == (step >= 2)


def test_frozen_batch_norm_stays_as_it_came_after_the_start_too():
    watch, *_ = run(finetuning=GradualUnfreezing(over=0.5, freeze_batch_norm=True))
    first, last = watch.states[0], watch.states[-1]
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(first[f"layers.1.{name}"], last[f"layers.1.{name}"])
    assert not torch.equal(first["layers.1.weight"], last["layers.1.weight"])
    assert watch.modes[-1]["layers.3"]
    assert not watch.modes[-1]["layers.1"]


def test_momentum_gathered_before_the_start_gives_no_kick():
    """The first step of a layer is that of a run which begins there, whatever went by before."""
    watch, *_ = run(backbone=Deep(dropout=0.0))
    for layer, start in STARTS.items():
        name = f"{layer}.weight"
        before, after, gradient = watch.states[start][name], watch.states[start + 1][name], watch.gradients[start][name]
        # nesterov with a new buffer: lr * (g + 0.9 g), where g holds the weight decay
        expected = 0.1 * 1.9 * (gradient + 0.1 * before)
        torch.testing.assert_close(before - after, expected, rtol=1e-4, atol=1e-7)


def test_the_optimizer_knows_nothing_of_a_layer_before_its_start():
    class Look(L.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            known = trainer.optimizers[0].state
            self.states.append(sorted(name for name, p in module.network.backbone.named_parameters() if p in known))

    look = Look()
    look.states = []
    run("adamw", callbacks=[look])
    assert look.states[1] == []
    assert look.states[2] == ["layers.6.bias", "layers.6.weight"]
    assert len(look.states[4]) == 4
    assert len(look.states[6]) == 8


def test_the_first_step_of_adam_is_the_learning_rate():
    """Moments gathered before would make it another one; AdamW's decay is in it too."""
    watch, *_ = run("adamw", backbone=Deep(dropout=0.0))
    before, after = watch.states[4]["layers.4.weight"], watch.states[5]["layers.4.weight"]
    moved = before * (1 - 0.01 * 0.5) - after
    assert moved.abs().max().item() == pytest.approx(0.01, rel=1e-3)


def test_clipping_does_not_count_what_does_not_learn():
    class Heads(L.Callback):
        def on_train_batch_start(self, trainer, module, *_):
            self.before = [p.detach().clone() for p in module.network.task.parameters()]

        def on_train_batch_end(self, trainer, module, *_):
            moved = [b - p for b, p in zip(self.before, module.network.task.parameters(), strict=True)]
            self.moved.append(torch.cat([each.flatten() for each in moved]).norm().item())

    heads = Heads()
    heads.moved = []
    gradual = model(GradualUnfreezing(over=0.5), optimizer=lambda p: SGD(p, lr=1.0))
    trainer(4, [heads], gradient_clip_val=0.01).fit(gradual, data())
    assert heads.moved[0] == pytest.approx(0.01, rel=1e-3)  # step 0 of 4: only the head learns
    assert heads.moved[-1] < 0.0099


def test_the_rates_follow_progress_the_schedule_and_the_decay():
    finetuning = GradualUnfreezing(over=0.5, decay=0.5)
    watch, *_ = run("sgd", finetuning, options={"lr_schedule": Linear(1.0, 0.0), "backbone_lr_scale": 0.2})
    for step, rates in enumerate(watch.rates):
        now = 0.1 * (1 - step / STEPS)
        assert rates == pytest.approx(
            {
                "backbone.layers.0": 0.2 * 0.125 * now * (step >= 6),
                "backbone.layers.4": 0.2 * 0.25 * now * (step >= 4),
                "backbone.layers.6": 0.2 * 0.5 * now * (step >= 2),
                "head": now,
            }
        )


def test_a_step_is_an_optimizers_step_when_gradients_accumulate():
    watch, *_ = run(steps=6, accumulate_grad_batches=2)
    batches = [states["layers.6.weight"] for states in watch.states]
    assert torch.equal(batches[0], batches[2])  # one of six steps of two batches
    assert not torch.equal(batches[2], batches[4])


def test_gradients_that_are_scaled_for_half_precision_are_released_too():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    watch, *_ = run("sgd", plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)])
    for name in watch.states[0]:
        start = STARTS[name.rpartition(".")[0]]
        assert torch.equal(watch.states[0][name], watch.states[start][name])
        assert not torch.equal(watch.states[start][name], watch.states[start + 1][name])


class SaveAt(L.Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(tmp_path, optimizer):
    """Before, at and past every start, in the middle of an epoch and at its end."""
    saves = [SaveAt(step, tmp_path / f"{step}.ckpt") for step in (1, 2, 3, 4, 6, 7, 11)]
    options = {"lr_schedule": Linear(1.0, 0.1), "adaptation": [MMD()]}
    still = {"dropout": 0.0}  # no checkpoint holds the state of the generator
    _, whole, _ = run(optimizer, callbacks=saves, options=options, backbone=Deep(**still))
    for save in saves:
        resumed = model(GradualUnfreezing(over=0.5), Deep(**still), OPTIMIZERS[optimizer], **options)
        watch = Watch()
        trainer(STEPS, [watch]).fit(resumed, data(), ckpt_path=save.path, weights_only=True)
        assert len(watch.states) == STEPS - save.step
        if save.step >= 6:
            assert all(watch.modes[0].values())
        assert changed(resumed, copied(whole)) == set(), save.step


def test_a_longer_run_freezes_by_its_own_length(tmp_path):
    """Progress counts on the run's end: a run that is given more steps on resume has layers that wait again."""
    run(callbacks=[SaveAt(6, tmp_path / "six.ckpt")])
    resumed = model(GradualUnfreezing(over=0.5), None, OPTIMIZERS["sgd"])
    watch = Watch()
    trainer(24, [watch]).fit(resumed, data(), ckpt_path=tmp_path / "six.ckpt", weights_only=True)
    assert torch.equal(watch.states[0]["layers.0.weight"], watch.states[5]["layers.0.weight"])  # until step 12
    assert not torch.equal(watch.states[0]["layers.6.weight"], watch.states[1]["layers.6.weight"])


RANKED = {
    "gradual": (lambda: GradualUnfreezing(over=0.5), "sgd"),
    "gradual_adamw": (lambda: GradualUnfreezing(over=0.5, decay=0.5), "adamw"),
    "probe": (LinearProbe, "adamw"),
    "lora": (lambda: LoRA(rank=2, target_modules=["layers.0", "layers.4"]), "adamw"),
}


def train_on(world):
    results = {}
    for name, (strategy, optimizer) in RANKED.items():
        L.seed_everything(7)
        double = Deep(batch_norm=False, dropout=0.0).double()
        ranked = model(strategy(), double, OPTIMIZERS[optimizer], adaptation=[MMD(on="outputs")])
        start = copied(double)
        fit = trainer(STEPS, precision="64-true", devices=world, strategy="ddp" if world > 1 else "auto")
        fit.fit(ranked, data(batch_size=24 // world, dtype=torch.float64))
        moved = {name for name, value in double.state_dict().items() if name in start and (value != start[name]).any()}
        results[name] = {key: value.numpy().copy() for key, value in ranked.state_dict().items()}, moved
    return results


@pytest.mark.ddp
def test_two_ranks_equal_one_and_each_other(tmp_path):
    one = train_on(1)
    two = on_ranks(2, train_on, 2, folder=tmp_path)
    for name in RANKED:
        weights, moved = one[name]
        assert bool(moved) == name.startswith("gradual")
        for rank in (0, 1):
            other, other_moved = two[rank][name]
            assert other_moved == moved
            assert other.keys() == weights.keys()
            worst = max(abs(other[key] - weights[key]).max() for key in weights)
            assert worst < 1e-12, f"{name}, rank {rank}: weights differ by {worst}"
        assert all((two[0][name][0][key] == two[1][name][0][key]).all() for key in weights)


def test_every_parameter_takes_part_in_every_backward_pass():
    """DistributedDataParallel synchronises only what required a gradient when it was wrapped."""
    backbone = Deep()
    strategy = GradualUnfreezing()
    strategy.prepare(backbone)
    groups = strategy.groups(backbone)
    strategy.hold(backbone, groups, 0.0)
    backbone(torch.rand(4, 8)).sum().backward()
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in backbone.parameters())


def test_the_starts_by_hand():
    groups = GradualUnfreezing(over=0.6, decay=0.5).groups(Deep())
    assert [group.start for group in groups] == pytest.approx([0.6, 0.4, 0.2])
    assert [group.lr_scale for group in groups] == [0.125, 0.25, 0.5]


def test_a_timm_backbone_starts_from_the_head_down():
    backbone = TimmBackbone("test_resnet")
    strategy = GradualUnfreezing(over=0.5)
    groups = strategy.groups(backbone)
    assert [group.start for group in groups] == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1])
    strategy.hold(backbone, groups, 0.2)
    training = {name for name, module in backbone.model.named_children() if module.training}
    assert {"layer3", "layer4"} <= training
    assert not {"conv1", "bn1", "layer1", "layer2"} & training
    before = backbone.model.layer2[0].bn1.running_mean.clone()
    backbone(torch.rand(4, 3, 32, 32))
    assert torch.equal(backbone.model.layer2[0].bn1.running_mean, before)


@pytest.mark.parametrize("arguments", [{"over": 0.0}, {"over": 1.0}, {"over": -1.0}, {"decay": 0.0}, {"decay": 2.0}])
def test_arguments_out_of_their_range(arguments):
    with pytest.raises(ConfigurationError, match=rf"GradualUnfreezing\({next(iter(arguments))}=...\)"):
        GradualUnfreezing(**arguments)


def test_a_backbone_of_one_layer_is_refused_at_the_start():
    class One(nn.Module):
        num_features = 6

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 6)

        def forward(self, x):
            return self.layer(x)

    with pytest.raises(ConfigurationError, match=r"GradualUnfreezing tells layers apart, and One has 1 .* use Full"):
        run(backbone=One())


def test_the_contract_holds_for_a_strategy_of_ones_own():
    class HeadFirst(FineTuning):
        """The backbone as one group that begins half way."""

        def groups(self, backbone):
            (whole,) = super().groups(backbone)
            return [type(whole)(whole.name, whole.parameters, start=0.5, modules=[backbone])]

    watch, *_ = run(finetuning=HeadFirst())
    assert all(torch.equal(watch.states[0][name], watch.states[6][name]) for name in watch.states[0])
    assert not torch.equal(watch.states[6]["layers.0.weight"], watch.states[7]["layers.0.weight"])
