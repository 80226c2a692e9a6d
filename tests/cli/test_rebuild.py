import pytest
import torch

import tlkit
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
