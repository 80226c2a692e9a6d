import csv
import json
import shutil

import pytest
import torch

from tlkit.cli.evaluation import _write
from tlkit.cli.main import main
from tlkit.types import DataSpec


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the finished run, to write predictions into."""
    return shutil.copytree(trained.folder, tmp_path / "run")


def test_test_repeats_the_summary(trained, capsys):
    before = sorted(trained.folder.rglob("*"))
    assert main(["test", "--config", str(trained.folder / "config.yaml")]) == 0
    out = capsys.readouterr().out
    metrics = json.loads((trained.folder / "summary.json").read_text())["metrics"]
    for domain in ("mnist", "optdigits"):
        row = next(line for line in out.splitlines() if domain in line)
        assert f"{metrics[f'test/{domain}/accuracy']:.3f}" in row
    assert sorted(trained.folder.rglob("*")) == before


def test_validate_has_a_row_a_domain(trained, capsys):
    last = trained.folder / "checkpoints" / "last.ckpt"
    assert main(["validate", "--config", str(trained.recipe), "--ckpt_path", str(last)]) == 0
    out = capsys.readouterr().out
    assert "mutual_information" in out
    assert "validation splits" in out
    *_, oracle, checkpoint = out.splitlines()
    assert oracle == "accuracy, macro_f1 of a target: computed with its sealed labels"
    assert checkpoint == f"checkpoint {last}"


def test_predictions_are_right_and_in_order(run, capsys):
    assert main(["predict", "--config", str(run / "config.yaml")]) == 0
    assert capsys.readouterr().out.split() == [str(run / "predictions" / f"{d}.csv") for d in ("mnist", "optdigits")]
    with (run / "predictions" / "optdigits.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["index"]) for row in rows] == list(range(600))
    probabilities = torch.tensor([[float(row[f"probabilities/{c}"]) for c in range(10)] for row in rows])
    assert torch.allclose(probabilities.sum(1), torch.ones(600), atol=1e-5)
    assert [int(row["prediction"]) for row in rows] == probabilities.argmax(1).tolist()
    assert all(row["class"] == row["prediction"] for row in rows)  # the classes of digits are their names
    from tlkit.data import Digits

    data = Digits(sources=["mnist"], targets=["optdigits"])
    data.setup("test")
    labels = [int(row[1]) for row in data.dataset("optdigits", "test")]
    accuracy = sum(int(row["prediction"]) == y for row, y in zip(rows, labels, strict=True)) / 600
    summary = json.loads((run / "summary.json").read_text())
    assert accuracy == pytest.approx(summary["metrics"]["test/optdigits/accuracy"], abs=1e-6)


def test_predictions_are_not_written_over(run, capsys):
    (run / "predictions").mkdir()
    mine = run / "predictions" / "optdigits.csv"
    mine.write_text("mine")
    assert main(["predict", "--config", str(run / "config.yaml")]) == 2
    assert "exists and is not written over" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert [path.name for path in mine.parent.iterdir()] == ["optdigits.csv"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.backbone.hidden=8"], "the checkpoint is of another model"),
        (["--ckpt_path=nowhere.ckpt"], "there is no file 'nowhere.ckpt'"),
        (["--ckpt_path=pyproject.toml"], "cannot be read"),
        (["--ckpt=x"], "unknown option of tlkit test '--ckpt': did you mean '--ckpt_path'"),
    ],
)
def test_refused(trained, words, message, capsys):
    assert main(["test", "--config", str(trained.folder / "config.yaml"), *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_without_a_checkpoint(recipe_file, capsys):
    assert main(["test", "--config", str(recipe_file)]) == 2
    assert "--ckpt_path: not given, and there is no" in capsys.readouterr().err


def test_checkpoint_of_other_classes(trained, tmp_path, capsys):
    checkpoint = torch.load(trained.folder / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["tlkit"]["data"]["classes"][0] = "zero"
    torch.save(checkpoint, tmp_path / "other.ckpt")
    assert main(["test", "--config", str(trained.recipe), "--ckpt_path", str(tmp_path / "other.ckpt")]) == 2
    assert "knows the classes ['zero', '1'" in capsys.readouterr().err


def test_packed_codes_are_one_column_in_hexadecimal(tmp_path):
    codes = torch.tensor([[0, 255, 16], [171, 1, 2]], dtype=torch.uint8)  # as many bytes as there are classes
    batch = {"index": torch.tensor([1, 0]), "domain": torch.zeros(2), "prediction": torch.tensor([2, 0]), "code": codes}
    _write(tmp_path / "p.csv", [batch], DataSpec(("a",), ("a",), (), classes=("x", "y", "z")), ["first", "second"])
    with (tmp_path / "p.csv").open() as stream:
        first, second = csv.DictReader(stream)
    assert first == {"index": "0", "name": "first", "prediction": "0", "class": "x", "code": "ab0102"}
    assert second["code"] == "00ff10"
