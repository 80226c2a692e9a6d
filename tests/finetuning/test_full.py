import pytest
import torch
from torch import nn

from tests.finetuning.networks import Deep, changed, copied, data, model, trainer
from tlkit.backbones import TimmBackbone
from tlkit.errors import BackboneError, ConfigurationError
from tlkit.finetuning import Full, LinearProbe, LoRA
from tlkit.losses import DELTA, L2SP, MMD

STATISTICS = {"layers.1.running_mean", "layers.1.running_var", "layers.1.num_batches_tracked"}


@pytest.mark.parametrize("freeze", [False, True])
def test_full_learns_everything_and_may_keep_the_statistics(freeze):
    full = model(Full(freeze_batch_norm=freeze))
    backbone = full.network.backbone
    before = copied(backbone)
    trainer(4, limit_val_batches=1.0, val_check_interval=2).fit(full, data())
    # Batch statistics take the bias before them away: it has no gradient then.
    assert changed(backbone, before) | {"layers.0.bias"} == before.keys() - (STATISTICS if freeze else set())


def test_full_may_freeze_the_first_layers_for_good():
    full = model(Full(freeze_first=1))
    backbone = full.network.backbone
    before = copied(backbone)
    trainer(4, limit_val_batches=1.0, val_check_interval=2).fit(full, data())
    first = {name for name in before if name.startswith(("layers.0.", "layers.1."))}  # a layer and its normalisation
    assert not changed(backbone, before) & first
    assert changed(backbone, before) >= before.keys() - first
    assert not any(parameter.requires_grad for name, parameter in backbone.named_parameters() if name in first)


class Rooted(nn.Module):
    """A network that owns a parameter itself, as transformers own their class token."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.offset, self.stem = nn.Parameter(torch.zeros(8)), nn.Linear(8, 4)
        self.body, self.dropout = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Dropout(0.5)

    def layer_groups(self):
        return [("stem", [self.offset, self.stem]), ("body", [self.body])]

    def forward(self, x):
        return self.dropout(self.body(self.stem(x + self.offset)))


def test_a_network_that_owns_a_frozen_parameter_goes_on_training():
    backbone, full = Rooted(), Full(freeze_first=1)
    full.prepare(backbone)
    groups = full.groups(backbone)
    full.hold(backbone.train(), groups, 0.0)
    assert {name for name, module in backbone.named_modules() if not module.training} == {"stem"}
    assert {parameter for group in groups for parameter in group.parameters} == set(backbone.body.parameters())


@pytest.mark.parametrize(("first", "error"), [(-1, ConfigurationError), (99, BackboneError)])
def test_full_refuses_to_freeze_less_than_nothing_or_everything(first, error):
    with pytest.raises(error, match="freeze_first"):
        Full(freeze_first=first).prepare(Deep())


def test_full_is_what_happens_without_a_strategy():
    states = []
    for strategy in (None, Full()):
        each = model(strategy)
        trainer(4).fit(each, data())
        states.append(copied(each))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_linear_probe_learns_the_head_alone():
    probe = model(LinearProbe())
    backbone = probe.network.backbone
    before = copied(backbone)
    run = trainer(6, limit_val_batches=1.0, val_check_interval=2)
    run.fit(probe, data())
    assert changed(backbone, before) == set()
    assert [group["name"] for group in run.optimizers[0].param_groups] == ["head"]
    assert sum(p.numel() for p in probe.parameters() if p.requires_grad) == 6 * 3 + 3
    assert probe.network.task.state_dict()  # and the head has moved:
    again = model(LinearProbe())
    again.build(data().spec())
    assert changed(probe.network.task, copied(again.network.task))


def test_linear_probe_keeps_no_activations_and_drops_nothing_out():
    probe = LinearProbe()
    backbone = Deep(dropout=0.9)
    probe.prepare(backbone)
    assert probe.groups(backbone) == []
    probe.hold(backbone, [], 0.0)
    x = torch.rand(4, 8)
    features = backbone(x)
    assert features.grad_fn is None
    assert not features.requires_grad
    assert torch.equal(features, backbone.eval()(x))


def test_linear_probe_never_wakes_up():
    """Not at the end of training either, and not after a validation."""
    backbone = Deep()
    probe = LinearProbe()
    probe.prepare(backbone)
    for progress in (0.0, 0.5, 1.0):
        backbone.train()
        probe.hold(backbone, [], progress)
        assert not any(module.training for module in backbone.modules())
        assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_linear_probe_on_a_timm_backbone():
    probe = LinearProbe()
    backbone = TimmBackbone("test_resnet")
    before = copied(backbone)
    probe.prepare(backbone)
    probe.hold(backbone.train(), [], 0.0)
    assert backbone(torch.rand(4, 3, 32, 32)).grad_fn is None
    assert changed(backbone, before) == set()


@pytest.mark.parametrize("loss", [L2SP(), DELTA()])
def test_what_holds_a_backbone_back_is_refused_where_nothing_learns(loss):
    with pytest.raises(ConfigurationError, match=f"{type(loss).__name__} holds the backbone back while it learns"):
        trainer(1).fit(model(LinearProbe(), adaptation=[loss]), data())


def test_an_adaptation_loss_on_outputs_trains_the_head_of_a_probe():
    probe = model(LinearProbe(), adaptation=[MMD(on="outputs")])
    before = copied(probe.network.backbone)
    trainer(3).fit(probe, data())
    assert changed(probe.network.backbone, before) == set()


def test_a_task_without_parameters_to_train_has_no_empty_group():
    backbone = nn.Sequential(nn.Linear(2, 2))
    assert len(Full().groups(backbone)) == 1
    assert Full().groups(backbone.requires_grad_(False)) == []


@pytest.mark.parametrize("strategy", [LinearProbe(), LoRA(rank=2, target_modules=["layers.0"])])
def test_batch_norm_by_domain_of_which_nothing_learns_is_refused(strategy):
    def made(batch_norm):
        return model(strategy, adaptation=[MMD()], batch_norm=batch_norm)

    with pytest.raises(ConfigurationError, match="keeps all of the backbone's as it came: set batch_norm: adabn"):
        trainer(2).fit(made("domain_specific"), data())
    once = {"limit_val_batches": 1.0, "val_check_interval": 2, "check_val_every_n_epoch": None}
    trainer(2, **once).fit(made("adabn"), data())
