"""Every recipe that comes with tlkit runs through the real command, and its header is true."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from tlkit.cli.main import main

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
NAMES = sorted(file.relative_to(RECIPES).with_suffix("").as_posix() for file in RECIPES.rglob("*.yaml"))
every_recipe = pytest.mark.parametrize("name", NAMES)
STEPS = 4


def header(name):
    """Return the comment that a recipe begins with, without its marks."""
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    return re.sub(r"^# ?", "", re.match(r"(?:#.*\n)+", text)[0], flags=re.MULTILINE)


def entry(name, key):
    """Return what the header says under ``key:``, its continuation lines joined."""
    found = re.search(rf"^{key}: +((?:.+\n(?: +.+\n)*))", header(name), flags=re.MULTILINE)
    assert found, f"the header of {name} has no line '{key}:'"
    return " ".join(found[1].split())


def test_there_are_recipes_and_all_are_yaml():
    assert NAMES
    assert not [file for file in RECIPES.rglob("*") if file.is_file() and file.suffix != ".yaml"]


@every_recipe
def test_the_header_says_what_it_is_what_it_needs_and_how_it_was_chosen(name):
    title, second, *_ = header(name).splitlines()
    assert title.endswith(".")
    assert second == ""
    for key in ("What", "Data", "Chosen"):
        assert len(entry(name, key)) > 40


@every_recipe
@pytest.mark.parametrize("key", ["Run", "Vary"])
def test_the_commands_in_the_header_are_of_this_recipe_and_are_understood(name, key, capsys):
    program, command, *words = shlex.split(entry(name, key))
    assert (program, command, words[:2]) == ("tlkit", "fit", ["--config", name])
    assert (key == "Vary") == (len(words) > 2)
    assert main([command, *words, "--print_config"]) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert resolved["recipe"] == name
    assert resolved["trainer"]["max_steps"] > 0


@every_recipe
def test_it_runs_and_leaves_a_whole_run_folder(name, tmp_path, capsys):
    words = [
        "--trainer.accelerator=cpu",
        f"--trainer.max_steps={STEPS}",
        f"--trainer.val_check_interval={STEPS // 2}",
        "--trainer.log_every_n_steps=1",
        "--run_id=r",
        f"--runs={tmp_path}",
    ]
    assert main(["fit", "--config", name, *words]) == 0
    run = tmp_path / name / "r"
    assert capsys.readouterr().out.splitlines()[-1] == str(run)
    left = {
        "config.yaml",
        "metrics.csv",
        "splits.json",
        "summary.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    }
    assert {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} == left
    summary = json.loads((run / "summary.json").read_text())
    config = yaml.safe_load((run / "config.yaml").read_text())
    roles = config["data"]["init_args"]
    domains = [*roles["sources"], *(roles["targets"] or []), *(roles["also_test"] or [])]
    assert {key.split("/")[1] for key in summary["metrics"]} == set(domains)
    assert summary["train"]["steps"] == STEPS
    assert summary["selection"]["uses_target_labels"] is False
    losses = [each["class_path"].rpartition(".")[2].lower() for each in config["model"]["adaptation"]]
    with (run / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    logged = {key for row in rows for key, value in row.items() if value}
    expected = {f"train/{loss}{part}" for loss in losses for part in ("", "/weight")}
    if "dann" in losses:
        expected |= {"train/dann/discriminator_accuracy", "train/dann/reversal"}
    assert expected | {"train/task", "train/accuracy", "train/samples_per_second", "lr/backbone", "lr/head"} <= logged


@pytest.mark.slow
def test_the_main_job_adapts(tmp_path):
    """What the quickstart promises, at one seed: 86 % on the unlabelled domain, 15 points over source-only."""
    accuracy = {}
    for name in ("source_only", "mmd"):
        recipe = f"digits/mnist_to_optdigits_{name}"
        assert main(["fit", "--config", recipe, "--run_id=r", f"--runs={tmp_path}", "--trainer.accelerator=cpu"]) == 0
        summary = json.loads((tmp_path / recipe / "r" / "summary.json").read_text())
        accuracy[name] = summary["metrics"]["test/optdigits/accuracy"]
    assert accuracy["mmd"] >= 0.86
    assert accuracy["mmd"] - accuracy["source_only"] >= 0.15
