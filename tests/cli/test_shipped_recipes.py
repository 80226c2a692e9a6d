"""Every recipe that comes with tlkit runs through the real command, and its header is true."""

import csv
import json
import re
import shlex
from functools import cache, partial
from pathlib import Path

import pytest
import torch.distributed as dist
import yaml

from tests.data.digit_sets import write_mnist, write_svhn, write_usps
from tests.data.image_sets import domainnet, office31, office_home, pacs, visda2017
from tests.data.medical_files import chest_xray, medmnist, oct_scans
from tests.data.recording_files import hhar, sp_sw_har, uci_har, wisdm
from tests.data.scan_files import ujiindoorloc, ujilibrary
from tests.data.text_files import write_reviews, write_tokenizer
from tlkit.cli.main import main

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
LAUNCH = RECIPES / "launch"  # what is in it starts recipes and is none: tests/cli/test_launch_files.py
FILES = sorted(file for file in RECIPES.rglob("*") if file.is_file() and file.parent != LAUNCH)
NAMES = [file.relative_to(RECIPES).with_suffix("").as_posix() for file in FILES]
every_recipe = pytest.mark.parametrize("name", NAMES)


def one_of_each_kind():
    """Return the recipes, those marked slow that differ from one before in domains, share of labels and steps alone."""
    seen, found = set(), []
    for file, name in zip(FILES, NAMES, strict=True):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for part, keys in (
            (content["data"]["init_args"], ("sources", "targets", "also_test", "label_fraction")),
            (content["trainer"], ("max_steps", "val_check_interval", "log_every_n_steps")),
        ):
            for key in keys:
                part.pop(key, None)
        kind = json.dumps(content, default=str)
        found.append(pytest.param(name, marks=[pytest.mark.slow] if kind in seen else []))
        seen.add(kind)
    return found


one_recipe_of_each_kind = pytest.mark.parametrize("name", one_of_each_kind())
STEPS = 2  # a validation after each: training goes on after the first
LARGEST = 64  # pixels a side, or tokens: that a recipe fits its network does not depend on it
INCEPTION = 80  # the least that Inception-v3 leaves a pixel of


def header(name):
    """Return the comment that a recipe begins with, without its marks."""
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    return re.sub(r"^# ?", "", re.match(r"(?:#.*\n)+", text)[0], flags=re.MULTILINE)


def read(name):
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))


def entry(name, key):
    """Return what the header says under ``key:``, its continuation lines joined."""
    found = re.search(rf"^{key}: +((?:.+\n(?: +.+\n)*))", header(name), flags=re.MULTILINE)
    assert found, f"the header of {name} has no line '{key}:'"
    return " ".join(found[1].split())


def commands(name):
    """Return the words of the two commands in a recipe's header."""
    return [shlex.split(entry(name, key)) for key in ("Run", "Vary")]


def test_there_are_recipes_and_all_are_yaml():
    assert NAMES
    assert not [file for file in FILES if file.suffix != ".yaml"]


@every_recipe
def test_the_header_says_what_it_is_what_it_needs_and_how_it_was_chosen(name):
    title, second, *_ = header(name).splitlines()
    assert title.endswith(".")
    assert second == ""
    for key in ("What", "Data", "Chosen"):
        assert len(entry(name, key)) > 40


@every_recipe
def test_the_commands_in_the_header_are_of_this_recipe(name):
    run, vary = commands(name)
    assert run == ["tlkit", "fit", "--config", name]  # understood if it is with more words, and trained below
    assert vary[:4] == run
    assert len(vary) > 4


@one_recipe_of_each_kind
def test_the_commands_in_the_header_are_understood(name, tmp_path, capsys):
    words = commands(name)[1][1:]
    words += [word for word in at_hand(read(name), tmp_path) if word.startswith("--model")]
    assert main([*words, "--print_config"]) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert resolved["recipe"] == name
    assert resolved["trainer"]["max_steps"] > 0


def digit_files(root):
    """Write MNIST, USPS and SVHN as they are published."""
    for part, name in (("train", "train"), ("test", "t10k")):
        write_mnist(root, name, 60)
        write_usps(root, part, 60)
        write_svhn(root, part, 60)
    return {"root": str(root)}


def library_of_two_years(root):
    """Write the first 15 months of the library and month 25."""
    ujilibrary(root, second_phone=True)
    return ujilibrary(root, months=tuple(range(1, 16)))


# What is written in place of a published set, in its layout and with the domains that recipes name.
WRITERS = {
    "AmazonReviews": lambda root: {"root": write_reviews(root, count=80)},
    "ChestXRay": chest_xray,
    "Digits": digit_files,
    "DomainNet": domainnet,
    "HHAR": partial(hhar, persons="ag"),
    "MedMNIST": medmnist,
    "OCT": oct_scans,
    "Office31": office31,
    "OfficeHome": office_home,
    "PACS": pacs,
    "SPSWHAR": partial(sp_sw_har, persons=14),
    "UCIHAR": partial(uci_har, persons=(2, 11)),
    "UJIIndoorLoc": ujiindoorloc,
    "UJILibrary": library_of_two_years,
    "VisDA2017": visda2017,
    "WISDM": partial(wisdm, persons=(7, 18)),
}


def comes_with_a_package(recipe):
    given = recipe["data"]["init_args"]
    digits = recipe["data"]["class_path"] == "Digits" and given.get("mnist") != "idx"
    return digits or recipe["data"]["class_path"] not in WRITERS


@pytest.fixture(scope="session")
def small_sets(tmp_path_factory):
    """Return a function that writes a set, once, and returns the words that make a recipe read it."""

    @cache
    def words(data):
        return (f"--data.root={WRITERS[data](tmp_path_factory.mktemp(data))['root']}",)

    return words


def at_hand(recipe, folder):
    """Return what a recipe at full size is changed in: weights from a hub, large images, long texts, worker processes.

    Skips the test of a recipe whose encoder lies in a package that is in no lock; .ci/run installs it.
    """
    given, backbone = recipe["data"]["init_args"], recipe["model"]["backbone"].get("init_args", {})
    if "package:" in str(given.get("tokenizer")):
        pytest.importorskip(given["tokenizer"].removeprefix("package:"))
    words = []
    if backbone.get("pretrained") is True:
        words.append("--model.backbone.pretrained=false")
    if given.get("image_size", 0) > LARGEST:
        words.append(f"--data.image_size={INCEPTION if backbone['name'].startswith('inception') else LARGEST}")
    if given.get("max_length", 0) > LARGEST:
        words.append(f"--data.max_length={LARGEST}")
    if str(given.get("tokenizer")).startswith("bert-"):
        tiny = write_tokenizer(folder / "bert")
        words += [f"--model.backbone.name_or_folder={tiny}", "--model.backbone.pretrained=false"]
        words += [f"--data.tokenizer={tiny}"]
    if given.get("num_workers"):
        words.append("--data.num_workers=0")
    if given.get("labels_per_class"):
        words.append("--data.labels_per_class=2")
    return words


@one_recipe_of_each_kind
def test_it_runs_and_leaves_a_whole_run_folder(name, tmp_path, capsys, small_sets, request):
    recipe = read(name)
    given = recipe["data"]["init_args"]
    words = [
        *(() if comes_with_a_package(recipe) else small_sets(recipe["data"]["class_path"])),
        "--trainer.accelerator=cpu",
        f"--trainer.max_steps={STEPS}",
        "--trainer.val_check_interval=1",
        "--trainer.log_every_n_steps=1",
        "--data.batch_size=4",
        "--run_id=r",
        f"--runs={tmp_path}",
    ]
    if comes_with_a_package(recipe):
        words[words.index("--data.batch_size=4")] = "--data.batch_size=64"  # a whole set to evaluate
    if recipe["trainer"].get("strategy") == "fsdp2":  # opens a group, if of this process alone, that stays
        request.addfinalizer(dist.destroy_process_group)
    words += at_hand(recipe, tmp_path)
    if isinstance(given.get("label_fraction"), float):
        words.append("--data.label_fraction=0.5")  # of very few rows
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
    assert config["recipe"] == name
    roles = config["data"]["init_args"]
    domains = [*roles["sources"], *(roles["targets"] or []), *(roles["also_test"] or [])]
    tested = {re.sub("^test/|(/recall)?/[^/]+$", "", key) for key in summary["metrics"]}
    assert tested == set(domains)
    assert summary["train"]["steps"] == STEPS
    assert summary["selection"]["uses_target_labels"] is False
    losses = [each["class_path"].rpartition(".")[2] for each in config["model"]["adaptation"]]
    with (run / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    logged = {key for row in rows for key, value in row.items() if value}
    logs = [re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", loss).lower() for loss in losses]
    expected = {f"train/{loss}{part}" for loss in logs for part in ("", "/weight")}
    if "DANN" in losses:
        expected |= {"train/dann/discriminator_accuracy", "train/dann/reversal"}
    assert expected | {"train/task", "train/samples_per_second", "lr/head"} <= logged


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
