import csv
import json
import re
import shutil

import pandas as pd
import pytest
import torch
import yaml

from tests.data.image_sets import noise
from tests.data.recording_files import series_table
from tests.data.scan_files import office_frame
from tests.data.settings import image_folders
from tests.data.text_files import sentences
from tlkit.cli.evaluation import _file_names, _write
from tlkit.cli.main import main
from tlkit.cli.unseen import Unseen
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


def test_a_run_whose_recipe_says_what_is_kept_is_evaluated_too(trained, capsys):
    words = ["--trainer.callbacks=ModelSelection", "--trainer.callbacks.monitor=selection/source_accuracy"]
    for command in ("test", "validate"):
        assert main([command, "--config", str(trained.folder / "config.yaml"), *words]) == 0
        assert "optdigits" in capsys.readouterr().out


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


def test_a_file_in_the_place_of_the_predictions_is_found_before_predicting(run, monkeypatch, capsys):
    monkeypatch.setattr("lightning.Trainer.predict", None)
    (run / "predictions").write_text("mine")
    assert main(["predict", "--config", str(run / "config.yaml")]) == 2
    assert f"{run / 'predictions'} is the folder of the predictions, and there is a file" in capsys.readouterr().err
    assert (run / "predictions").read_text() == "mine"


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


@pytest.mark.parametrize(("command", "split"), [("test", "test"), ("validate", "validate"), ("predict", "test")])
def test_rows_that_were_learned_from_are_not_scored(trained, command, split, capsys):
    words = ["--config", str(trained.folder / "config.yaml"), "--data.hold_out.seed=1"]
    assert main([command, *words]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(rf"[1-9]\d* of the \d+ rows of domain '\w+' to {split} on, '\d+' the first, were learned", error)
    assert "splits.json" in error
    assert not (trained.folder / "predictions").exists()


def test_other_groups_than_those_of_the_run_are_no_way_around_it(tmp_path, recipe, monkeypatch, capsys, caplog):
    files = image_folders(tmp_path / "images")
    for number in range(2):  # images of later, named in another way
        noise(tmp_path / "images" / "later" / f"new {chr(97 + number)}.png", number)
    small = {"class_path": "ConvNet", "init_args": {"in_channels": 3, "channels": [4], "hidden": 8}}
    roles = {"sources": ["photo"], "targets": ["sketch"], "image_size": 16, "batch_size": 4}
    data = {"class_path": "ImageFolderDomains", "init_args": {**files, **roles, "group_pattern": r"^(\d)"}}
    content = {**recipe, "data": data, "model": {**recipe["model"], "backbone": small}, "runs": str(tmp_path / "runs")}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(tmp_path / "own.yaml"), "--run_id=x"]) == 0
    run = tmp_path / "runs" / "own" / "x"
    evaluated = ["--config", str(run / "config.yaml")]
    for command in ("test", "predict"):
        assert main([command, *evaluated, "--data.group_pattern=null"]) == 2
        assert "were learned from in the run" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["test", *evaluated, "--data.root=images", "--data.hold_out.seed=3"]) == 2  # the same folder
    assert "were learned from in the run" in capsys.readouterr().err
    assert main(["predict", *evaluated, "--data.also_test=[later]"]) == 0
    assert "matches none of the 2 files of 'later', such as 'new a.png': each is taken for a group of its own" in (
        caplog.text
    )
    with (run / "predictions" / "later.csv").open() as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == ["later/new a.png", "later/new b.png"]
    assert "is not checked" not in caplog.text
    shutil.copytree(tmp_path / "images", tmp_path / "copy")
    assert main(["test", *evaluated, f"--data.root={tmp_path / 'copy'}"]) == 0
    assert f"tlkit test: whether a row to test on was learned from in {run} is not checked" in caplog.text
    assert "data.root differ" in caplog.text


def test_which_arguments_leave_the_rows_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = {"path": "file", "label": "finding", "group": "patient"}
    old = {"class_path": "A", "init_args": {"table": "scans.csv", "columns": columns, "batch_size": 8}}
    new = {"table": str(tmp_path / "scans.csv"), "columns": {**columns, "group": None}, "image_size": 9}
    for changed, differ in (
        ({}, []),
        ({"table": "others.csv"}, ["data.table"]),
        ({"table": {"path": "others.csv", "group": None}}, ["data.table"]),
        ({"columns": {**columns, "label": "other"}}, ["data.columns"]),
        ({"threshold": 3}, ["data.threshold"]),
    ):
        other = {"class_path": "A", "init_args": new | changed}
        assert Unseen(tmp_path, {"data": old}, {"data": other}).differ == differ


@pytest.mark.parametrize("content", ['{"hold_out":{"val_', "[]", '{"mnist":[1]}'])
def test_damaged_splits_are_told_in_words(run, content, capsys):
    (run / "splits.json").write_text(content)
    assert main(["test", "--config", str(run / "config.yaml")]) == 2
    assert f"{run / 'splits.json'} is damaged, so whether the run learned from" in capsys.readouterr().err


def test_without_a_checkpoint(recipe_file, capsys):
    assert main(["test", "--config", str(recipe_file)]) == 2
    assert "--ckpt_path: not given, and there is no" in capsys.readouterr().err


def test_checkpoint_of_other_classes(trained, tmp_path, capsys):
    checkpoint = torch.load(trained.folder / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["tlkit"]["data"]["classes"][0] = "zero"
    torch.save(checkpoint, tmp_path / "other.ckpt")
    assert main(["test", "--config", str(trained.recipe), "--ckpt_path", str(tmp_path / "other.ckpt")]) == 2
    assert "the model of the checkpoint was built for the classes ['zero', '1'" in capsys.readouterr().err


def test_checkpoint_of_other_words_or_access_points(tmp_path, recipe, capsys):
    def started(command, model, data, *words):
        file = tmp_path / "other.yaml"
        changed = {"model": {**recipe["model"], **model}, "data": data, "runs": str(tmp_path / "runs")}
        file.write_text(yaml.safe_dump(recipe | changed))
        return main([command, "--config", str(file), *words])

    (tmp_path / "recordings").mkdir()
    rows = [(*row, domain) for domain in ("dvd", "electronics", "kitchen") for row in sentences(domain, 40)]
    pd.DataFrame(rows, columns=["text", "label", "domain"]).to_csv(tmp_path / "mine.csv", index=False)
    roles = {"sources": ["electronics"], "targets": ["dvd"], "batch_size": 8}
    texts = {"class_path": "TextDomains", "init_args": {**roles, "path": str(tmp_path / "mine.csv"), "words": 15}}
    mlp = {"backbone": {"class_path": "MLP", "init_args": {"hidden": [4]}}, "adaptation": []}
    assert started("fit", mlp, texts, "--run_id=t") == 0
    best = f"--ckpt_path={tmp_path}/runs/other/t/checkpoints/best.ckpt"
    assert started("test", mlp, texts, best, "--data.also_test=[kitchen]") == 0
    assert started("test", mlp, texts, best, "--data.targets=[kitchen]") == 0  # the words are those of the training
    changed = [(*row, domain) for domain in ("dvd", "electronics") for row in sentences(f"other {domain}", 40)]
    pd.DataFrame(changed, columns=["text", "label", "domain"]).to_csv(tmp_path / "mine.csv", index=False)
    # Without the run's splits.json, which would be compared first.
    alone = shutil.copy(best.removeprefix("--ckpt_path="), tmp_path / "alone.ckpt")
    capsys.readouterr()
    assert started("test", mlp, texts, f"--ckpt_path={alone}") == 2
    error = capsys.readouterr().err
    assert "built for 15 named columns of x, and the 15 of the data are others: " in error
    assert re.search(r"(\d) missing \('\w+', '\w+', '\w+', ...\) and \1 new \('\w+', ", error), error
    assert "data.also_test" in error

    table = {"path": str(tmp_path / "office.csv"), "rssi": "AP*", "x": "x_m", "y": "y_m", "domain": "phone"}
    roles = {"sources": ["old"], "targets": ["new"], "batch_size": 8}
    scans = {"class_path": "FingerprintDomains", "init_args": {**roles, "table": table}}
    net = {"backbone": "FingerprintNet", "task": "Regression", "adaptation": []}
    office_frame().to_csv(tmp_path / "office.csv", index=False)
    assert started("fit", net, scans, "--run_id=w") == 0
    capsys.readouterr()
    # A second export of the same scans: the access points in another order.
    office_frame()[["AP1", "AP0", *office_frame().columns[2:]]].to_csv(tmp_path / "office.csv", index=False)
    assert started("test", net, scans, f"--ckpt_path={tmp_path}/runs/other/w/checkpoints/best.ckpt") == 2
    assert "in another order, column 0 was 'AP0' and is 'AP1'" in capsys.readouterr().err
    office_frame().drop(columns="AP4").to_csv(tmp_path / "office.csv", index=False)
    assert started("test", net, scans, f"--ckpt_path={tmp_path}/runs/other/w/checkpoints/best.ckpt") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "built for 6 named columns of x, and the 5 of the data are others: 1 missing ('AP4')." in error

    files = series_table(tmp_path / "recordings")
    windows = {"length": 32, "stride": 16}
    roles = {"sources": ["hip"], "targets": ["wrist"], "batch_size": 8}
    waves = {"class_path": "SeriesDomains", "init_args": {**roles, **files, "windows": windows}}
    cnn = {"backbone": "CNN1d", "adaptation": []}
    assert started("fit", cnn, waves, "--run_id=s") == 0
    capsys.readouterr()
    best = f"--ckpt_path={tmp_path}/runs/other/s/checkpoints/best.ckpt"
    assert started("test", cnn, waves, best, "--data.signals.channels=raw+magnitude") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "built for 3 named columns of x, and the 4 of the data are others: 1 new ('" in error
    assert "signals.channels" in error


OWN = """
import torch
from torch.utils.data import TensorDataset
from tlkit.data import DomainDataModule


class EvenAndOdd(DomainDataModule):
    domains, classes = ["low", "high"], ["even", "odd"]

    def row_names(self, domain):
        return [f"{domain} {number}" for number in range(40)]

    def dataset(self, domain, split):  # divides in its own way
        x = torch.arange(40.0)[:, None] + (100 if domain == "high" else 0)
        rows = slice(30, 40) if split == "test" else slice(0, 30)
        return TensorDataset(x[rows], torch.arange(40)[rows] % 2)
"""


def run_of_numbers(folder, recipe, code, roles):
    """Write a data module of one's own to a module of its own name, train on it, and return the run's folder."""
    module = f"my_numbers_{folder.name}"
    (folder / f"{module}.py").write_text(code)
    backbone = {"class_path": "MLP", "init_args": {"hidden": [4]}}
    data = {"class_path": f"{module}.EvenAndOdd", "init_args": {**roles, "batch_size": 4}}
    content = {**recipe, "model": {**recipe["model"], "backbone": backbone}, "data": data, "runs": str(folder / "r")}
    (folder / "own.yaml").write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(folder / "own.yaml"), "--run_id=x"]) == 0
    return folder / "r" / "own" / "x"


def test_domains_whose_files_would_have_one_name_have_a_file_each(tmp_path, recipe, monkeypatch, capsys, caplog):
    monkeypatch.syspath_prepend(str(tmp_path))
    code = OWN.replace('"low", "high"', '"a b", "a_b"').replace('"high"', '"a_b"')
    run = run_of_numbers(tmp_path, recipe, code, {"sources": ["a b"], "targets": ["a_b"]})
    capsys.readouterr()
    assert main(["predict", "--config", str(run / "config.yaml")]) == 0
    written = [str(run / "predictions" / f"a_b_{number}.csv") for number in (0, 1)]
    assert capsys.readouterr().out.split() == written
    assert "a_b_0 is domain 'a b', a_b_1 is domain 'a_b'" in caplog.text
    first, second = (file.read_text() for file in sorted((run / "predictions").iterdir()))
    assert first != second  # the inputs of the second are 100 more


@pytest.mark.parametrize(
    ("domains", "searched", "names"),
    [
        (["day/left", "x.reference"], ["day/left"], ["day_left", "x.reference"]),
        (["x", "x.reference"], ["x"], ["x_0", "x.reference_1"]),
        (["x", "x.reference"], [], ["x", "x.reference"]),
        (["Night", "night", "day"], [], ["Night_0", "night_1", "day_2"]),
    ],
)
def test_no_two_files_have_one_name(domains, searched, names):
    assert _file_names(domains, searched) == dict(zip(domains, names, strict=True))


def test_a_data_module_that_divides_its_rows_itself_is_predicted(tmp_path, recipe, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    run = run_of_numbers(tmp_path, recipe, OWN, {"sources": ["low"], "targets": ["high"]})
    capsys.readouterr()
    assert main(["predict", "--config", str(run / "config.yaml")]) == 0
    with (run / "predictions" / "high.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["index"] for row in rows] == [str(number) for number in range(10)]
    assert "name" not in rows[0]  # which row of its own the first is, it does not say


def test_packed_codes_are_one_column_in_hexadecimal(tmp_path):
    codes = torch.tensor([[0, 255, 16], [171, 1, 2]], dtype=torch.uint8)  # as many bytes as there are classes
    batch = {"index": torch.tensor([1, 0]), "domain": torch.zeros(2), "prediction": torch.tensor([2, 0]), "code": codes}
    _write(tmp_path / "p.csv", batch, DataSpec(("a",), ("a",), (), classes=("x", "y", "z")), ["first", "second"])
    with (tmp_path / "p.csv").open() as stream:
        first, second = csv.DictReader(stream)
    assert first == {"index": "0", "name": "first", "prediction": "0", "class": "x", "code": "ab0102"}
    assert second["code"] == "00ff10"
