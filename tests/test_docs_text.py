"""The table and the recipe of docs/text.md run as they stand."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from tests.data.text_files import sentences, write_tokenizer
from tlkit.cli.main import main

PAGE = (Path(__file__).parents[1] / "docs" / "text.md").read_text(encoding="utf-8")


def block(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("representation", ["words", "tokens"])
def test_your_own_texts(tmp_path, monkeypatch, representation):
    monkeypatch.chdir(tmp_path)
    # The page's four rows, and more of their kind: four are too few to hold any out.
    Path("mine.csv").write_text(block("csv")[0], encoding="utf-8")
    frame = pd.read_csv("mine.csv")
    names = {"positive": "good", "negative": "bad"}
    more = [(text, names[label], domain) for domain in ("dvd", "electronics") for text, label in sentences(domain, 60)]
    pd.concat([frame, pd.DataFrame(more, columns=frame.columns)]).to_csv("mine.csv", index=False)
    Path("mine.yaml").write_text(block("yaml")[0], encoding="utf-8")
    steps, interval = (120, 40) if representation == "words" else (6, 2)
    words = [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={interval}", "--trainer.accelerator=cpu"]
    words += ["--trainer.log_every_n_steps=1", "--run_id=r"]
    if representation == "tokens":
        folder = write_tokenizer(tmp_path / "bert")
        words += ["--model.backbone=TransformersBackbone", f"--model.backbone.name_or_folder={folder}"]
        words += ["--model.backbone.pretrained=false", f"--data.tokenizer={folder}", "--data.words=null"]
    assert main(["fit", "--config", "mine.yaml", *words]) == 0
    run = next(path.parent for path in tmp_path.rglob("summary.json"))
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert {"test/electronics/accuracy", "test/dvd/accuracy"} <= set(metrics)
    if representation == "words":
        assert metrics["test/dvd/accuracy"] > 0.9  # "good" and "bad" are among the words
    assert main(["test", "--config", str(run / "config.yaml")]) == 0
