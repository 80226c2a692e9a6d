"""Every public data module with the arguments and the files that test_all_data_modules.py walks over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tlkit.data import Digits, DomainDataModule, ImageFolderDomains


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


@dataclass(frozen=True)
class Setting:
    """A data module with a source, a target and its other arguments.

    Attributes:
        write: Writes the files that the module reads into a folder and returns the arguments that name them; ``None``
            for data inside packages.
    """

    module: type[DomainDataModule]
    source: str
    target: str
    arguments: dict[str, Any] = field(default_factory=dict)
    write: Callable[[Path], dict[str, Any]] | None = None

    def __str__(self) -> str:
        return "-".join([self.module.__name__, *(f"{key}={value}" for key, value in self.arguments.items())])

    def files(self, folder: Path) -> dict[str, Any]:
        """Write the module's files, if it has any, and return the arguments that name them."""
        return self.write(folder) if self.write else {}

    def make(self, files: dict[str, Any], **overrides: Any) -> DomainDataModule:
        """Build the data module."""
        roles = {"sources": [self.source], "targets": [self.target], "batch_size": 8}
        return self.module(**{**roles, **files, **self.arguments, **overrides})


SETTINGS = [
    Setting(Digits, "mnist", "optdigits"),
    Setting(Digits, "optdigits", "mnist", {"image_size": 28, "channels": 3}),
    Setting(ImageFolderDomains, "photo", "sketch", {"image_size": 16}, write=image_folders),
]
