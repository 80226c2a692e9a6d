import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from tlkit.cli.main import main
from tlkit.losses import AdaptationLoss

ROOT = Path(__file__).resolve().parents[2]
SIDES = ("source", "target")


def start(words, folder):
    """Start the real command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tlkit.cli", *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_a_run_leaves(trained):
    assert everything_in(trained.folder) == [
        "checkpoints", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "metrics.csv",
        "splits.json", "summary.json",
    ]  # fmt: skip


def test_summary(trained):
    summary = json.loads((trained.folder / "summary.json").read_text())
    assert summary["recipe"] == "tiny"
    assert summary["seed"] == 3
    assert summary["command"].startswith(f"tlkit fit --config {trained.recipe} --run_id=first")
    assert summary["selection"]["monitor"] == "selection/mutual_information"
    assert summary["selection"]["uses_target_labels"] is False
    assert summary["selection"]["step"] in (3, 6)
    own = ("accuracy", "macro_f1", "mean_class_accuracy", *(f"recall/{digit}" for digit in range(10)))
    assert set(summary["metrics"]) == {f"test/{domain}/{name}" for domain in ("mnist", "optdigits") for name in own}
    assert all(0 <= value <= 1 for value in summary["metrics"].values())
    assert summary["train"]["steps"] == 6
    assert summary["train"]["samples_per_second"] > 0
    assert summary["environment"]["packages"]["torch"] == torch.__version__.split("+")[0]


def test_a_table_of_domains_one_of_classes_and_the_folder_are_all_that_is_printed(trained):
    lines = trained.out.splitlines()
    assert lines[0] == "tiny, seed 3: held-out test splits"
    assert lines[-1] == str(trained.folder)
    assert re.fullmatch(
        r"checkpoint of step \d, chosen by selection/mutual_information, without target labels", lines[-2]
    )
    assert len(lines) == 9 + 14  # ten classes, and the lines around them
    summary = json.loads((trained.folder / "summary.json").read_text())
    row = next(line for line in lines if "optdigits" in line)
    assert "target" in row
    assert f"{summary['metrics']['test/optdigits/accuracy']:.3f}" in row


def test_metrics_file_has_losses_weights_and_scores(trained):
    with (trained.folder / "metrics.csv").open() as stream:
        columns = next(csv.reader(stream))
    assert {"train/task", "train/coral", "train/coral/weight", "selection/mutual_information"} <= set(columns)


def test_config_holds_every_default_and_the_overrides(trained):
    config = yaml.safe_load((trained.folder / "config.yaml").read_text())
    assert config["recipe"] == "tiny"
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.001
    assert config["model"]["batch_norm"] == "joint"
    assert config["data"]["init_args"]["hold_out"]["val_fraction"] == 0.1
    assert "run_id" not in config


def test_config_runs_again_to_the_same_numbers(trained, tmp_path):
    words = ["fit", "--config", str(trained.folder / "config.yaml"), "--run_id=again", f"--runs={tmp_path}"]
    assert main(words) == 0
    summaries = [
        json.loads((run / "summary.json").read_text()) for run in (trained.folder, tmp_path / "tiny" / "again")
    ]
    assert summaries[0]["metrics"] == summaries[1]["metrics"]


def test_the_summary_is_of_the_whole_training_not_of_the_chosen_checkpoint(recipe_file, capsys):
    assert main(["fit", "--config", str(recipe_file), "--run_id=r", "--trainer.max_steps=5"]) == 0
    summary = json.loads((recipe_file.parent / "runs" / "tiny" / "r" / "summary.json").read_text())
    assert summary["selection"]["step"] == 3  # the only validation
    assert summary["train"]["steps"] == 5
    assert "checkpoint of step 3" in capsys.readouterr().out


def test_domain_specific_batch_norm_is_an_option_and_is_loaded_again(recipe_file, capsys):
    words = ["--model.batch_norm=domain_specific", "--model.backbone.batch_norm=true", "--run_id=r"]
    assert main(["fit", "--config", str(recipe_file), *words]) == 0
    run = recipe_file.parent / "runs" / "tiny" / "r"
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    source, target = (next(v for k, v in stored.items() if k.endswith(f"{side}.running_mean")) for side in SIDES)
    assert not torch.equal(source, target)
    capsys.readouterr()
    assert main(["test", "--config", str(run / "config.yaml")]) == 0
    accuracy = json.loads((run / "summary.json").read_text())["metrics"]["test/optdigits/accuracy"]
    assert f"{accuracy:.3f}" in next(line for line in capsys.readouterr().out.splitlines() if "optdigits" in line)


def test_print_config_trains_nothing(recipe_file, capsys):
    assert main(["fit", "--config", str(recipe_file), "--print_config", "--trainer.max_steps=9"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["max_steps"] == 9
    assert not (recipe_file.parent / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.max_epoch=3"], "did you mean 'max_epochs'"),
        (["--data.sources=[mnst]"], "did you mean 'mnist'"),
        (["--data.sources=[optdigits]"], "is both in sources and in targets"),
        (["--data.batch_size=100000"], "batch_size 100000 is larger than the training split"),
        (["--data.targets=[]"], "needs a target"),
        (["--model.task.label_smoothing=2"], "label_smoothing must be in [0, 1), got 2"),
        (["--model.optimizer.lr=-1"], "model.optimizer: Invalid learning rate: -1"),
        (["--model.adaptation.0.weight.gamma=-1"], "DannRamp(gamma=...) must be positive, got -1"),
        (["--trainer.devices=none"], "trainer: "),
        (["--trainer.strategy=dpp"], "trainer: "),
        (["--recipe=../up"], "relative path without '..'"),
        (["--logger=wandbb"], "did you mean 'wandb'"),
        (["--run_id=a/b"], "must be the name of one folder, got 'a/b'"),
        (["--trainer.enable_checkpointing=false"], "trainer.enable_checkpointing cannot be false: the best checkpoint"),
        (["--trainer.barebones=true"], "trainer.barebones cannot be true: it trains without"),
        (
            ["--trainer.check_val_every_n_epoch=1", "--trainer.val_check_interval=100000", "--run_id=r"],
            "Lightning cannot train with these settings: `val_check_interval` (100000) must be less than or equal",
        ),
    ],
)
def test_the_users_errors_end_in_one_line_and_write_nothing(recipe_file, words, message, capsys):
    assert main(["fit", "--config", str(recipe_file), *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("tlkit: error: ")
    assert captured.out == ""
    assert "jsonargparse" not in captured.err
    assert everything_in(recipe_file.parent) == ["tiny.yaml"]


def test_a_score_that_lightning_does_not_know_is_answered_in_words(recipe_file, capsys):
    stop = "[{class_path: EarlyStopping, init_args: {monitor: val/nothing}}]"
    assert main(["fit", "--config", str(recipe_file), "--run_id=r", f"--trainer.callbacks={stop}"]) == 2
    error = capsys.readouterr().err
    assert "Lightning cannot train with these settings: Early stopping conditioned on metric `val/nothing`" in error
    assert "Traceback" not in error
    assert main(["fit", "--config", str(recipe_file), "--run_id=r"]) == 2  # it has rows, which are not written over
    assert "or move its folder away" in capsys.readouterr().err


class Raises(AdaptationLoss):
    """A loss with a bug."""

    def forward(self, source, target):
        raise KeyError("a bug")


def test_a_bug_at_the_first_step_leaves_no_folder_in_the_way(recipe_file):
    with pytest.raises(KeyError, match="a bug"):
        main(["fit", "--config", str(recipe_file), "--run_id=r", f"--model.adaptation=[{__name__}.Raises]"])
    assert everything_in(recipe_file.parent) == ["tiny.yaml"]


@pytest.mark.parametrize(
    "word", ["--trainer.enable_progress_bar=false", "--trainer.callbacks=[lightning.pytorch.callbacks.RichProgressBar]"]
)
def test_the_users_own_progress_bar_or_none(recipe_file, word, capsys):
    assert main(["fit", "--config", str(recipe_file), "--run_id=r", word]) == 0
    assert "step 6/6" not in capsys.readouterr().err


def test_a_trial_says_that_it_was_one_and_leaves_nothing(recipe_file, capsys):
    assert main(["fit", "--config", str(recipe_file), "--run_id=r", "--trainer.fast_dev_run=true"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a trial (trainer.fast_dev_run=True): ")
    assert "accuracy" not in out
    assert everything_in(recipe_file.parent) == ["tiny.yaml"]


def test_a_run_that_exists_is_not_written_over(trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*")}
    assert main(["fit", "--config", str(trained.recipe), "--run_id=first"]) == 2
    assert "exists and is not written over" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*")} == before


def test_a_failed_start_leaves_other_runs_alone(recipe_file):
    other = recipe_file.parent / "runs" / "tiny" / "other"
    other.mkdir(parents=True)
    assert main(["fit", "--config", str(recipe_file), "--data.batch_size=100000"]) == 2
    assert everything_in(recipe_file.parent) == ["runs", "runs/tiny", "runs/tiny/other", "tiny.yaml"]


def test_resuming_trains_on_in_the_same_folder(recipe_file, capsys):
    assert main(["fit", "--config", str(recipe_file), "--run_id=r"]) == 0
    run = recipe_file.parent / "runs" / "tiny" / "r"
    assert main(["fit", "--resume", str(run)]) == 2
    assert "is finished" in capsys.readouterr().err
    assert main(["fit", "--resume", str(run), "--trainer.max_steps=9"]) == 0
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 9
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 9
    assert json.loads((run / "summary.json").read_text())["train"]["steps"] == 9
    assert [path.name for path in run.parent.iterdir()] == ["r"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.batch_size=8"], "--data.batch_size cannot change when a run goes on"),
        (["--config=x"], "leave --config out"),
        (["--trainer.max_step=8"], "cannot change"),
        (["--trainer.max_steps=5"], "last.ckpt is at step 6 already"),
    ],
)
def test_what_cannot_change_at_resume(trained, words, message, capsys):
    assert main(["fit", "--resume", str(trained.folder), *words]) == 2
    assert message in capsys.readouterr().err


def test_resuming_what_is_not_a_run(tmp_path, capsys):
    assert main(["fit", "--resume", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("{}")
    assert main(["fit", "--resume", str(tmp_path)]) == 2
    assert "start anew with: tlkit fit --config" in capsys.readouterr().err


def test_ctrl_c_saves_and_says_how_to_go_on(recipe_file):
    words = ["fit", "--config", recipe_file, "--run_id=r", "--trainer.max_steps=100000", "--trainer.max_epochs=-1"]
    process = start(words, recipe_file.parent)
    metrics = recipe_file.parent / "runs" / "tiny" / "r" / "metrics.csv"
    deadline = time.monotonic() + 90
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "training did not start"
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    run = metrics.parent
    assert err.splitlines()[-1] == f"stopped; go on with: tlkit fit --resume {run}"
    assert "Traceback" not in err
    assert out == ""
    step = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert step > 0
    assert not (run / "summary.json").exists()
    assert main(["fit", "--resume", str(run), f"--trainer.max_steps={step + 2}"]) == 0
    assert json.loads((run / "summary.json").read_text())["train"]["steps"] == step + 2


def test_a_longer_training_stopped_while_it_is_tested_is_unfinished(recipe_file, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)  # as Lightning does

    assert main(["fit", "--config", str(recipe_file), "--run_id=r"]) == 0
    run = recipe_file.parent / "runs" / "tiny" / "r"
    with monkeypatch.context() as patch:
        patch.setattr("lightning.pytorch.Trainer.test", interrupted)
        assert main(["fit", "--resume", str(run), "--trainer.max_steps=9"]) == 130
    assert f"go on with: tlkit fit --resume {run}" in capsys.readouterr().err
    assert not (run / "summary.json").exists()  # it was of 6 steps
    assert main(["fit", "--resume", str(run)]) == 0
    assert json.loads((run / "summary.json").read_text())["train"]["steps"] == 9


def test_terminated_before_the_first_step(recipe_file, monkeypatch, capsys):
    from lightning.pytorch import Trainer

    fit = Trainer.fit

    def terminated(trainer, *args, **kwargs):
        # The signal handlers are Lightning's own until training has begun.
        name = "on_sanity_check_start"
        monkeypatch.setattr(trainer.callbacks[0], name, lambda *args, **kwargs: signal.raise_signal(signal.SIGTERM))
        return fit(trainer, *args, **kwargs)

    monkeypatch.setattr(Trainer, "fit", terminated)
    try:
        assert main(["fit", "--config", str(recipe_file), "--run_id=r"]) == 143
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert "stopped before the first checkpoint" in capsys.readouterr().err


@pytest.mark.ddp
def test_two_processes_that_lightning_starts_share_one_folder(recipe_file):
    command = [sys.executable, "-m", "tlkit.cli", "fit", "--config", str(recipe_file), "--trainer.devices=2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=recipe_file.parent, env=env, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    (run,) = (recipe_file.parent / "runs" / "tiny").iterdir()
    assert done.stdout.count("held-out test splits") == 1
    assert done.stdout.splitlines()[-1] == str(run)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["environment"]["world_size"] == 2
    assert everything_in(run) == [
        "checkpoints", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "metrics.csv",
        "splits.json", "summary.json",
    ]  # fmt: skip


def test_a_precision_that_the_cpu_has_not_is_refused(recipe_file, capsys):
    """Lightning would take bfloat16 in its place."""
    words = ["--trainer.accelerator=cpu", "--trainer.precision=16-mixed"]
    assert main(["fit", "--config", str(recipe_file), *words]) == 2
    assert "trainer.precision: 16-mixed needs a GPU: set trainer.precision: bf16-mixed" in capsys.readouterr().err
    assert not (recipe_file.parent / "runs").exists()
