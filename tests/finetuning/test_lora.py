import copy
import sys

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

import tlkit
from tests.backbones.settings import tiny_bert, tokens
from tests.cli.conftest import RECIPE
from tests.finetuning.networks import Deep, changed, copied, data, model, trainer
from tlkit.backbones import MLP, CNN1d, ConvNet, FingerprintNet, TimmBackbone, TransformersBackbone
from tlkit.batchnorm import DomainBatchNorm
from tlkit.cli.main import main
from tlkit.errors import ConfigurationError
from tlkit.finetuning import LoRA
from tlkit.network import Network
from tlkit.tasks import Classification


def bert(folder):
    return TransformersBackbone(tiny_bert(str(folder)), pretrained=False)


def vit():
    return TimmBackbone("test_vit", model_args={"img_size": 32})


def resnet():
    return TimmBackbone("test_resnet", model_args={"zero_init_last": False})


def trainable(backbone):
    return {name: p for name, p in backbone.named_parameters() if p.requires_grad}


def shaken(backbone):
    """Move the adapters away from their start, where they add nothing."""
    with torch.no_grad():
        for parameter in trainable(backbone).values():
            parameter.add_(0.1 * torch.randn_like(parameter))


CASES = {
    # query and value, each 16 -> 16, in 2 layers
    "bert": (bert, LoRA(rank=2), 2 * 2 * 2 * (16 + 16), tokens),
    # qkv 64 -> 192 and proj 64 -> 64 in 6 blocks
    "vit": (lambda _: vit(), LoRA(rank=4), 6 * 4 * ((64 + 192) + (64 + 64)), lambda: torch.rand(3, 3, 32, 32)),
    # two 3x3 convolutions: a rank takes 3 * 3 numbers for each input channel and one for each output channel
    "conv": (
        lambda _: resnet(),
        LoRA(rank=3, target_modules=r"layer4\.0\.conv\d"),
        None,
        lambda: torch.rand(3, 3, 32, 32),
    ),
    "linear": (bert, LoRA(rank=2, target_modules="all-linear"), 2 * 2 * (4 * (16 + 16) + 2 * (16 + 20)), tokens),
}
every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_only_adapters_learn_and_their_number_is_that_worked_by_hand(case, tmp_path):
    make, strategy, count, _ = CASES[case]
    backbone = make(tmp_path)
    if case == "conv":
        layers = [backbone.model.layer4[0].conv1, backbone.model.layer4[0].conv2]
        count = sum(3 * (layer.in_channels * 9 + layer.out_channels) for layer in layers)
        assert all(layer.kernel_size == (3, 3) for layer in layers)
    whole = sum(p.numel() for p in backbone.parameters())
    strategy.prepare(backbone)
    (group,) = strategy.groups(backbone)
    assert sum(p.numel() for p in group.parameters) == count
    assert set(group.parameters) == set(trainable(backbone).values())
    assert all("lora_" in name for name in trainable(backbone))
    assert sum(p.numel() for p in backbone.parameters()) == whole + count


@every_case
def test_it_begins_at_the_network_as_it_came_and_merges_back_into_its_shape(case, tmp_path):
    make, strategy, _, example = CASES[case]
    torch.manual_seed(0)
    backbone, x = make(tmp_path).eval(), example()
    plain = copy.deepcopy(backbone)
    strategy.prepare(backbone)
    with torch.no_grad():
        torch.testing.assert_close(backbone.eval()(x), plain(x), rtol=1e-5, atol=1e-6)
        shaken(backbone)
        adapted = backbone(x)
        assert (adapted - plain(x)).abs().max() > 1e-4
        merged = LoRA.merged(backbone)
        torch.testing.assert_close(merged.eval()(x), adapted, rtol=1e-3, atol=1e-4)
        assert merged.state_dict().keys() == plain.state_dict().keys()
        assert not any("peft" in type(module).__module__ for module in merged.modules())
        plain.load_state_dict(merged.state_dict())
        torch.testing.assert_close(plain(x), merged(x), rtol=0, atol=0)
        torch.testing.assert_close(backbone(x), adapted, rtol=0, atol=0)  # the original still has its adapters


@every_case
def test_state_dict_round_trip(case, tmp_path):
    make, strategy, _, example = CASES[case]
    torch.manual_seed(0)
    first, x = make(tmp_path), example()
    strategy.prepare(first)
    shaken(first)
    torch.save(first.state_dict(), tmp_path / "weights.pth")
    second = make(tmp_path)
    strategy.prepare(second)
    second.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(second.eval()(x), first.eval()(x), rtol=0, atol=0)


def test_training_moves_the_adapters_and_the_head_and_nothing_else():
    """Batch norm keeps scale, shift and statistics; dropout is active."""
    strategy = LoRA(rank=2, target_modules=["layers.0", "layers.4"])
    adapted = model(strategy, optimizer=lambda p: torch.optim.AdamW(p, lr=0.05))
    adapted.build(data().spec())
    before = copied(adapted)
    run = trainer(4, limit_val_batches=1.0, val_check_interval=2)
    run.fit(adapted, data())
    moved = {name for name in changed(adapted, before) if name.startswith("network.")}
    assert moved == {name for name in before if "lora_" in name or name.startswith("network.task.")}
    assert len([name for name in moved if "lora_" in name]) == 4
    assert [group["name"] for group in run.optimizers[0].param_groups] == ["backbone", "head"]
    strategy.hold(adapted.network.backbone.train(), [], 0.0)
    assert not adapted.network.backbone.layers[1].training
    assert adapted.network.backbone.layers[3].training


def test_adapters_are_drawn_from_the_seed():
    weights = []
    for _ in range(2):
        adapted = model(LoRA(rank=2, target_modules=["layers.0"]))
        torch.rand(3)  # what else draws makes no difference
        adapted.build(data().spec())
        weights.append(adapted.network.backbone.layers[0].lora_A["default"].weight)
    assert torch.equal(*weights)


def test_float64_and_dropout():
    backbone = Deep(dropout=0.0).double()
    strategy = LoRA(rank=2, dropout=0.5, target_modules=["layers.4"])
    strategy.prepare(backbone)
    assert {p.dtype for p in backbone.parameters()} == {torch.float64}
    shaken(backbone)
    strategy.hold(backbone.train(), [], 0.0)
    x = torch.rand(4, 8, dtype=torch.float64)
    assert not torch.equal(backbone(x), backbone(x))
    assert torch.equal(backbone.eval()(x), backbone(x))


def test_pointwise_convolutions_of_efficientnet_by_a_pattern():
    backbone = TimmBackbone("tf_efficientnet_lite0")
    strategy = LoRA(rank=2, target_modules=r"blocks\.6\..*\.conv_pwl?")
    strategy.prepare(backbone)
    assert {name.split(".lora_")[0] for name in trainable(backbone)} == {
        "model.blocks.6.0.conv_pw",
        "model.blocks.6.0.conv_pwl",
    }
    x = torch.rand(2, 3, 32, 32)
    assert backbone(x).requires_grad


def test_layers_behind_one_of_unknown_width_are_adapted():
    backbone = MLP(hidden=(8, 4))
    LoRA(rank=2, target_modules=["layers.2"]).prepare(backbone)
    assert backbone(torch.rand(3, 5)).requires_grad
    assert not backbone.layers[0].weight.requires_grad


def test_a_run_folder_loads_again(tmp_path):
    recipe = yaml.safe_load(RECIPE.replace("2e-3", "0.002"))
    recipe["model"]["finetuning"] = {"class_path": "LoRA", "init_args": {"rank": 2, "target_modules": ["layers.3"]}}
    file = tmp_path / "lora.yaml"
    file.write_text(yaml.safe_dump(recipe | {"runs": str(tmp_path / "runs")}))
    assert main(["fit", "--config", str(file), "--run_id=r"]) == 0
    loaded = tlkit.load(tmp_path / "runs" / "lora" / "r")
    saved = torch.load(tmp_path / "runs" / "lora" / "r" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert any("lora_B" in name and value.any() for name, value in saved.items())
    assert changed(loaded, saved) == set()
    x = torch.rand(3, 1, 16, 16)
    with torch.no_grad():
        merged = LoRA.merged(loaded.network.backbone)
        torch.testing.assert_close(merged(x), loaded.network.backbone(x), rtol=1e-4, atol=1e-5)
    assert merged.state_dict().keys() == ConvNet(channels=[4, 8], hidden=16).state_dict().keys()


@pytest.mark.parametrize("mode", ["adabn", "domain_specific"])
@pytest.mark.parametrize("last", ["source", "target"])
def test_merged_it_is_the_network_for_targets_whatever_the_last_pass_was(mode, last):
    torch.manual_seed(0)
    adapted = Network(Deep(), Classification(), mode)
    LoRA(rank=2, target_modules=["layers.4"]).prepare(adapted.backbone)
    adapted.build(data().spec())
    shaken(adapted.backbone)
    x = torch.randn(9, 8)
    with torch.no_grad():
        adapted.train()(x, "source")
        adapted(x + 4, "target")
        expected = adapted.eval()(x, "target")[0]
        adapted(x, last)
        merged = LoRA.merged(adapted.backbone)
        torch.testing.assert_close(merged(x), expected, rtol=1e-5, atol=1e-5)
    assert merged.state_dict().keys() == Deep().state_dict().keys()
    assert isinstance(adapted.backbone.layers[1], DomainBatchNorm)  # the original is as it was


class Reads(nn.Module):
    """Reads the weight of its layer without calling it, as some vision transformers do."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 6)

    def forward(self, x):
        return self.second(F.linear(x, self.first.weight, self.first.bias))


def test_an_adapter_that_is_never_called_is_found_at_the_first_step():
    with pytest.raises(ConfigurationError, match="into a layer that the backbone never calls"):
        trainer(2).fit(model(LoRA(rank=2, target_modules=["first", "second"]), Reads()), data())
    trainer(2).fit(model(LoRA(rank=2, target_modules=["second"]), Reads()), data())


class NoLayers(nn.Module):
    num_features = 4

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(x)


@pytest.mark.parametrize(
    ("backbone", "target_modules", "message"),
    [
        (
            resnet,
            "all-linear",
            "TimmBackbone has no linear layer for 'all-linear': set target_modules to .* conv1",
        ),
        (resnet, None, "knows no usual place for adapters in TimmBackbone: set target_modules to a list of endings or"),
        (lambda: CNN1d(9), ["0"], r"and convolutions, and CNN1d has none that it could \(TimeConv: .*\): use Full"),
        (
            CNN1d,
            None,
            r"CNN1d has none that it could \(LazyTimeConv, TimeConv: computed in a way of its own\): use Full",
        ),
        (
            lambda: MLP(hidden=(8,)),
            None,
            r"adapt layers.0 of MLP, whose shape is not known before the first batch: give the backbone the width of "
            r"its inputs \(in_features or in_channels\)$",
        ),
        (
            lambda: MLP(hidden=(8, 4)),
            "all-linear",
            r"adapt layers.0 of MLP, whose .*, or set target_modules .* end in 2",
        ),
        (FingerprintNet, ["first"], "cannot adapt first of FingerprintNet, whose shape is not known before the first"),
        (NoLayers, None, "NoLayers has none that it could"),
        (
            lambda: TimmBackbone("mobilenetv3_small_050"),
            ["conv_dw"],
            r"cannot adapt blocks.0.0.conv_dw, .* a convolution in",
        ),
        (vit, ["qvk"], r"unknown ending 'qvk': did you mean 'qkv'"),
        (vit, "qkv", r"'qkv'\) is a pattern for the whole name of a layer, such as 'patch_embed.proj', and fits none"),
        (
            vit,
            "(",
            r"is no regular expression .*: set target_modules to a list of endings or to a pattern",
        ),
        (lambda: nn.Sequential(nn.MultiheadAttention(8, 2)), ["out_proj"], "has none that it could"),
    ],
)
def test_what_cannot_be_adapted(backbone, target_modules, message):
    with pytest.raises(ConfigurationError, match=message):
        LoRA(target_modules=target_modules).prepare(backbone())


@pytest.mark.parametrize("arguments", [{"rank": 0}, {"alpha": 0}, {"alpha": -1}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_arguments_out_of_their_range(arguments):
    with pytest.raises(ConfigurationError, match=rf"LoRA\({next(iter(arguments))}=...\) must be"):
        LoRA(**arguments)


def test_an_empty_list_of_layers():
    with pytest.raises(ConfigurationError, match=r"LoRA\(target_modules=...\) is an empty list, .*: name endings"):
        LoRA(target_modules=[])


def test_without_peft(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigurationError, match=r'needs peft, which is not installed: pip install "tlkit\[lora\]"'):
        LoRA().prepare(vit())
