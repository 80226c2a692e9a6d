"""Damaged and hostile files and recipes; tests/fuzz.py says how they are made, and makes more of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "rounds",
    [
        {"files": 4, "recipes": 2, "modules": 1},
        pytest.param({"files": 60}, marks=pytest.mark.slow),
        pytest.param({"recipes": 15}, marks=pytest.mark.slow),
        pytest.param({"modules": 15}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_everything_is_read_or_refused_in_words(rounds):
    # A process of its own: its memory is limited.
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *(f"{group}={count}" for group, count in rounds.items())],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=590,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    counts = {key: int(count) for key, _, count in (line.rpartition(" ") for line in done.stdout.splitlines())}
    assert counts.keys() == {f"{group}: {outcome}" for group in rounds for outcome in ("read", "refused")}
    assert min(counts.values()) > 3  # damage that is always refused, or never, would test little
