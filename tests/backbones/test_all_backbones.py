"""What holds for every backbone. A new backbone only has to be listed in settings.py."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import tlkit.backbones
from tests.backbones.settings import SETTINGS, Setting
from tlkit.backbones.contract import check_backbone
from tlkit.types import Backbone

every_backbone = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def features(backbone: nn.Module, x: object) -> torch.Tensor:
    with torch.no_grad():
        return backbone.eval()(x)


def test_every_public_backbone_is_in_the_table() -> None:
    public = {getattr(tlkit.backbones, name) for name in tlkit.backbones.__all__}
    assert public == {setting.backbone for setting in SETTINGS}


def test_importing_the_backbones_imports_neither_timm_nor_transformers() -> None:
    code = "import sys, tlkit.backbones; print(sorted({'timm', 'transformers', 'torchvision'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@every_backbone
def test_keeps_the_contract(setting: Setting) -> None:
    backbone = setting.make()
    assert isinstance(backbone, Backbone)
    assert check_backbone(backbone, setting.input()) == backbone.num_features == setting.num_features
    assert backbone.training


@every_backbone
def test_gradient_reaches_every_parameter(setting: Setting) -> None:
    backbone = setting.make()
    out = backbone(setting.input())
    assert out.shape == (3, setting.num_features)
    (out * torch.randn_like(out)).sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@every_backbone
def test_state_dict_round_trip(setting: Setting, tmp_path: Path) -> None:
    first, second, x = setting.make(), setting.make(), setting.input()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert not torch.allclose(features(first, x), features(second, x))
    torch.save(first.state_dict(), tmp_path / "weights.pth")
    second.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    torch.testing.assert_close(features(first, x), features(second, x), rtol=0, atol=0)


@every_backbone
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))], ids=["copy", "pickle"])
def test_can_be_copied_and_pickled(setting: Setting, duplicate) -> None:
    backbone, x = setting.make(), setting.input()
    torch.testing.assert_close(features(duplicate(backbone), x), features(backbone, x), rtol=0, atol=0)


@every_backbone
def test_evaluation_is_deterministic_and_training_drops_out(setting: Setting) -> None:
    backbone, x = setting.make(), setting.input()
    assert torch.equal(features(backbone, x), features(backbone, x))
    backbone.train()
    assert torch.equal(backbone(x), backbone(x)) != setting.dropout


@every_backbone
def test_rows_do_not_depend_on_each_other_in_evaluation(setting: Setting) -> None:
    backbone, x = setting.make(), setting.input()
    row = x[1:2] if isinstance(x, torch.Tensor) else {key: value[1:2] for key, value in x.items()}
    torch.testing.assert_close(features(backbone, row), features(backbone, x)[1:2], rtol=1e-4, atol=1e-5)


@every_backbone
def test_bf16_autocast_stays_near_float32(setting: Setting) -> None:
    backbone, x = setting.make(), setting.input()
    exact = features(backbone, x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = features(backbone, x)
    assert (rounded.float() - exact).norm() < 0.1 * exact.norm()
    with torch.autocast("cpu", torch.bfloat16):
        backbone.train()(x).float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


@every_backbone
def test_float64_is_kept(setting: Setting) -> None:
    x = setting.input()
    x = x.double() if isinstance(x, torch.Tensor) else x
    assert features(setting.make().double(), x).dtype == torch.float64
