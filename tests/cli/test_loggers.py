"""Loggers by one option. What W&B, TensorBoard and MLflow recorded is read back and compared with metrics.csv."""

import csv
import importlib.util
import json
import struct

import lightning as L
import pytest
import yaml

from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.callbacks import ModelSelection
from tlkit.cli.loggers import make_loggers
from tlkit.cli.main import main
from tlkit.errors import ConfigurationError
from tlkit.losses import MMD
from tlkit.tasks import Classification

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # Lightning 2.6 on torch 2.15

RECIPE = "digits/mnist_to_usps"
BLOCK, HEADER = 32768, 7  # bytes: a LevelDB log


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / RECIPE / "20250101-000000-seed0"
    folder.mkdir(parents=True)
    return folder


def loggers(kind, run):
    return make_loggers(kind, run, RECIPE, losses=["mmd"], sources=["still"], targets=["moved"])


def fit(kind, run, steps=6, ckpt_path=None):
    model = TransferModule(MLP(), Classification(), [MMD()])
    made = loggers(kind, run)
    for logger in made:
        logger.log_hyperparams({"model": {"lr": 0.5}, "seed_everything": 0})
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        log_every_n_steps=2,
        logger=made,
        callbacks=[ModelSelection()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=ShiftedBlobs(["still"], ["moved"]), ckpt_path=ckpt_path, weights_only=True)
    return made


def rows(run):
    """Return the rows of metrics.csv as (step, {key: number})."""
    with open(run / "metrics.csv", newline="") as file:
        found = list(csv.DictReader(file))
    return [(int(r.pop("step")), {key: float(value) for key, value in r.items() if value}) for r in found]


@pytest.mark.parametrize("kind", ["none", "wandb", "tensorboard", "mlflow"])
def test_metrics_csv_is_first_whatever_else_is_on(kind, run, monkeypatch, request):
    if kind == "wandb":
        request.getfixturevalue("wandb_offline")
    if kind == "mlflow":
        pytest.importorskip("mlflow")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing is sent before there is a run
        (run / "logger.json").write_text('{"mlflow": "known"}')
    names = [type(each).__name__ for each in loggers(kind, run)]
    assert names[0] == "MetricsFile"
    assert len(names) == (1 if kind == "none" else 2)


def test_an_unknown_logger_is_named_with_a_near_one(run):
    with pytest.raises(ConfigurationError, match="unknown logger 'wandbb': did you mean 'wandb'"):
        loggers("wandbb", run)


def test_mlflow_in_the_run_needs_a_database(run, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "alembic" else found(name))
    with pytest.raises(ConfigurationError, match=r'package alembic: pip install "tlkit\[mlflow\]"'):
        loggers("mlflow", run)


@pytest.mark.parametrize("kind", ["wandb", "tensorboard", "mlflow"])
def test_a_missing_package_names_its_extra(kind, run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(ConfigurationError, match=rf'pip install "tlkit\[{kind}\]"'):
        loggers(kind, run)


def records(path):
    """Yield the records of a .wandb file."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = HEADER, []
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # the end of a block is padded
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        parts.append(data[position + HEADER : position + HEADER + length])
        position += HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def wandb_run(folder):
    """Return id, group, tags, project, config and history of the only W&B run file in a folder."""
    (path,) = folder.glob("*.wandb")
    found = {"history": []}
    for record in records(path):
        if record.HasField("run"):
            start = record.run
            found |= {"id": start.run_id, "group": start.run_group, "name": start.display_name}
            found |= {"project": start.project, "tags": set(start.tags)}
        config = record.run.config if record.HasField("run") else record.config
        for item in config.update:
            found.setdefault("config", {})[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        if record.HasField("history"):
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found["history"].append(items)
    return found


def history(found):
    return [
        (int(row["trainer/global_step"]), {k: v for k, v in row.items() if not k.startswith(("_", "trainer/"))})
        for row in found["history"]
    ]


@pytest.fixture
def wandb_offline(monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    yield wandb
    end(wandb)


def end(wandb):
    wandb.finish()
    wandb.teardown()  # finish() may return before the service has written the file


def wandb_folders(run):
    return sorted(each for each in (run / "wandb").glob("offline-run-*") if each.is_dir())


def test_an_offline_wandb_run_holds_what_metrics_csv_holds(run, wandb_offline):
    fit("wandb", run)
    end(wandb_offline)
    (folder,) = wandb_folders(run)
    found = wandb_run(folder)
    assert found["id"] == json.loads((run / "logger.json").read_text())["wandb"]
    assert (found["project"], found["group"], found["name"]) == ("tlkit", RECIPE, run.name)
    assert found["tags"] == {"mmd", "still->moved"}
    assert found["config"]["model"] == {"lr": 0.5}
    assert found["config"]["seed_everything"] == 0
    assert history(found) == rows(run)
    keys = {key for _, row in rows(run) for key in row}
    assert {"train/task", "train/mmd", "train/mmd/weight", "train/accuracy", "epoch"} <= keys


def test_a_resumed_run_continues_the_same_wandb_run(run, wandb_offline, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    fit("wandb", run)
    end(wandb_offline)
    fit("wandb", run, steps=12, ckpt_path=run / "checkpoints" / "last.ckpt")
    end(wandb_offline)
    folders = wandb_folders(run)
    ids = {wandb_run(folder)["id"] for folder in folders}
    assert ids == {json.loads((run / "logger.json").read_text())["wandb"]}
    assert all(wandb_run(folder)["project"] == "mine" for folder in folders)
    both = [event for folder in folders for event in history(wandb_run(folder))]
    assert both == rows(run)
    assert max(step for step, _ in both) == 11


def test_the_command_hands_its_recipe_to_wandb_and_goes_on_in_the_same_run(recipe_file, wandb_offline):
    assert main(["fit", "--config", str(recipe_file), "--logger=wandb", "--run_id=r"]) == 0
    end(wandb_offline)
    made = recipe_file.parent / "runs" / "tiny" / "r"
    assert main(["fit", "--resume", str(made), "--trainer.max_steps=9"]) == 0
    end(wandb_offline)
    first, second = (wandb_run(folder) for folder in wandb_folders(made))
    assert first["id"] == second["id"] == json.loads((made / "logger.json").read_text())["wandb"]
    assert (first["project"], first["group"], first["name"]) == ("tlkit", "tiny", "r")
    assert first["tags"] == second["tags"] == {"coral", "mnist->optdigits"}
    assert first["config"]["seed_everything"] == 3
    assert first["config"]["model"]["optimizer"]["init_args"]["lr"] == 0.002
    keys = {key for row in first["history"] for key in row}
    assert {"train/task", "train/coral", "train/coral/weight", "lr/head", "lr/backbone"} <= keys
    assert {"train/samples_per_second", "val/optdigits/mutual_information", "test/optdigits/accuracy"} <= keys
    assert max(row["trainer/global_step"] for row in second["history"]) >= 8


@pytest.mark.parametrize(
    ("key", "reason"), [(None, "No API key configured"), ("short", "API key must have 40+ characters, has 5: ")]
)
def test_without_a_key_the_run_is_refused_before_training(key, reason, recipe_file, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(recipe_file.parent))  # where a login would be kept
    for name in ("NETRC", "WANDB_MODE", "WANDB_API_KEY", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    wandb.teardown()  # a login of an earlier test
    assert main(["fit", "--config", str(recipe_file), "--logger=wandb", "--run_id=r"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tlkit:")]
    assert line.startswith("tlkit: error: the logger 'wandb' cannot start: ")
    assert reason in line
    assert all(step in line for step in ("'wandb login'", "WANDB_API_KEY", "WANDB_MODE=offline"))
    assert not (recipe_file.parent / "runs").exists()
    wandb.teardown()


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_a_refused_run_leaves_no_trace_in_a_logger(kind, recipe_file, wandb_offline, capsys):
    assert main(["fit", "--config", str(recipe_file), f"--logger={kind}", "--data.batch_size=100000"]) == 2
    assert "is larger than the training split" in capsys.readouterr().err
    assert wandb_offline.run is None
    assert [path.name for path in recipe_file.parent.rglob("*")] == ["tiny.yaml"]


def test_other_runs_get_other_ids_and_long_tags_are_cut(tmp_path, wandb_offline):
    ids = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _, logger = make_loggers("wandb", tmp_path / name, RECIPE, [], ["source" * 20], ["target"])
        end(wandb_offline)  # one at a time in a process
        ids.add(logger.version)
        assert [len(tag) for tag in logger._wandb_init["tags"]] == [64]
    assert len(ids) == 2


def test_tensorboard_holds_what_metrics_csv_holds(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit("tensorboard", run)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    expected = [(step, key, value) for step, row in rows(run) for key, value in row.items()]
    found = [(e.step, key, e.value) for key in events.Tags()["scalars"] for e in events.Scalars(key)]
    assert sorted((step, key) for step, key, _ in found) == sorted((step, key) for step, key, _ in expected)
    for ours, theirs in zip(sorted(found), sorted(expected), strict=True):
        assert ours[2] == pytest.approx(theirs[2], rel=1e-6)


def test_the_command_hands_its_recipe_to_tensorboard(recipe_file):
    pytest.importorskip("tensorboard")
    assert main(["fit", "--config", str(recipe_file), "--logger=tensorboard", "--run_id=r"]) == 0
    made = recipe_file.parent / "runs" / "tiny" / "r"
    written = yaml.safe_load((made / "tensorboard" / "hparams.yaml").read_text())
    assert written == yaml.safe_load((made / "config.yaml").read_text())
    assert list((made / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")  # as below
def test_the_command_hands_its_recipe_to_mlflow_once(recipe_file, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    for package in ("sqlalchemy", "alembic"):
        pytest.importorskip(package)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["fit", "--config", str(recipe_file), "--logger=mlflow", "--run_id=r"]) == 0
    made = recipe_file.parent / "runs" / "tiny" / "r"
    assert main(["fit", "--resume", str(made), "--trainer.max_steps=9"]) == 0  # max_steps is a parameter that differs
    client = mlflow.MlflowClient(f"sqlite:///{made / 'mlflow.db'}")
    recorded = client.get_run(json.loads((made / "logger.json").read_text())["mlflow"])
    assert recorded.data.params["model/optimizer/init_args/lr"] == "0.002"
    assert recorded.data.params["trainer/max_steps"] == "6"
    assert max(point.step for point in client.get_metric_history(recorded.info.run_id, "lr/head")) > 6


@pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")  # MLflow 3.17 on SQLAlchemy 2.1
def test_mlflow_holds_what_metrics_csv_holds_and_is_continued(run, monkeypatch):
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fit("mlflow", run)
    kept = json.loads((run / "logger.json").read_text())["mlflow"]
    _, logger = fit("mlflow", run, steps=12, ckpt_path=run / "checkpoints" / "last.ckpt")
    assert logger.run_id == kept
    client = logger.experiment
    (experiment,) = client.search_experiments(filter_string=f"name = '{RECIPE}'")
    (recorded,) = client.search_runs([experiment.experiment_id])
    assert recorded.info.run_id == kept
    assert recorded.info.run_name == run.name
    assert (recorded.data.tags["losses"], recorded.data.tags["transfer"]) == ("mmd", "still->moved")
    assert recorded.data.params["model/lr"] == "0.5"
    expected = [(step, row["train/mmd"]) for step, row in rows(run) if "train/mmd" in row]
    assert sorted((m.step, m.value) for m in client.get_metric_history(kept, "train/mmd")) == expected
    assert (run / "mlflow.db").is_file()
