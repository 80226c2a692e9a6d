import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from tests.finetuning.networks import Deep, copied, data, model, trainer
from tlkit.errors import ConfigurationError
from tlkit.finetuning import LayerDecay
from tlkit.schedules import Linear


def rates(run):
    return {group["name"]: group["lr"] for group in run.optimizers[0].param_groups}


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_the_rates_are_those_of_the_optimizer_itself(optimizer):
    """timm only writes ``lr_scale`` beside them, which the optimizers of torch do not read."""
    decayed = model(LayerDecay(0.5), optimizer=lambda p: optimizer(p, lr=0.08), backbone_lr_scale=0.1)
    run = trainer(1)
    run.fit(decayed, data())
    assert rates(run) == pytest.approx(
        {
            "backbone.layers.0": 0.08 * 0.1 * 0.5**3,
            "backbone.layers.4": 0.08 * 0.1 * 0.5**2,
            "backbone.layers.6": 0.08 * 0.1 * 0.5,
            "head": 0.08,
        }
    )


def test_a_step_moves_each_layer_by_its_rate():
    decayed = model(LayerDecay(0.5), Deep(dropout=0.0))
    before = copied(decayed.network.backbone)
    trainer(1).fit(decayed, data())
    for number, layer in enumerate((0, 4, 6)):
        parameter = decayed.network.backbone.layers[layer].weight
        moved = before[f"layers.{layer}.weight"] - parameter
        torch.testing.assert_close(moved, 0.1 * 0.5 ** (3 - number) * parameter.grad, rtol=1e-3, atol=1e-8)
        assert moved.norm() > 0


def test_a_schedule_multiplies_the_rates():
    decayed = model(LayerDecay(0.5), lr_schedule=Linear(1.0, 0.0))
    run = trainer(4)
    run.fit(decayed, data())
    assert set(rates(run).values()) == {0.0}
    starts = {group["name"]: group["initial_lr"] for group in run.optimizers[0].param_groups}
    assert starts == pytest.approx(
        {"backbone.layers.0": 0.0125, "backbone.layers.4": 0.025, "backbone.layers.6": 0.05, "head": 0.1}
    )


def test_without_decay_it_is_full_fine_tuning():
    states = []
    for strategy in (None, LayerDecay(1.0)):
        each = model(strategy)
        trainer(4).fit(each, data())
        states.append(copied(each))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_batch_norm_may_stay_as_it_came():
    decayed = model(LayerDecay(0.9, freeze_batch_norm=True))
    before = copied(decayed.network.backbone)
    trainer(3).fit(decayed, data())
    assert torch.equal(decayed.network.backbone.layers[1].running_mean, before["layers.1.running_mean"])


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5])
def test_a_decay_out_of_its_range(decay):
    with pytest.raises(ConfigurationError, match=r"LayerDecay\(decay=...\) lies above 0 and at most at 1"):
        LayerDecay(decay)


def test_a_backbone_of_one_layer():
    with pytest.raises(ConfigurationError, match="LayerDecay tells layers apart, and Linear has 1 with trainable"):
        LayerDecay().groups(nn.Linear(2, 2))
