"""``tlkit fit --start_from``: a run that begins with what another has learned."""

import csv
import json
import re
import shutil

import pytest
import torch
import yaml

import tlkit
from tests.data.settings import unlabelled_image_folders
from tlkit.cli.main import main


def weights(run, name="best"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def splits(run):
    return json.loads((run / "splits.json").read_text())


@pytest.fixture
def free(recipe, tmp_path):
    """The tiny recipe without its source, from the target's side alone."""
    recipe["model"]["adaptation"] = [{"class_path": "BNM"}]
    recipe["model"]["optimizer"]["init_args"]["lr"] = 1e-9
    recipe["data"]["init_args"] |= {"sources": []}
    path = tmp_path / "free.yaml"
    path.write_text(yaml.safe_dump({**recipe, "runs": str(tmp_path / "runs")}))
    return path


def test_the_target_alone_adapts_what_a_run_has_learned(free, trained, capsys):
    assert main(["fit", "--config", str(free), "--run_id=r", f"--start_from={trained.folder}"]) == 0
    run = free.parent / "runs" / "free" / "r"
    before, after = weights(trained.folder), weights(run)
    for key in after:
        assert torch.allclose(after[key], before[key], atol=1e-5), key  # the learning rate is next to nothing
    assert yaml.safe_load((run / "config.yaml").read_text())["start_from"] == str(trained.folder)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["selection"]["monitor"] == "selection/mutual_information"
    assert {name.split("/")[1] for name in summary["metrics"]} == {"optdigits"}
    for command in ("test", "validate", "predict"):
        assert main([command, "--config", str(run / "config.yaml")]) == 0
    assert "sources" not in capsys.readouterr().err


def test_a_checkpoint_does_too_and_a_resumed_run_needs_it_no_more(free, trained, tmp_path):
    copy = shutil.copy(trained.folder / "checkpoints" / "last.ckpt", tmp_path / "some.ckpt")
    once = ["fit", "--config", str(free), "--run_id=once", f"--start_from={copy}", "--model.optimizer.lr=0.01"]
    assert main(once) == 0
    assert main([*once[:3], "--run_id=twice", *once[4:], "--trainer.max_steps=3"]) == 0
    copy.unlink()
    runs = tmp_path / "runs" / "free"
    assert main(["fit", "--resume", str(runs / "twice"), "--trainer.max_steps=6"]) == 0
    one, two = weights(runs / "once", "last"), weights(runs / "twice", "last")
    # The schedule of BNM's weight, a constant, does not know how long the run is: the steps are the same.
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_pretrained_weights_are_not_looked_for(recipe_file, monkeypatch, caplog):
    asked = []
    monkeypatch.setattr("tlkit.cli.start.load", lambda file: asked.append(file) or tlkit.load(file))
    backbone = ["--model.backbone.class_path=TimmBackbone", "--model.backbone.init_args={name: test_resnet}"]
    base = ["fit", "--config", str(recipe_file), "--data.image_size=32", *backbone]
    base += ["--model.backbone.in_chans=1"]
    assert main([*base, "--run_id=a", "--model.backbone.pretrained=false"]) == 0
    run = recipe_file.parent / "runs" / "tiny" / "a"
    other = ["--model.backbone.pretrained=no/such/file.pth", "--model.backbone.model_args={drop_rate: 0.5}"]
    assert main([*base, "--run_id=b", *other, f"--start_from={run}"]) == 0
    assert f"model.backbone.model_args was None in {run} and is {{'drop_rate': 0.5}} now" in caplog.text
    assert "model.backbone.pretrained" not in caplog.text
    assert asked == [run / "checkpoints" / "best.ckpt"]


def test_images_that_nobody_has_labelled(tmp_path, capsys):
    """The classes are the run's: no folder here names one, neither to fit nor to predict."""
    files = unlabelled_image_folders(tmp_path / "images")
    content = {
        "model": {
            "backbone": {"class_path": "ConvNet", "init_args": {"in_channels": 3, "channels": [4, 8], "hidden": 16}},
            "task": "Classification",
            "adaptation": [],
        },
        "data": {
            "class_path": "ImageFolderDomains",
            "init_args": {**files, "sources": ["photo"], "targets": [], "image_size": 16, "batch_size": 4},
        },
        "trainer": {"max_steps": 4, "accelerator": "cpu", "log_every_n_steps": 2},
        "runs": str(tmp_path / "runs"),
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    mine = ["--config", str(tmp_path / "mine.yaml")]
    assert main(["fit", *mine, "--run_id=source"]) == 0
    run = tmp_path / "runs" / "mine" / "source"
    shutil.rmtree(tmp_path / "images" / "photo")
    alone = ["--data.sources=[]", "--data.targets=[sketch]"]
    assert main(["predict", "--config", str(run / "config.yaml"), *alone]) == 0
    adapted = ["--model.adaptation=[{class_path: MCC}]", "--trainer.max_steps=2"]
    assert main(["fit", *mine, *alone, *adapted, "--run_id=free", f"--start_from={run}"]) == 0
    free = tmp_path / "runs" / "mine" / "free"
    assert tlkit.load(free).data_spec.classes == tlkit.load(run).data_spec.classes != ()
    assert main(["fit", "--resume", str(free), "--trainer.max_steps=4"]) == 0
    assert "no domain has labels to be scored by; tlkit predict writes" in capsys.readouterr().out
    assert main(["predict", "--config", str(free / "config.yaml")]) == 0
    for folder in (run, free):
        with (folder / "predictions" / "sketch.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == len(list((tmp_path / "images" / "sketch").glob("*.png")))
        assert {row["class"] for row in rows} <= set(tlkit.load(run).data_spec.classes)


def test_what_is_refused(free, trained, recipe_file, tmp_path, capsys):
    def refused(*words):
        before = sorted(tmp_path.rglob("*"))
        assert main(["fit", "--config", *map(str, words)]) == 2
        assert sorted(tmp_path.rglob("*")) == before
        return capsys.readouterr().err

    assert "data.sources is empty and no target has labels to train on" in refused(free)
    nowhere = tmp_path / "nowhere"
    assert f"--start_from: there is no checkpoint {nowhere}; give a run folder or" in refused(
        free, f"--start_from={nowhere}"
    )
    assert "start_from must be a name, got ''" in refused(free, "--start_from=")
    message = refused(free, f"--start_from={trained.folder}", "--model.backbone.hidden=8")
    assert "--start_from: the backbone ConvNet is not that of the model to start from" in message
    (tmp_path / "broken.ckpt").write_text("no")
    assert "--start_from: " in refused(free, f"--start_from={tmp_path / 'broken.ckpt'}")
    message = refused(free, f"--start_from={trained.folder}", "--model.task=Hashing")
    assert "Hashing looks queries up among the rows of the sources" in message


@pytest.fixture
def seen(recipe_file, trained, capsys):
    """Try to start a run, which must be refused since it would score what was learned from; return the error."""

    def refused(*words):
        assert main(["fit", "--config", str(recipe_file), *words]) == 2
        return capsys.readouterr().err

    return refused


def test_what_was_learned_from_is_not_tested(seen, trained):
    message = seen(f"--start_from={trained.folder}", "--data.hold_out={seed: 5}")
    assert re.search(r"of domain 'mnist' to (test|validate) on, .* were learned from in the run .*/first", message)


def test_nor_validated(seen, trained):
    message = seen(f"--start_from={trained.folder}", "--data.hold_out={val_fraction: 0.4}")
    assert re.search(r"of domain 'mnist' to validate on, .* were learned from in the run", message)


def test_nor_if_the_checkpoint_lies_in_the_run_itself(seen, trained, tmp_path):
    run = shutil.copytree(trained.folder, tmp_path / "copied")
    (run / "checkpoints" / "best.ckpt").rename(run / "mine.ckpt")
    assert "were learned from in the run" in seen(f"--start_from={run / 'mine.ckpt'}", "--data.hold_out={seed: 5}")


def test_nor_where_a_run_between_did_not_have_the_source(seen, free, trained):
    assert main(["fit", "--config", str(free), "--run_id=r", f"--start_from={trained.folder}"]) == 0
    run = free.parent / "runs" / "free" / "r"
    before = splits(run)["mnist"]["before"]
    assert set(before) == {row for split in ("train", "val") for row in splits(trained.folder)["mnist"][split]}
    other = "--data.hold_out={seed: 5}"
    assert "were learned from in the run" in seen(f"--start_from={run}", other)
    assert main(["test", "--config", str(run / "config.yaml"), "--data.targets=[mnist]", other]) == 2
    assert main(["fit", "--resume", str(run), "--trainer.max_steps=8"]) == 0
    assert splits(run)["mnist"]["before"] == before


def test_what_is_not_checked_is_said(recipe_file, trained, tmp_path, caplog):
    fit = ["fit", "--config", str(recipe_file), f"--start_from={trained.folder}"]
    assert main([*fit, "--data.batch_size=16"]) == 0
    assert "--start_from" not in caplog.text
    assert main([*fit, f"--data.root={tmp_path}", "--data.hold_out={seed: 5}"]) == 0  # other files, for all one knows
    assert f"whether a row to test on was learned from in {trained.folder} is not checked" in caplog.text
    assert "data.root differ" in caplog.text


def test_a_few_labels_without_a_source(free):
    """Fine-tuning on the target alone has no source to validate on: the score that needs no labels chooses."""
    words = ["--model.adaptation=[]", "--data.labels_per_class={optdigits: 8}", "--run_id=few"]
    assert main(["fit", "--config", str(free), *words]) == 0
    summary = json.loads((free.parent / "runs" / "free" / "few" / "summary.json").read_text())
    assert summary["selection"]["monitor"] == "selection/mutual_information"
