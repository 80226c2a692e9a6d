import json
from pathlib import Path

import pytest
import torch
import yaml

import tlkit
from tests.data.text_files import text_table
from tlkit.backbones import TimmBackbone
from tlkit.cli.main import main
from tlkit.cli.rebuild import load
from tlkit.errors import CheckpointError


@pytest.fixture
def checkpoint(trained):
    return torch.load(trained.folder / "checkpoints" / "best.ckpt", weights_only=True)


def saved(checkpoint, tmp_path):
    path = tmp_path / "some.ckpt"
    torch.save(checkpoint, path)
    return path


def test_from_a_run_and_from_a_checkpoint(trained, checkpoint):
    model = tlkit.load(trained.folder)
    assert not model.training
    assert model.data_spec.sources == ("mnist",)
    assert model.data_spec.num_classes == 10
    for key, value in checkpoint["state_dict"].items():
        assert torch.equal(model.state_dict()[key], value), key
    again = load(str(trained.folder / "checkpoints" / "best.ckpt"))
    x = torch.rand(3, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(x), again(x))


def test_the_recipe_travels_on(trained, checkpoint):
    model = load(trained.folder)
    assert model.recipe == checkpoint["tlkit"]["recipe"]
    assert model.recipe["model"]["optimizer"]["init_args"]["lr"] == 0.001  # the override, not the file's value


LAZY = """\
from torch import nn


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_features = 6
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(6), nn.ReLU())

    def forward(self, x):
        return self.layers(x)
"""


def test_a_lazy_layer_gets_its_shape_from_the_checkpoint(recipe_file, monkeypatch):
    (recipe_file.parent / "lazy_parts.py").write_text(LAZY)
    monkeypatch.chdir(recipe_file.parent)
    monkeypatch.syspath_prepend(recipe_file.parent)
    assert main(["fit", "--config", str(recipe_file), "--run_id=r", "--model.backbone=lazy_parts.Lazy"]) == 0
    model = load(recipe_file.parent / "runs" / "tiny" / "r")
    assert model.network.backbone.layers[1].weight.shape == (6, 16 * 16)
    assert model(torch.rand(3, 1, 16, 16)).shape == (3, 10)


def fitted(recipe, tmp_path, **parts):
    """Train with other parts of the recipe and return the run's folder."""
    changed = {**recipe, "data": parts.pop("data", recipe["data"]), "runs": str(tmp_path / "runs")}
    changed["model"] = {**recipe["model"], **parts}
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(changed))
    assert main(["fit", "--config", str(file), "--run_id=r"]) == 0
    return tmp_path / "runs" / "own" / "r"


def repeats_its_test(run, capsys):
    capsys.readouterr()
    assert main(["test", "--config", str(run / "config.yaml")]) == 0
    accuracy = json.loads((run / "summary.json").read_text())["metrics"]["test/mnist/accuracy"]
    return f"{accuracy:.3f}" in capsys.readouterr().out


def test_the_weights_file_of_an_image_backbone_is_not_needed_again(recipe, tmp_path, capsys):
    weights = tmp_path / "weights.pth"
    torch.save(TimmBackbone("test_resnet", in_chans=1).model.state_dict(), weights)
    arguments = {"name": "test_resnet", "in_chans": 1, "pretrained": str(weights)}
    run = fitted(recipe, tmp_path, backbone={"class_path": "TimmBackbone", "init_args": arguments})
    x = torch.rand(3, 1, 16, 16)
    with torch.no_grad():
        before = load(run)(x)
        weights.unlink()
        assert torch.equal(load(run)(x), before)
    assert repeats_its_test(run, capsys)
    assert main(["fit", "--config", str(run / "config.yaml"), "--run_id=again"]) == 2  # a training begins at them
    assert "is no weights file" in capsys.readouterr().err


def test_of_a_text_backbone_only_the_configuration_is_needed_again(recipe, tmp_path):
    transformers = pytest.importorskip("transformers")
    arguments = text_table(tmp_path)
    folder = Path(arguments["tokenizer"])
    config = transformers.BertConfig.from_pretrained(folder)
    transformers.BertModel(config).half().save_pretrained(folder)
    data = {"sources": ["electronics"], "targets": ["dvd"], "batch_size": 8, **arguments}
    run = fitted(
        recipe,
        tmp_path,
        backbone={"class_path": "TransformersBackbone", "init_args": {"name_or_folder": str(folder)}},
        data={"class_path": "TextDomains", "init_args": data},
    )
    x = {"input_ids": torch.tensor([[2, 7, 3], [2, 3, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    with torch.no_grad():
        before = load(run)(x)
        (folder / "model.safetensors").unlink()
        assert torch.equal(load(run)(x), before)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        load(run)
    for part in ("best.ckpt cannot be built here", str(folder), "All weights are in the checkpoint"):
        assert part in str(caught.value)


def test_a_package_that_is_gone_is_named(checkpoint, tmp_path):
    arguments = {"name_or_folder": "package:no_such_model"}
    backbone = {"class_path": "tlkit.backbones.TransformersBackbone", "init_args": arguments}
    checkpoint["tlkit"]["recipe"]["model"]["backbone"] = backbone
    with pytest.raises(CheckpointError, match=r"there is no package 'no_such_model' here\. Install it"):
        load(saved(checkpoint, tmp_path))


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*best\.ckpt"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load(tmp_path / "x.ckpt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a file"])
def test_damaged(tmp_path, content):
    path = tmp_path / "some.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(path)


class Evil:
    def __reduce__(self):
        return exec, ("raise RuntimeError('code ran')",)


def test_a_pickle_runs_no_code(tmp_path):
    with pytest.raises(CheckpointError, match="holds Python objects"):
        load(saved({"state_dict": Evil(), "tlkit": {}}, tmp_path))


def test_of_another_program(tmp_path):
    with pytest.raises(CheckpointError, match="was not written by tlkit"):
        load(saved({"state_dict": {}}, tmp_path))


def test_trained_from_python(checkpoint, tmp_path):
    checkpoint["tlkit"]["recipe"] = None
    with pytest.raises(CheckpointError, match="trained from Python: make the same TransferModule"):
        load(saved(checkpoint, tmp_path))


def test_a_class_outside_its_slot_is_not_built(checkpoint, tmp_path):
    checkpoint["tlkit"]["recipe"]["model"]["backbone"] = {
        "class_path": "subprocess.Popen",
        "init_args": {"args": ["touch", str(tmp_path / "ran")]},
    }
    with pytest.raises(CheckpointError, match=r"subprocess\.Popen cannot be the backbone"):
        load(saved(checkpoint, tmp_path))
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_width(checkpoint, tmp_path):
    checkpoint["tlkit"]["recipe"]["model"]["backbone"]["init_args"]["hidden"] = 8
    with pytest.raises(CheckpointError, match="of another model"):
        load(saved(checkpoint, tmp_path))
