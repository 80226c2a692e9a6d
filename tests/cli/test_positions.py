"""A fingerprint network from a table to positions, through the command."""

import csv
import json

import pytest
import torch
import yaml

import tlkit
from tests.data.scan_files import office, office_frame
from tlkit.cli.main import main


@pytest.fixture(scope="module", params=["Regression", "PlaceRegression"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("positions")
    table = office(folder)["table"]
    recipe = {
        "model": {
            "backbone": {"class_path": "FingerprintNet", "init_args": {"width": 16}},
            "task": {"class_path": request.param},
            "adaptation": [{"class_path": "CORAL"}],
            "batch_norm": "adabn",
        },
        "data": {
            "class_path": "FingerprintDomains",
            "init_args": {"table": vars(table), "sources": ["old"], "targets": ["new"], "batch_size": 8},
        },
        "trainer": {
            "max_steps": 20,
            "val_check_interval": 10,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 5,
            "accelerator": "cpu",
        },
    }
    (folder / "office.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["fit", "--config", str(folder / "office.yaml"), f"--runs={folder}", "--run_id=r"]) == 0
    return next(folder.rglob("r/summary.json")).parent


def test_the_checkpoint_is_chosen_by_the_lowest_error_on_source_validation(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["selection"]["monitor"] == "selection/source_error_mean"
    assert summary["selection"]["uses_target_labels"] is False
    with (run / "metrics.csv").open() as stream:
        scores = [
            float(row["selection/source_error_mean"]) for row in csv.DictReader(stream) if row["val/old/error_mean"]
        ]
    assert summary["selection"]["score"] == pytest.approx(min(scores), rel=1e-4)
    errors = {"error_mean", "error_median", "error_p75", "error_p95"}
    assert set(summary["metrics"]) == {f"test/{domain}/{name}" for domain in ("old", "new") for name in errors}


def test_predictions_are_a_column_a_quantity_and_give_the_error_of_the_summary(run):
    assert main(["predict", "--config", str(run / "config.yaml")]) == 0
    with (run / "predictions" / "new.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["index", "name", "x_m", "y_m"]
    frame = office_frame()
    places = {f"office.csv, line {line}": (row.x_m, row.y_m) for line, row in enumerate(frame.itertuples(), 2)}
    truth = torch.tensor([places[row["name"]] for row in rows], dtype=torch.float64)
    predicted = torch.tensor([[float(row["x_m"]), float(row["y_m"])] for row in rows], dtype=torch.float64)
    error = (predicted - truth).norm(dim=1).mean().item()
    assert error == pytest.approx(
        json.loads((run / "summary.json").read_text())["metrics"]["test/new/error_mean"], rel=1e-5
    )


def test_the_checkpoint_holds_the_units_and_the_number_of_access_points(run):
    model = tlkit.load(run)
    assert model.data_spec.quantities == ("x_m", "y_m")
    x = torch.rand(3, 6)
    with torch.no_grad():
        outputs = model(x)
    assert outputs.shape == (3, model.network.num_outputs)
    assert model.network.task.scale.tolist() == pytest.approx(model.data_spec.scale)
    assert all(values.isfinite().all() for values in model.network.task.predict(outputs).values())
    with pytest.raises(tlkit.errors.BackboneError, match=r"scans of shape \(B, 6\)"):
        model(torch.rand(3, 7))


def test_data_of_other_labels_is_refused(run, capsys):
    words = ["--config", str(run / "config.yaml"), "--data.label=floor", "--model.task=Classification"]
    assert main(["test", *words]) == 2
    assert "was built for the classes [], the data has ['0', '1']" in capsys.readouterr().err
