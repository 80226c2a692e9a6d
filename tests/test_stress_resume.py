"""A short form of scripts/stress_resume.py: real kills of the real command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def stress(*words):
    return subprocess.run(
        [sys.executable, "scripts/stress_resume.py", *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_a_run_that_is_killed_ends_as_the_one_that_is_not(tmp_path):
    done = stress("--times=1", "--seed=3", "--case=CDAN, random_size", f"--report={tmp_path / 'report.md'}")
    assert done.returncode == 0, done.stdout + done.stderr
    header, *_, total = (tmp_path / "report.md").read_text().splitlines()
    assert header.startswith("| recipe | ranks | trials | kills |")
    trials, kills, *_, exact = (int(cell) for cell in total.strip("| ").split("|")[2:])
    assert (trials, exact) == (1, 1)
    assert kills >= 1


def test_the_comparison_finds_a_single_bit():
    import torch

    from scripts.stress_resume import unequal

    ours = {"a": [torch.zeros(3)], "b": {"c": 1.5}}
    assert unequal(ours, {"a": [torch.zeros(3)], "b": {"c": 1.5}}) == []
    assert unequal(ours, {"a": [torch.tensor([0.0, -0.0, 0.0])], "b": {"c": 1.5}}) == ["a.0"]
    assert unequal(ours, {"a": [torch.zeros(3)], "b": {"c": 1.25}}) == ["b.c"]
    assert unequal(ours, {"a": [torch.zeros(3).double()], "b": {}}) == ["a.0", "b has other keys"]


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.timeout(1600)
def test_every_recipe_of_the_table_once():
    done = stress("--times=32", "--seed=4")
    assert done.returncode == 0, done.stdout + done.stderr
