import contextlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tlkit.cli.main import main

RECIPE = """\
# Tiny digits
seed_everything: 3
model:
  backbone: {class_path: ConvNet, init_args: {channels: [4, 8], hidden: 16}}
  task: Classification
  adaptation:
    - {class_path: CORAL, init_args: {weight: {class_path: DannRamp, init_args: {high: 0.5}}}}
  optimizer: {class_path: AdamW, init_args: {lr: 2e-3}}
data: {class_path: Digits, init_args: {sources: [mnist], targets: [optdigits], batch_size: 32}}
trainer:
  accelerator: cpu
  max_steps: 6
  val_check_interval: 3
  check_val_every_n_epoch: null
  log_every_n_steps: 2
"""

# A training whose numbers can be compared over launchers: in float64, so that a sum of two halves is that of the whole.
STEPS = 30
TRAINING = [
    f"--trainer.max_steps={STEPS}", "--trainer.val_check_interval=15", "--trainer.precision=64-true",
    "--model.optimizer.lr=0.01",
]  # fmt: skip


class Trained(NamedTuple):
    """A run that ``tlkit fit`` made, and what it printed."""

    folder: Path
    recipe: Path
    out: str


@pytest.fixture
def recipe():
    """The tiny recipe as a dict."""
    return yaml.safe_load(RECIPE.replace("2e-3", "0.002"))


@pytest.fixture
def recipe_file(tmp_path):
    """The tiny recipe as a file, its runs in the test's own folder."""
    path = tmp_path / "tiny.yaml"
    path.write_text(f"{RECIPE}runs: {tmp_path / 'runs'}\n")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run; tests read it and leave it as it is."""
    root = tmp_path_factory.mktemp("trained")
    recipe = root / "tiny.yaml"
    recipe.write_text(f"{RECIPE}runs: {root / 'runs'}\n")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["fit", "--config", str(recipe), "--run_id=first", "--model.optimizer.lr=0.001"]) == 0
    return Trained(root / "runs" / "tiny" / "first", recipe, out.getvalue())


@pytest.fixture(scope="session")
def one(tmp_path_factory):
    """Return the metrics of one process whose batch is as large as that of two processes together."""
    root = tmp_path_factory.mktemp("one")
    recipe = root / "tiny.yaml"
    recipe.write_text(f"{RECIPE}runs: {root / 'runs'}\n")
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["fit", "--config", str(recipe), "--run_id=one", "--data.batch_size=64", *TRAINING]) == 0
    metrics = json.loads((root / "runs" / "tiny" / "one" / "summary.json").read_text())["metrics"]
    assert 0.3 < metrics["test/mnist/accuracy"] < 0.99  # something was learned that could differ
    return metrics
