"""How a checkpoint gets onto the disk: straight to its file, without a second copy in memory or in ``/tmp``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from tlkit.errors import RunError

__all__ = ["CheckpointFile", "sync", "write_directly", "written"]


class CheckpointFile(TorchCheckpointIO):
    """Writes a checkpoint to the file that it is given, which must be none that a reader looks for yet.

    Lightning's own collects it in memory, writes it to the system's folder of temporary files and moves it: twice the
    memory, a second disk that can be full, and a file that stays there when the process is killed.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write it; an unfinished file of the same name is not written into, it may be another checkpoint as well."""
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # killed at the wrong moment, it is a second name of best.ckpt
        with file.open("xb") as stream:
            torch.save(checkpoint, stream)


def write_directly(trainer: L.Trainer) -> None:
    """Have the trainer use :class:`CheckpointFile`, unless it was given a way of its own to write checkpoints."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = CheckpointFile()


@contextmanager
def written(path: Path, aside: Path) -> Iterator[None]:
    """Say in words that a checkpoint could not be written, and give the room that half of it takes back.

    Raises:
        RunError: For an error of the file system inside.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save() hides what the file system said behind an error of its own; a connection is no file.
        disk = [each for each in _chain(error) if isinstance(each, OSError) and not isinstance(each, ConnectionError)]
        cause = next(iter(disk), None)
        if cause is None and "PytorchStreamWriter" not in str(error):
            raise
        if aside.is_file():
            aside.unlink()
        reason = "the file system refused it" if cause is None else cause.strerror or str(cause)
        before = "the one of before is intact" if path.exists() else "there is none of before"
        raise RunError(
            f"the checkpoint {path} cannot be written: {reason}; {before}. Make room, or make the folder writable"
        ) from error


def sync(path: Path) -> None:
    """Have the disk itself hold what a file holds, or which names a folder holds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
