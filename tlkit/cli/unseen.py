"""What a model is scored on, held against what the run that it comes from learned from."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import lightning as L

from tlkit.cli.runfolder import check_splits
from tlkit.data import DomainDataModule
from tlkit.types import Split

__all__ = ["Unseen"]

# Which rows there are does not follow from these: how they are divided, and how they are read.
_HOW = {*inspect.signature(DomainDataModule.__init__).parameters, "split_by", "augment", "image_size", "cache_gb"}

_SCORED: dict[str, tuple[Split, ...]] = {"fit": ("val", "test"), "validate": ("val",), "test": ("test",)}


class Unseen(L.Callback):
    """Sees to it that nothing is scored which a run learned from, once the data is read.

    Args:
        run: The run's folder.
        recipe: The run's recipe as its checkpoint holds it; None if it was trained from Python.
        new: The recipe of this command, with every default filled in.

    Attributes:
        run: The run's folder.
        differ: The arguments by which the rows of both may be others, so that they cannot be compared.
    """

    def __init__(self, run: Path, recipe: dict[str, Any] | None, new: dict[str, Any]) -> None:
        self.run, self.differ = run, _differ(recipe["data"] if recipe else {}, new["data"])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Hold the rows that are to be scored against those of the run; a training ends with its test."""
        if not self.differ:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            check_splits(self.run, data, *_SCORED[stage])


def _differ(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the arguments by which two recipes may read other rows: another module, other files, other windows."""
    one, two = _what_is_read(old), _what_is_read(new)
    return [f"data.{key}" for key in {**one, **two} if one.get(key) != two.get(key)]


def _what_is_read(data: dict[str, Any]) -> dict[str, Any]:
    arguments = {key: _absolute(key, value) for key, value in (data.get("init_args") or {}).items() if key not in _HOW}
    return {"class_path": data.get("class_path"), **arguments}


def _absolute(key: str, value: Any) -> Any:
    """Return an argument with the one name that a file has from everywhere."""
    if isinstance(value, dict):
        return {name: _absolute(name, each) for name, each in value.items()}
    return (
        os.path.abspath(value) if key in ("root", "path") and isinstance(value, str) and "://" not in value else value
    )
