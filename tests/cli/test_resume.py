"""What a run that goes on is held to: its recipe, its rows, and something left to train."""

import json
import shutil

import pytest
import torch
import yaml

from tlkit.cli.main import main


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a finished run of six steps."""
    return shutil.copytree(trained.folder, tmp_path / "runs" / "tiny" / "first")


def edit(run, change):
    config = yaml.safe_load((run / "config.yaml").read_text())
    change(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["data"]["init_args"]["hold_out"].update(seed=5), "data.init_args.hold_out.seed=0, but "),
        (lambda c: c["model"]["optimizer"]["init_args"].update(lr=0.5), "model.optimizer.init_args.lr=0.001, but "),
        (lambda c: c["data"]["init_args"].update(batch_size=16), "data.init_args.batch_size=32, but "),
        (lambda c: c["model"].update(adaptation=[]), "was trained with model.adaptation=["),
    ],
)
def test_a_config_that_was_edited_is_held_against_the_checkpoint(run, change, message, capsys):
    edit(run, change)
    before = contents(run)
    assert main(["fit", "--resume", str(run), "--trainer.max_steps=9"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert f"{run / 'config.yaml'} says" in error
    assert contents(run) == before


def test_where_data_lie_and_how_they_are_read_may_change(run):
    edit(run, lambda config: config["data"]["init_args"].update(num_workers=1))
    assert main(["fit", "--resume", str(run), "--trainer.max_steps=7", "--data.num_workers=0"]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["num_workers"] == 0


def test_an_argument_that_is_newer_than_the_checkpoint_has_its_default(run):
    file = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    del checkpoint["tlkit"]["recipe"]["data"]["init_args"]["hold_out"]
    torch.save(checkpoint, file)
    assert main(["fit", "--resume", str(run), "--trainer.max_steps=7"]) == 0


def test_rows_that_were_trained_on_are_not_tested_on_where_the_data_have_changed(run, capsys):
    splits = json.loads((run / "splits.json").read_text())
    splits["mnist"]["train"], splits["mnist"]["test"] = splits["mnist"]["test"], splits["mnist"]["train"]
    (run / "splits.json").write_text(json.dumps(splits))
    before = contents(run)
    assert main(["fit", "--resume", str(run), "--trainer.max_steps=7"]) == 2
    assert "rows of domain 'mnist' to test on" in capsys.readouterr().err
    kept = contents(run)
    assert {path for path in before if before[path] != kept.get(path)} <= {run / "config.yaml"}


def test_a_job_that_is_started_again_with_another_checkpoint_in_its_folder(run, trained, capsys):
    """The folder's config.yaml is the command's, its last.ckpt is not."""
    edit(run, lambda config: config["model"]["optimizer"]["init_args"].update(lr=0.002))
    (run / "summary.json").unlink()
    words = ["fit", "--config", str(trained.recipe), f"--runs={run.parents[1]}", "--run_id=first", "--resume=auto"]
    assert main(words) == 2
    assert "but this command says 0.002" in capsys.readouterr().err


def test_a_finished_run_names_the_limit_that_it_has(run, capsys):
    assert main(["fit", "--resume", str(run)]) == 2
    assert "to train longer raise what it was limited by: --trainer.max_steps=6" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--trainer.max_epochs=5"], ["--trainer.max_steps=6"]])
def test_a_longer_training_that_another_limit_ends_is_refused(run, words, capsys):
    before = contents(run)
    assert main(["fit", "--resume", str(run), *words]) == 2
    assert "last.ckpt is at step 6, after 0 epochs, where --trainer.max_steps=6 ends the run" in capsys.readouterr().err
    assert contents(run) == before


def test_epochs_are_a_limit_too(recipe_file, capsys):
    words = ["--trainer.max_steps=-1", "--trainer.max_epochs=1", "--trainer.limit_train_batches=4", "--run_id=r"]
    assert main(["fit", "--config", str(recipe_file), *words]) == 0
    run = recipe_file.parent / "runs" / "tiny" / "r"
    assert main(["fit", "--resume", str(run), "--trainer.max_steps=9"]) == 2
    assert "after 1 epochs, where --trainer.max_epochs=1 ends the run" in capsys.readouterr().err
    assert main(["fit", "--resume", str(run), "--trainer.max_steps=9", "--trainer.max_epochs=2"]) == 0
    assert json.loads((run / "summary.json").read_text())["train"]["steps"] == 8  # a whole epoch more


def test_time_is_a_limit_too(recipe_file, capsys):
    words = ["--trainer.max_steps=100000", "--trainer.max_time={seconds: 1}", "--run_id=r"]
    assert main(["fit", "--config", str(recipe_file), *words]) == 0
    run = recipe_file.parent / "runs" / "tiny" / "r"
    assert main(["fit", "--resume", str(run), "--trainer.max_steps=200000"]) == 2
    assert "where --trainer.max_time={'seconds': 1} ends the run" in capsys.readouterr().err
    step = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert main(["fit", "--resume", str(run), f"--trainer.max_steps={step + 2}", "--trainer.max_time=00:00:10:00"]) == 0
    assert json.loads((run / "summary.json").read_text())["train"]["steps"] == step + 2


def test_a_run_whose_best_is_lost_before_its_test_ends_with_its_last(run, capsys):
    rows = (run / "metrics.csv").read_text()
    (run / "checkpoints" / "best.ckpt").unlink()
    (run / "summary.json").unlink()
    assert main(["fit", "--resume", str(run)]) == 0
    assert "checkpoint of step 6, the last one: no validation chose it" in capsys.readouterr().out
    assert (run / "metrics.csv").read_text().count("\n") == rows.count("\n")


def test_a_trial_is_not_gone_on_with(run, capsys):
    edit(run, lambda config: config["trainer"].update(fast_dev_run=True))
    assert main(["fit", "--resume", str(run), "--trainer.max_steps=9"]) == 2
    assert "trainer.fast_dev_run is a trial" in capsys.readouterr().err
    assert (run / "summary.json").is_file()
