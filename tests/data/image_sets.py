"""Image sets of the published layouts, small ones, written by code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat


def noise(path: Path, seed: int, size: int = 24) -> None:
    """Write an image of noise; ``path`` ends in .png or .jpg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def class_folders(
    root: Path, domains: Iterable[str], classes: Iterable[str], number: int = 20, ending: str = "jpg"
) -> None:
    """Write ``root/domain/class/frame_*``."""
    for domain in domains:
        for name in classes:
            for i in range(number):
                noise(root / domain / name / f"frame_{i:04d}.{ending}", i)


def image_table(root: Path) -> dict[str, Any]:
    """Write a table of files, classes and domains."""
    class_folders(root, ["north", "south"], ["ill", "well"], ending="png")
    files = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    lines = [f"{path},{path.parent.name},{path.parts[0]}" for path in files]
    (root / "table.csv").write_text("\n".join(["path,label,domain", *lines]) + "\n")
    return {"table": str(root / "table.csv")}


def office31(root: Path) -> dict[str, Any]:
    """Write Office-31 as its archive unpacks."""
    class_folders(root, ["amazon/images", "dslr/images", "webcam/images"], ["back_pack", "bike"])
    return {"root": str(root)}


def office_home(root: Path) -> dict[str, Any]:
    """Write Office-Home as its archive unpacks."""
    folder = root / "OfficeHomeDataset_10072016"
    class_folders(folder, ["Art", "Clipart", "Product", "Real World"], ["Alarm_Clock", "TV"])
    (folder / "ImageInfo.csv").write_text("")
    return {"root": str(root)}


def pacs(root: Path) -> dict[str, Any]:
    """Write three domains of PACS."""
    class_folders(root, ["photo", "art_painting", "cartoon"], ["dog", "guitar"])
    return {"root": str(root)}


def visda2017(root: Path) -> dict[str, Any]:
    """Write VisDA-2017 as its three archives unpack; the published list of the test files lies beside them."""
    for domain, ending in (("train", "png"), ("validation", "jpg")):
        class_folders(root, [domain], ["bus", "car"], ending=ending)
        files = sorted(path.relative_to(root / domain) for path in (root / domain).rglob(f"*.{ending}"))
        lines = [f"{path} {2 if path.parent.name == 'bus' else 3}\n" for path in files]
        (root / domain / "image_list.txt").write_text("".join(lines))
    names = [f"trunk0{i % 2 + 1}/{i:032x}.jpg" for i in range(40)]
    for i, name in enumerate(names):
        noise(root / "test" / name, i)
    (root / "test" / "image_list.txt").write_text("".join(f"{name}\n" for name in names))
    (root / "test_image_list.txt").write_text("".join(f"{name} {2 + i % 2}\n" for i, name in enumerate(names)))
    return {"root": str(root)}


def domainnet(root: Path) -> dict[str, Any]:
    """Write two domains of DomainNet with their published lists."""
    classes = {"aircraft_carrier": 0, "t-shirt": 327}
    (root / "splits").mkdir()
    for domain in ("clipart", "painting"):
        for name in classes:
            for i in range(20):
                noise(root / domain / name / f"{domain}_001_{i:06d}.jpg", i)
        for split, numbers in (("train", range(14)), ("test", range(14, 20))):
            lines = [
                f"{domain}/{name}/{domain}_001_{i:06d}.jpg {label}\n"
                for name, label in classes.items()
                for i in numbers
            ]
            (root / "splits" / f"{domain}_{split}.txt").write_text("".join(lines))
    return {"root": str(root)}


def colour_digits(root: Path) -> dict[str, Any]:
    """Write SVHN and MNIST-M as they are published."""
    random = np.random.default_rng(0)
    for part, number in (("train", 60), ("test", 40)):
        images = random.integers(0, 256, (32, 32, 3, number), dtype=np.uint8)
        savemat(root / f"{part}_32x32.mat", {"X": images, "y": np.arange(number)[:, None] % 10 + 1})
        names = [f"{row:08d}.png" for row in range(number)]
        for row, name in enumerate(names):
            noise(root / "mnist_m" / f"mnist_m_{part}" / name, row, 28)
        lines = [f"{name} {row % 10}\n" for row, name in enumerate(names)]
        (root / "mnist_m" / f"mnist_m_{part}_labels.txt").write_text("".join(lines))
    return {"root": str(root)}
