"""A target without labels through the command: fit, test, validate, predict, and what is refused."""

import csv
import json
import shutil

import pandas as pd
import pytest
import yaml

import tlkit
from tests.data.scan_files import office
from tests.data.settings import unlabelled_image_folders
from tests.data.text_files import sentences
from tlkit.cli.main import main

TRAINER = {
    "max_steps": 6,
    "val_check_interval": 3,
    "check_val_every_n_epoch": None,
    "log_every_n_steps": 2,
    "accelerator": "cpu",
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Texts of a shop with labels, of a forum without, and letters without that come later."""
    folder = tmp_path_factory.mktemp("unlabelled")
    rows = [(*row, "shop") for row in sentences("shop", 40)]
    rows += [(text, "", name) for name, count in (("forum", 30), ("letters", 12)) for text, _ in sentences(name, count)]
    pd.DataFrame(rows, columns=["text", "label", "domain"]).to_csv(folder / "mine.csv", index=False)
    arguments = {"path": str(folder / "mine.csv"), "sources": ["shop"], "targets": ["forum"]}
    content = {
        "model": {
            "backbone": {"class_path": "MLP", "init_args": {"hidden": [8]}},
            "task": "Classification",
            "adaptation": [{"class_path": "MCC"}],
        },
        "data": {"class_path": "TextDomains", "init_args": {**arguments, "words": 20, "batch_size": 4}},
        "trainer": TRAINER,
        "runs": str(folder / "runs"),
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    return folder / "mine.yaml"


@pytest.fixture(scope="module")
def run(recipe):
    assert main(["fit", "--config", str(recipe), "--run_id=r"]) == 0
    return recipe.parent / "runs" / "mine" / "r"


def test_fit_chooses_without_labels_and_shows_no_figure_of_the_target(recipe, caplog, capsys):
    assert main(["fit", "--config", str(recipe)]) == 0
    said = "domain 'forum' has no labels: it is not tested and has no oracle/ scores; tlkit predict writes the"
    assert caplog.text.count(said) == 1  # not again before the test
    out = capsys.readouterr().out
    assert "│ shop " in out
    assert "forum" not in out


def test_the_summary_and_the_log_have_no_figure_of_the_target(run):
    summary = json.loads((run / "summary.json").read_text())
    assert {"test/shop/accuracy", "test/shop/recall/positive"} < set(summary["metrics"])
    assert all(name.startswith("test/shop/") for name in summary["metrics"])
    assert summary["selection"]["monitor"] == "selection/mutual_information"
    assert summary["selection"]["score"] is not None
    with (run / "metrics.csv").open() as stream:
        names = next(csv.reader(stream))
    assert "val/forum/mutual_information" in names
    assert not [name for name in names if name.startswith("oracle/")]
    assert tlkit.load(run).data_spec.classes == ("negative", "positive")


@pytest.mark.parametrize("command", ["test", "validate"])
def test_an_evaluation_leaves_it_out_and_says_so(run, command, caplog, capsys):
    assert main([command, "--config", str(run / "config.yaml")]) == 0
    assert "domain 'forum' has no labels: it is not tested" in caplog.text
    out = capsys.readouterr().out
    assert ("forum" in out) == (command == "validate")  # where its mutual information stands
    assert "sealed" not in out


def test_predictions_are_of_all_rows_of_what_cannot_be_tested(run, caplog):
    assert main(["predict", "--config", str(run / "config.yaml"), "--data.also_test=[letters]"]) == 0
    assert "no labels" not in caplog.text
    counts = {}
    for name in ("shop", "forum", "letters"):
        with (run / "predictions" / f"{name}.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        counts[name] = len(rows)
        assert {row["class"] for row in rows} <= {"negative", "positive"}
    assert counts == {"shop": 8, "forum": 30, "letters": 12}
    assert [row["name"] for row in rows] == [f"line {line}" for line in range(72, 84)]  # those of the letters, in order


def test_one_text_that_came_later_is_predicted(run, recipe, tmp_path, caplog):
    run = shutil.copytree(run, tmp_path / "r", ignore=shutil.ignore_patterns("predictions"))
    late = tmp_path / "late.csv"
    late.write_text((recipe.parent / "mine.csv").read_text() + "a fine one,,mail\n")
    arguments = [f"--data.path={late}", "--data.also_test=[mail]"]
    assert main(["predict", "--config", str(run / "config.yaml"), *arguments]) == 0
    with (run / "predictions" / "mail.csv").open() as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == ["line 84"]
    assert "whether a test row of a domain with labels was learned from" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.sources=[forum]", "--data.targets=[shop]"], "sources: domain 'forum' has no labels, and a source is"),
        (["--data.label_fraction={forum: 0.5}"], "label_fraction names domain 'forum', which has no labels: leave it"),
        (["--data.sources=[]"], "data.sources is empty and no target has labels to train on (data.labels"),
    ],
)
def test_what_needs_its_labels_is_refused(recipe, arguments, message, capsys):
    before = sorted(recipe.parent.rglob("*"))
    assert main(["fit", "--config", str(recipe), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert sorted(recipe.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "task",
    [
        {"class_path": "Hashing", "init_args": {"bits": 16}},
        {"class_path": "Diagnosis", "init_args": {"positive": ["cat"]}},
    ],
    ids=lambda task: task["class_path"],
)
def test_tasks_that_look_at_the_source_again(task, tmp_path):
    """A data base of codes and a threshold come from the sources."""
    files = unlabelled_image_folders(tmp_path / "images")
    content = {
        "model": {
            "backbone": {"class_path": "ConvNet", "init_args": {"in_channels": 3, "channels": [4, 8], "hidden": 16}},
            "task": task,
            "adaptation": [{"class_path": "MCC"}],
        },
        "data": {
            "class_path": "ImageFolderDomains",
            "init_args": {**files, "sources": ["photo"], "targets": ["sketch"], "image_size": 16, "batch_size": 4},
        },
        "trainer": TRAINER,
        "runs": str(tmp_path / "runs"),
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(tmp_path / "mine.yaml"), "--run_id=r"]) == 0
    folder = tmp_path / "runs" / "mine" / "r"
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert metrics
    assert not [name for name in metrics if "sketch" in name]
    assert main(["predict", "--config", str(folder / "config.yaml")]) == 0
    with (folder / "predictions" / "sketch.csv").open() as stream:
        names = [row["name"] for row in csv.DictReader(stream)]
    assert sorted(names) == sorted(
        path.relative_to(tmp_path / "images").as_posix() for path in (tmp_path / "images" / "sketch").glob("*.png")
    )


def test_positions_of_a_phone_that_nobody_surveyed_with(tmp_path, capsys):
    table = office(tmp_path)["table"]
    frame = pd.read_csv(table.path)
    frame.loc[frame["phone"] == "new", ["x_m", "y_m"]] = None
    frame.to_csv(table.path, index=False)
    content = {
        "model": {
            "backbone": {"class_path": "FingerprintNet", "init_args": {"width": 8}},
            "task": "PlaceRegression",
            "adaptation": [{"class_path": "CORAL"}],
            "batch_norm": "adabn",
        },
        "data": {
            "class_path": "FingerprintDomains",
            "init_args": {"table": vars(table), "sources": ["old"], "targets": ["new"], "batch_size": 8},
        },
        "trainer": TRAINER,
        "runs": str(tmp_path / "runs"),
    }
    (tmp_path / "office.yaml").write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(tmp_path / "office.yaml"), "--run_id=r"]) == 0
    folder = tmp_path / "runs" / "office" / "r"
    summary = json.loads((folder / "summary.json").read_text())
    assert {name.split("/")[1] for name in summary["metrics"]} == {"old"}
    assert summary["selection"]["monitor"] == "selection/source_error_mean"
    assert main(["predict", "--config", str(folder / "config.yaml")]) == 0
    with (folder / "predictions" / "new.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 60
    assert all(float(row["x_m"]) == float(row["x_m"]) for row in rows)
    # Where nobody has surveyed at all, the places and their scale are those that were learned.
    (folder / "predictions").rename(folder / "before")
    assert main(["predict", "--config", str(folder / "config.yaml"), "--data.sources=[]"]) == 0
    assert (folder / "predictions" / "new.csv").read_text() == (folder / "before" / "new.csv").read_text()
    alone = ["--data.sources=[]", "--model.adaptation=[MCC]", "--model.batch_norm=joint", f"--start_from={folder}"]
    capsys.readouterr()
    assert main(["fit", "--config", str(tmp_path / "office.yaml"), *alone]) == 2
    assert "nothing says which checkpoint is best: PlaceRegression has no score" in capsys.readouterr().err
    alone += ["--trainer.limit_val_batches=0", "--trainer.val_check_interval=null", "--run_id=alone"]
    assert main(["fit", "--config", str(tmp_path / "office.yaml"), *alone]) == 0
    one, two = (
        json.loads((tmp_path / "runs" / "office" / name / "summary.json").read_text()) for name in ("r", "alone")
    )
    assert one["selection"]["monitor"] == "selection/source_error_mean"
    assert two["selection"]["monitor"] is None
