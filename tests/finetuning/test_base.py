import copy

import pytest
import torch
from torch import nn

from tests.finetuning.networks import Deep, data, model, trainer
from tlkit.batchnorm import DomainBatchNorm
from tlkit.finetuning import Full, GradualUnfreezing, LayerDecay, LoRA

STRATEGIES = {
    "full": lambda: Full(freeze_batch_norm=True),
    "decay": lambda: LayerDecay(freeze_batch_norm=True),
    "gradual": lambda: GradualUnfreezing(freeze_batch_norm=True),
    "lora": lambda: LoRA(rank=2, target_modules=["layers.0"]),
}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


def norms(module):
    return [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]


def prepared(strategy):
    backbone = Deep()
    strategy.prepare(backbone)
    return backbone


def held(strategy, backbone, groups, progress=1.0):
    """Whether all batch norm is in evaluation mode, and what else may train is not."""
    strategy.hold(backbone.train(), groups, progress)
    return not any(each.training for each in norms(backbone)) and backbone.layers[3].training


@every_strategy
def test_the_backbone_is_walked_through_once(strategy, monkeypatch):
    strategy, walks = strategy(), []
    backbone = prepared(strategy)
    groups = strategy.groups(backbone)
    whole = nn.Module.modules
    monkeypatch.setattr(nn.Module, "modules", lambda self: walks.append(self) or whole(self))
    strategy.hold(backbone, groups, 1.0)
    assert walks == [backbone]
    monkeypatch.undo()
    assert all(held(strategy, backbone, groups) for _ in range(3))


@every_strategy
def test_layers_that_replaced_others_are_held(strategy):
    strategy = strategy()
    backbone = prepared(strategy)
    assert held(strategy, backbone, strategy.groups(backbone))
    assert DomainBatchNorm.replace(backbone) == 1
    assert held(strategy, backbone, strategy.groups(backbone))
    assert len(norms(backbone)) == 2
    backbone = nn.SyncBatchNorm.convert_sync_batchnorm(backbone)
    assert held(strategy, backbone, strategy.groups(backbone))


@every_strategy
def test_a_copy_holds_its_own_layers(strategy):
    """As callbacks that average weights make one, in the middle of a run."""
    first = model(strategy())
    trainer(2).fit(first, data())
    second = copy.deepcopy(first)
    for each in (first, second):
        each.network.backbone.train()
    second.finetuning.hold(second.network.backbone, second._groups, 1.0)
    assert not any(each.training for each in norms(second.network.backbone))
    assert all(each.training for each in norms(first.network.backbone))
    first.finetuning.hold(first.network.backbone, first._groups, 1.0)
    assert not any(each.training for each in norms(first.network.backbone))


def test_two_backbones_of_one_strategy_are_told_apart():
    strategy, first, second = Full(freeze_batch_norm=True), Deep(), Deep()
    groups = strategy.groups(first)
    assert held(strategy, first, groups)
    assert held(strategy, second, groups)
    assert held(strategy, first, groups)


@every_strategy
def test_statistics_stay_in_a_second_fit_and_in_one_that_resumes(strategy, tmp_path):
    first = model(strategy())
    before = [each.running_mean.clone() for each in norms(first.network.backbone)]
    run = trainer(2)
    run.fit(first, data())
    run.save_checkpoint(tmp_path / "m.ckpt")
    trainer(2).fit(first.train(), data())
    again = model(strategy())
    trainer(4).fit(again, data(), ckpt_path=str(tmp_path / "m.ckpt"), weights_only=True)
    for each in (first, again):
        after = [layer.running_mean for layer in norms(each.network.backbone)]
        assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
