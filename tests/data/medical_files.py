"""Tiny files in the layouts of the published medical sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def grey(path: Path, level: int) -> None:
    """Write a grey JPEG of one level, wider than high as the X-rays are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (30, 24), level).save(path)


def chest_xray(root: Path) -> dict[str, Any]:
    """The names of the copy with persons: two images of each of 24 patients of a kind, half as many to test."""
    for part, first, last in (("train", 100, 124), ("test", 1, 12)):
        for patient in range(first, last):
            for image in (1, 2):
                number = patient * 2 + image
                for kind in ("bacteria", "virus"):
                    grey(root / part / "PNEUMONIA" / f"person{patient}_{kind}_{number}.jpeg", number)
                grey(root / part / "NORMAL" / f"IM-{patient:04d}-{image:04d}.jpeg", 255 - number)
                grey(root / part / "NORMAL" / f"NORMAL2-IM-{patient:04d}-0001-{image:04d}.jpeg", 250 - number)
    return {"root": str(root)}


def chest_xray_archive(root: Path) -> dict[str, Any]:
    """The names and the folder of the archive at Mendeley; the patient 7 is in both parts."""
    for part, first, last in (("train", 7, 40), ("test", 1, 8)):
        for patient in range(first, last):
            for name in ("NORMAL/NORMAL", "PNEUMONIA/BACTERIA", "PNEUMONIA/VIRUS"):
                # The patients of two kinds are others: ids are given to patients, not to images.
                number = patient + 1000 * ("BACTERIA" in name) + 2000 * ("VIRUS" in name)
                grey(root / "chest_xray" / part / f"{name}-{number}-0001.jpeg", patient)
    (root / "chest_xray" / "train" / "NORMAL" / "._NORMAL-7-0001.jpeg").write_bytes(b"resource fork")
    return {"root": str(root)}


def oct_scans(root: Path) -> dict[str, Any]:
    """Three scans of each of 12 patients a class to train, one of others to test, and the patient 5 in both."""
    for name in ("CNV", "DME", "DRUSEN", "NORMAL"):
        for patient in range(5, 17):
            for image in (1, 2, 3):
                grey(root / "train" / name / f"{name}-{patient}-{image}.jpeg", patient)
        for patient in range(1, 6):
            grey(root / "test" / name / f"{name}-{patient}-1.jpeg", patient)
    return {"root": str(root)}


def medmnist(root: Path) -> dict[str, Any]:
    """Both sets, their sums not those published: labels in order, every image of the grey level of its number."""
    for name, classes in (("pneumoniamnist", 2), ("octmnist", 4)):
        content, number = {}, 0
        for part, size in (("train", 40), ("val", 12), ("test", 16)):
            levels = np.arange(number, number + size, dtype=np.uint8)
            content[f"{part}_images"] = np.broadcast_to(levels[:, None, None], (size, 28, 28))
            content[f"{part}_labels"] = (levels[:, None] % classes).astype(np.uint8)
            number += size
        np.savez_compressed(root / f"{name}.npz", **content)
    return {"root": str(root)}
