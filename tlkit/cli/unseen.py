"""What a model is scored on, held against what the run that it comes from learned from."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import lightning as L

from tlkit.cli.runfolder import check_splits
from tlkit.data import DomainDataModule

__all__ = ["Unseen"]


class Unseen(L.Callback):
    """Sees to it that nothing is scored which a run learned from, once the data is read.

    Args:
        run: The run's folder.
        recipe: The run's recipe as its checkpoint holds it; None if it was trained from Python.
        new: The recipe of this command, with every default filled in.
    """

    def __init__(self, run: Path, recipe: dict[str, Any] | None, new: dict[str, Any]) -> None:
        self.run, self.comparable = run, recipe is not None and _same_rows(recipe["data"], new["data"])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Hold the rows that are to be scored against those of the run."""
        if self.comparable:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            check_splits(self.run, data, "val" if stage == "validate" else "test")  # a training ends with its test


def _same_rows(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether two recipes read the same rows, however they divide them: the same module, files and windows."""
    divide = {*inspect.signature(DomainDataModule.__init__).parameters, "split_by"}

    def read(data: dict[str, Any]) -> dict[str, Any]:
        arguments = data.get("init_args") or {}
        return {"class": data["class_path"]} | {key: value for key, value in arguments.items() if key not in divide}

    return read(old) == read(new)
