"""Every public data module with the arguments and the files that test_all_data_modules.py walks over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data.image_sets import colour_digits, domainnet, image_table, office31, office_home, pacs, visda2017
from tests.data.medical_files import chest_xray, medmnist, oct_scans
from tests.data.recording_files import hhar, series_table, sp_sw_har, uci_har, wisdm
from tests.data.scan_files import office, ujiindoorloc, ujilibrary
from tests.data.shard_sets import array_shards, image_shards
from tests.data.text_files import amazon_reviews, text_table
from tlkit.data import (
    HHAR,
    OCT,
    PACS,
    SPSWHAR,
    UCIHAR,
    WISDM,
    AmazonReviews,
    ArrayShardDomains,
    ChestXRay,
    Digits,
    DomainDataModule,
    DomainNet,
    FingerprintDomains,
    ImageFolderDomains,
    ImageShardDomains,
    ImageTableDomains,
    MedMNIST,
    Office31,
    OfficeHome,
    SeglearnWatch,
    SeriesColumns,
    SeriesDomains,
    Signals,
    TextDomains,
    UJIIndoorLoc,
    UJILibrary,
    VisDA2017,
    Windowing,
)


def image_folders(root: Path) -> dict[str, Any]:
    """Write two domains of two classes, 20 small images each."""
    random = np.random.default_rng(0)
    for domain in ("photo", "sketch"):
        for name in ("cat", "dog"):
            (root / domain / name).mkdir(parents=True)
            for number in range(20):
                pixels = random.integers(0, 255, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / domain / name / f"{number}.png")
    return {"root": str(root)}


def unlabelled_image_folders(root: Path) -> dict[str, Any]:
    """Write the folders of :func:`image_folders`, with the images of ``sketch`` in no class's folder."""
    files, sketch = image_folders(root), root / "sketch"
    for path in list(sketch.rglob("*.png")):
        path.rename(sketch / f"{path.parent.name}_{path.name}")
    return files


def series_columns(root: Path) -> dict[str, Any]:
    """Write a table of recordings; from Python its columns are named by a ``SeriesColumns``."""
    files = series_table(root)
    return {**files, "columns": SeriesColumns(**files["columns"])}


@dataclass(frozen=True)
class Setting:
    """A data module with a source, a target (None where there is no second domain of its classes) and other arguments.

    Attributes:
        write: Writes the files that the module reads into a folder and returns the arguments that name them; ``None``
            for data inside packages.
    """

    module: type[DomainDataModule]
    source: str
    target: str | None
    arguments: dict[str, Any] = field(default_factory=dict)
    write: Callable[[Path], dict[str, Any]] | None = None

    def __str__(self) -> str:
        return "-".join([self.module.__name__, *(f"{key}={value}" for key, value in self.arguments.items())])

    def files(self, folder: Path) -> dict[str, Any]:
        """Write the module's files, if it has any, and return the arguments that name them."""
        return self.write(folder) if self.write else {}

    @property
    def domains(self) -> list[str]:
        """The source, and the target if there is one."""
        return [domain for domain in (self.source, self.target) if domain]

    def make(self, files: dict[str, Any], **overrides: Any) -> DomainDataModule:
        """Build the data module."""
        roles = {"sources": [self.source], "targets": [self.target] if self.target else [], "batch_size": 8}
        return self.module(**{**roles, **files, **self.arguments, **overrides})


SETTINGS = [
    Setting(ChestXRay, "bacteria", "virus", {"image_size": 16}, write=chest_xray),
    Setting(OCT, "oct", None, {"image_size": 16}, write=oct_scans),
    Setting(MedMNIST, "pneumoniamnist", None, write=medmnist),
    Setting(MedMNIST, "octmnist", None, {"image_size": 14, "channels": 1}, write=medmnist),
    Setting(Digits, "mnist", "optdigits"),
    Setting(Digits, "optdigits", "mnist", {"image_size": 28, "channels": 3}),
    Setting(Digits, "svhn", "mnist_m", {"channels": 3}, write=colour_digits),
    Setting(ImageFolderDomains, "photo", "sketch", {"image_size": 16}, write=image_folders),
    Setting(ImageFolderDomains, "sketch", "photo", {"image_size": 16, "augment": "strong"}, write=image_folders),
    Setting(ImageShardDomains, "photo", "sketch", {"image_size": 16}, write=image_shards),
    Setting(ArrayShardDomains, "left", "right", {"window": 2}, write=array_shards),
    Setting(ImageTableDomains, "north", "south", {"image_size": 16}, write=image_table),
    Setting(Office31, "amazon", "webcam", {"image_size": 16}, write=office31),
    Setting(OfficeHome, "Art", "Real World", {"image_size": 16}, write=office_home),
    Setting(PACS, "photo", "cartoon", {"image_size": 16}, write=pacs),
    Setting(VisDA2017, "train", "validation", {"image_size": 16}, write=visda2017),
    Setting(DomainNet, "clipart", "painting", {"image_size": 16}, write=domainnet),
    Setting(TextDomains, "electronics", "dvd", {"max_length": 8}, write=text_table),
    Setting(AmazonReviews, "books", "kitchen", {"protocol": "inductive"}, write=amazon_reviews),
    Setting(FingerprintDomains, "old", "new", {"weakest": -100.0}, write=office),
    Setting(FingerprintDomains, "new", "old", {"label": "building_floor", "representation": "powed"}, write=office),
    Setting(UJIIndoorLoc, "training", "validation", {"protocol": "inductive"}, write=ujiindoorloc),
    Setting(UJIIndoorLoc, "phone-13", "phone-14", {"label": "floor", "protocol": "inductive"}, write=ujiindoorloc),
    Setting(UJILibrary, "month-01", "month-02", write=ujilibrary),
    Setting(UJILibrary, "month-02", "month-01", {"label": "floor", "learn_from": "survey_and_campaigns"}, ujilibrary),
    Setting(
        SeriesDomains,
        "hip",
        "wrist",
        {"windows": Windowing(length=32, stride=16), "signals": Signals(standardize="recording", rotate=True)},
        write=series_columns,
    ),
    Setting(
        SeriesDomains,
        "p1-p2/hip",
        "p3",
        {"windows": Windowing(length=32, stride=16), "signals": Signals(channels="vertical"), "split_by": "time"},
        write=series_columns,
    ),
    Setting(
        SPSWHAR,
        "phone",
        "watch",
        {"windows": Windowing(length=32, stride=16), "signals": Signals("raw+magnitude", "domain", stretch=0.2)},
        write=sp_sw_har,
    ),
    Setting(SeglearnWatch, "side0", "side1"),
    Setting(SeglearnWatch, "side1", "side0", {"split_by": "person"}),
    Setting(UCIHAR, "s01", "s02", write=uci_har),
    Setting(WISDM, "s01", "s02", write=wisdm),
    Setting(HHAR, "nexus4", "s3", {"windows": Windowing(length=64, longest=3.0)}, write=hhar),
]
