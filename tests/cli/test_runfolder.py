"""The run folder: names, collisions, what cannot be written, and the files."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.shift import ShiftedBlobs
from tlkit.cli.runfolder import (
    check_splits,
    create_run,
    environment,
    learned_rows,
    write_config,
    write_splits,
    write_summary,
)
from tlkit.data import HoldOut
from tlkit.errors import ConfigurationError


def test_the_id_is_readable_and_runs_of_one_second_differ(tmp_path):
    made = [create_run(tmp_path, "digits/mmd", seed=3) for _ in range(5)]
    assert len(set(made)) == 5
    for run in made:
        assert run.is_dir()
        assert run.parent == tmp_path / "digits" / "mmd"
        assert re.fullmatch(r"\d{8}-\d{6}-seed3(-\d)?", run.name)


def test_two_processes_of_one_second_never_share_a_folder(tmp_path):
    code = "import sys; from tlkit.cli.runfolder import create_run; print(create_run(sys.argv[1], 'r', 0))"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(4)
    ]
    folders = [process.communicate()[0].strip() for process in started]
    assert len(set(folders)) == 4
    assert all(os.path.isdir(folder) for folder in folders)


def test_a_named_run_that_exists_is_not_written_over(tmp_path):
    run = create_run(tmp_path, "mine", 0, "first")
    (run / "summary.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"exists and is not written over: .* or move its folder away"):
        create_run(tmp_path, "mine", 0, "first")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(ConfigurationError, match=r"exists and is not written over.*tlkit fit --resume .*mine/first"):
        create_run(tmp_path, "mine", 0, "first")
    assert sorted(each.name for each in run.iterdir()) == ["checkpoints", "summary.json"]


@pytest.mark.parametrize("recipe", ["", "/etc/passwd", "../up", "a/../../b"])
def test_a_recipe_that_leaves_the_folder_is_refused(tmp_path, recipe):
    with pytest.raises(ConfigurationError, match="relative path"):
        create_run(tmp_path / "runs", recipe, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("run_id", ["", "..", "a/b"])
def test_an_id_that_is_not_one_folder_is_refused(tmp_path, run_id):
    with pytest.raises(ConfigurationError, match="name of one folder"):
        create_run(tmp_path, "mine", 0, run_id)


def test_a_root_that_is_a_file_is_refused_in_words(tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(ConfigurationError, match=r"is a file|can be kept"):
        create_run(tmp_path / "runs", "mine", 0)
    (tmp_path / "mine").write_text("not a folder")
    with pytest.raises(ConfigurationError, match="is a file"):
        create_run(tmp_path, "mine", 0, "first")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that takes no folders")
def test_a_root_that_cannot_be_written_to_is_refused_in_words():
    with pytest.raises(ConfigurationError, match=r"no run can be kept under '/proc/runs'.*can be written to"):
        create_run("/proc/runs", "mine", 0)


def test_config_and_summary_are_whole_files(tmp_path):
    assert write_config(tmp_path, "seed_everything: 0\n").read_text() == "seed_everything: 0\n"
    metrics = {"test/mnist/accuracy": torch.tensor(0.5), "test/usps/accuracy": float("nan")}
    summary = {"seed": 0, "selection": {"monitor": None}, "metrics": metrics, "path": tmp_path}
    text = write_summary(tmp_path, summary).read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "seed": 0,
        "selection": {"monitor": None},
        "metrics": {"test/mnist/accuracy": 0.5, "test/usps/accuracy": None},
        "path": str(tmp_path),
    }
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.yaml", "summary.json"]


def test_the_environment_names_what_a_run_ran_on(tmp_path, monkeypatch):
    found = environment()
    assert set(found) == {"python", "platform", "cpu", "gpus", "packages", "git", "world_size"}
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert {"tlkit", "torch", "lightning", "torchmetrics", "timm"} <= set(found["packages"])
    assert found["world_size"] == 1
    json.dumps(found)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment()["git"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    assert re.fullmatch(r"[0-9a-f]{40}", environment()["git"])
    (tmp_path / "file").write_text("2")
    assert re.fullmatch(r"[0-9a-f]{40}\+changes", environment()["git"])


def test_the_world_size_is_that_of_the_launcher(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert environment()["world_size"] == 8


def test_splits_are_written_by_the_names_of_the_rows(tmp_path):
    class Named(ShiftedBlobs):
        def row_names(self, domain):
            return [f"{domain}-{row}" for row in range(self.sizes[domain])]

    for kind in (ShiftedBlobs, Named):
        data = kind(["still"], ["moved"], labels_per_class={"moved": 2})
        data.setup("fit")
        content = json.loads(write_splits(tmp_path, data).read_text())
        assert content["hold_out"] == {"val_fraction": 0.1, "test_fraction": 0.2, "seed": 0}
        assert set(content["still"]) == {"train", "val", "test"}
        assert len(content["moved"]["labelled"]) == 2 * 3
        assert set(content["moved"]["labelled"]) <= set(content["moved"]["train"])
        rows = [row for split in ("train", "val", "test") for row in content["still"][split]]
        assert len(rows) == len(set(rows)) == data.sizes["still"]
        assert content["still"]["test"][0] == (
            f"still-{data.splits['still']['test'][0]}" if kind is Named else data.splits["still"]["test"][0]
        )


def test_nothing_is_said_to_be_learned_from_a_domain_that_is_only_tested(tmp_path):
    data = ShiftedBlobs(["still"], [], also_test=["moved"])
    data.setup("fit")
    content = json.loads(write_splits(tmp_path, data).read_text())
    assert content["moved"] == {"test": data.splits["moved"]["test"].tolist()}
    assert set(learned_rows(tmp_path)) == {"still"}
    other = ShiftedBlobs([], ["moved"], hold_out=HoldOut(test_fraction=0.4))  # tests on rows that it might have had
    other.setup("fit")
    check_splits(tmp_path, other, "test")


def test_splits_are_written_in_pieces_as_they_would_be_at_once(tmp_path):
    asked = []

    class Many:
        hold_out = HoldOut(seed=3)
        eval_domains, also_test = ("a", 'b"ä'), ()
        labelled = {"a": np.arange(5)}
        splits = {"a": {"train": np.arange(9000), "val": np.arange(0), "reference": np.arange(9000)}}

        def row_names(self, domain):
            asked.append(domain)
            return [f'"{row}' for row in range(9000)]

    text = write_splits(tmp_path, Many()).read_text()
    assert asked == ["a", 'b"ä']  # all names are made each time: not for every piece
    names = Many().row_names("a")
    content = {"hold_out": {"val_fraction": 0.1, "test_fraction": 0.2, "seed": 3}}
    content |= {"a": {"train": names, "val": [], "labelled": names[:5]}, 'b"ä': {}}
    assert text == json.dumps(content, separators=(",", ":")) + "\n"
