"""Shards through the command: written, trained on, tested and predicted."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.data.medical_files import chest_xray
from tests.data.scan_files import office
from tests.data.settings import image_folders
from tests.data.text_files import text_table
from tlkit.cli.main import main
from tlkit.data import ArrayShardDomains, ChestXRay, Digits, FingerprintDomains, ImageShardDomains, write_shards
from tlkit.data.shards.scan import index_of
from tlkit.errors import DataError

MODEL = {
    "backbone": {"class_path": "ConvNet", "init_args": {"in_channels": 3, "image_size": 16, "channels": [4, 8]}},
    "task": "Classification",
    "adaptation": [{"class_path": "MMD"}],
}
TRAINER = {
    "max_steps": 6,
    "val_check_interval": 3,
    "check_val_every_n_epoch": None,
    "log_every_n_steps": 2,
    "accelerator": "cpu",
}


def recipe(folder, name, class_path, **arguments):
    roles = {"sources": ["photo"], "targets": ["sketch"], "batch_size": 4}
    content = {
        "model": MODEL,
        "data": {"class_path": class_path, "init_args": {**roles, **arguments}},
        "trainer": TRAINER,
        "runs": str(folder / "runs"),
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return str(folder / f"{name}.yaml")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write images in folders, and their domains as shards of some images each."""
    folder = tmp_path_factory.mktemp("shards")
    files = recipe(folder, "folders", "ImageFolderDomains", **image_folders(folder / "pictures"), image_size=16)
    words = ["shards", "--config", files, "--out", str(folder / "shards"), "--megabytes=0.03"]
    assert main(words) == 0
    return folder, words


def test_a_run_on_shards(written, capsys):
    folder, _ = written
    assert len(list((folder / "shards" / "photo").glob("*.tar"))) > 2
    mine = recipe(folder, "mine", "ImageShardDomains", root=str(folder / "shards"), image_size=16, window=2)
    assert main(["fit", "--config", mine, "--run_id=r"]) == 0
    run = folder / "runs" / "mine" / "r"
    summary = json.loads((run / "summary.json").read_text())
    assert {"test/photo/accuracy", "test/sketch/accuracy"} <= set(summary["metrics"])
    splits = json.loads((run / "splits.json").read_text())["photo"]
    assert splits["test"][0].startswith("photo-000000.tar#")
    assert sum(len(splits[name]) for name in ("train", "val", "test")) == 40
    assert main(["test", "--config", str(run / "config.yaml")]) == 0
    assert main(["predict", "--config", str(run / "config.yaml")]) == 0
    rows = list(csv.DictReader((run / "predictions" / "sketch.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == json.loads((run / "splits.json").read_text())["sketch"]["test"]
    assert main(["fit", "--config", mine, "--run_id=workers", "--data.num_workers=2"]) == 0
    weights = [
        torch.load(folder / "runs" / "mine" / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("r", "workers")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_what_is_written_says_how_it_is_read_and_is_not_written_over(written, capsys):
    _, words = written
    assert main([*words, "--data.sources=[sketch]", "--data.targets=[]"]) == 2
    assert "sketch exists and is not written over: move it away" in capsys.readouterr().err
    assert main([*words[:4], str(words[4]) + "2"]) == 0
    out = capsys.readouterr().out
    assert f"read by: data: {{class_path: ImageShardDomains, init_args: {{root: {words[4]}2, " in out


def test_all_domains_are_looked_for_before_the_first_is_written(written, capsys):
    _, words = written
    out = f"{words[4]}3"
    assert main([*words[:4], out, "--data.targets=[sketsh]"]) == 2
    assert "targets: unknown domain 'sketsh': did you mean 'sketch'?" in capsys.readouterr().err
    assert not Path(out).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "tlkit shards needs --out DIR"),
        (["--out=x"], "tlkit shards needs --config RECIPE"),
        (["--out=x", "--megabytes=many"], "--megabytes must be a number, got 'many'"),
        (["--out=x", "--megabytes=-1"], "--megabytes must be a number between 0 and 1000000, got '-1'"),
        (["--to=x"], "unknown option of tlkit shards '--to'"),
    ],
)
def test_what_the_command_refuses(words, message, capsys):
    assert main(["shards", *words]) == 2
    assert message in capsys.readouterr().err


def test_what_shards_do_not_hold(tmp_path, capsys):
    roles = {"sources": ["electronics"], "targets": []}
    texts = recipe(tmp_path, "texts", "TextDomains", **{**text_table(tmp_path), **roles, "max_length": 8})
    words = ["shards", "--config", texts, "--out", str(tmp_path / "a")]
    assert main([*words, "--data.labels_per_class=2"]) == 2
    assert "labels_per_class or label_fraction is set for 'electronics'" in capsys.readouterr().err
    assert main(words) == 2
    assert "an image or an array of numbers a row, and domain 'electronics' has a dict" in capsys.readouterr().err
    assert not list(tmp_path.glob("a/**/*"))
    with pytest.raises(DataError, match=r"shards hold classes for labels, and those .* are measured values"):
        write_shards(FingerprintDomains(**office(tmp_path), sources=["old"]), tmp_path / "a")


def test_any_data_module_of_tensors_is_written_as_arrays(tmp_path):
    digits = Digits(sources=["optdigits"], image_size=16, batch_size=8)
    write_shards(digits, tmp_path, megabytes=0.5)
    index = index_of(tmp_path / "optdigits")
    assert (index.kind, index.shape, index.labels) == ("array", (1, 16, 16), tuple("0123456789"))
    shards = ArrayShardDomains(str(tmp_path), ["optdigits"], batch_size=8)
    shards.setup()
    assert list(shards.classes) == list(digits.classes)

    def content(data):
        """Return every row of the domain as bytes with its label, whatever the order."""
        found = []
        for split in ("reference", "test"):
            rows = data.dataset("optdigits", split)
            found += [(np.asarray(x).tobytes(), int(y)) for x, y in (rows[i] for i in range(len(rows)))]
        return sorted(found)

    assert content(shards) == content(digits)


def test_patients_and_the_published_split_go_with_the_images(tmp_path):
    xrays = ChestXRay(**chest_xray(tmp_path / "xrays"), sources=["bacteria"], image_size=16, batch_size=4)
    write_shards(xrays, tmp_path / "shards")
    shards = ImageShardDomains(str(tmp_path / "shards"), ["bacteria"], image_size=16, batch_size=4)
    shards.setup()
    xrays.setup()
    listed, reader = xrays.listing("bacteria"), shards._readers["bacteria"]
    assert set(reader.index.groups) == set(listed.groups)
    assert len(reader.index) == len(listed.paths)
    ours = [reader.read(row)[0] for row in range(len(reader.index))]
    theirs = [path.read_bytes() for path in listed.paths]
    assert sorted(ours) == sorted(theirs)
    # The published test split is the same; validation rows are drawn, by patient.
    rows = [data.splits["bacteria"]["test"] for data in (shards, xrays)]
    assert sorted(ours[row] for row in rows[0]) == sorted(theirs[row] for row in rows[1])
    patients = [set(reader.index.group[shards.splits["bacteria"][split]].tolist()) for split in ("train", "val")]
    assert not patients[0] & patients[1]
