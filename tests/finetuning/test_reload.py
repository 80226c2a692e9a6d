"""What a strategy froze stays frozen through what the trainer does to a model, and a checkpoint is read back."""

import pytest
import torch
from torch import nn

from tests.finetuning.networks import Deep, changed, copied, data, model, trainer
from tlkit.backbones import MLP
from tlkit.finetuning import Full, GradualUnfreezing, LayerDecay, LinearProbe
from tlkit.losses import DELTA, L2SP

STRATEGIES = {
    "none": lambda: None,
    "probe": LinearProbe,
    "freeze_first": lambda: Full(freeze_first=1),
    "gradual": lambda: GradualUnfreezing(over=0.5),
    "decay": LayerDecay,
}


@pytest.mark.parametrize(
    ("strategy", "batch_norm"),
    [
        (strategy, batch_norm)
        for strategy in STRATEGIES
        for batch_norm in ("joint", "adabn", "domain_specific")
        if (strategy, batch_norm) != ("probe", "domain_specific")  # no layer of the target's own could learn
    ],
)
def test_a_lazy_backbone_is_trained_and_read_back(strategy, batch_norm):
    options = {"batch_norm": batch_norm}
    if batch_norm == "domain_specific":
        options["adaptation"] = [mmd()]
    first = model(STRATEGIES[strategy](), backbone=MLP(hidden=(12, 6), batch_norm=True), **options)
    trainer(3, limit_val_batches=1.0, val_check_interval=3, check_val_every_n_epoch=None).fit(first, data())
    check_read_back(first, STRATEGIES[strategy](), options)


@pytest.mark.parametrize("loss", [L2SP, DELTA])
def test_a_lazy_backbone_with_a_regulariser_is_read_back(loss):
    first = model(None, backbone=MLP(hidden=(12, 6)), adaptation=[loss()])
    trainer(3).fit(first, data())
    check_read_back(first, None, {"adaptation": [loss()]}, batch_norm=False)


def mmd():
    from tlkit.losses import MMD

    return MMD()


def check_read_back(first, strategy, options, batch_norm=True):
    again = model(strategy, backbone=MLP(hidden=(12, 6), batch_norm=batch_norm), **options)
    again.build(first.data_spec)  # no example: as tlkit.load does
    again.on_load_checkpoint({"state_dict": first.state_dict()})
    again.load_state_dict(first.state_dict())
    x = torch.randn(5, 8)
    assert torch.equal(again.eval()(x), first.eval()(x))


def test_frozen_layers_stay_frozen_with_batch_norm_by_domain():
    full = model(Full(freeze_first=1), adaptation=[mmd()], batch_norm="domain_specific")
    before = None

    def remember(backbone):
        nonlocal before
        before = copied(backbone)

    run = trainer(4)
    full.on_fit_start = lambda: remember(full.network.backbone)
    run.fit(full, data())
    frozen = {name for name in before if name.startswith(("layers.0.", "layers.1."))}
    assert any(".target." in name for name in frozen)
    assert not changed(full.network.backbone, before) & frozen


@pytest.mark.parametrize("strategy", ["freeze_first", "gradual"])
def test_layers_that_synchronised_batch_norm_replaces_are_held_too(strategy):
    full = model(STRATEGIES[strategy](), backbone=Deep())
    full.build(data().spec(), torch.randn(2, 8))
    full.network = nn.SyncBatchNorm.convert_sync_batchnorm(full.network)  # what sync_batchnorm=True does, after build
    full.trainer = trainer(4)
    full.configure_optimizers()
    full.train()
    full.finetuning.hold(full.network.backbone, full._groups, progress=0.0)
    norm = full.network.backbone.layers[1]
    assert isinstance(norm, nn.SyncBatchNorm)
    assert not norm.training
