"""What a model is scored on, held against what the run that it comes from learned from."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import lightning as L

from tlkit.cli.runfolder import check_splits
from tlkit.data import DomainDataModule
from tlkit.notes import say
from tlkit.types import Split

__all__ = ["Unseen"]

# Which rows there are does not follow from these: how they are divided, and how they are read.
_HOW = {
    *inspect.signature(DomainDataModule.__init__).parameters,
    "split_by",
    "group_pattern",
    "group",  # the name of a column, among those of a table
    "protocol",
    "augment",
    "image_size",
    "cache_gb",
}

_SCORED: dict[str, tuple[Split, ...]] = {
    "fit": ("val", "test"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
}


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
        self._recorded = recipe is not None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Hold the rows that are to be scored against those of the run; a training ends with its test."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        # What a retrieval searches in was learned from, and is another kind of data.
        if not self.differ and isinstance(data, DomainDataModule):
            check_splits(self.run, data, *_SCORED[stage])

    def say_if_unchecked(self, command: str, rows: str) -> None:
        """Say which arguments keep the rows from being compared, if any do; what Python trained left no record.

        Args:
            command: What the user called, ``"tlkit test"``.
            rows: What is to be done with them, ``"a row to test on"``.
        """
        if self.differ and self._recorded:
            say(
                f"{command}: whether {rows} was learned from in {self.run} is not checked, since other rows may be "
                f"meant: {', '.join(self.differ)} differ"
            )


def _differ(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the arguments by which two recipes may read other rows: another module, other files, other windows."""
    one, two = _what_is_read(old), _what_is_read(new)
    return [f"data.{key}" for key in {**one, **two} if one.get(key) != two.get(key)]


def _what_is_read(data: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": data.get("class_path"), **_of_rows(data.get("init_args") or {})}


def _of_rows(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that rows follow from, with the one name that a file has from everywhere."""
    found = {}
    for key, value in arguments.items():
        if key in _HOW:
            continue
        file = key in ("root", "path", "table") and isinstance(value, str) and "://" not in value
        found[key] = _of_rows(value) if isinstance(value, dict) else os.path.abspath(value) if file else value
    return found
