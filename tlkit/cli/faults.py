"""Words for what ends a run from outside (a full disk, memory that ran out, a dead process), or by its settings."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException

from tlkit.distributed import several_ranks
from tlkit.errors import ConfigurationError, RunError, TlkitError

__all__ = ["in_words", "misconfigured", "worded"]

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")
# What the back ends say to the ranks that are left.
_PEER = re.compile(r"gloo|NCCL|closed by (?:remote )?peer|reset by peer|Broken pipe", re.IGNORECASE)


def in_words(error: BaseException) -> RunError | None:
    """Return what to tell the user of an error that is no fault of the code; None if it may be one.

    Example:
        >>> print(in_words(OSError(28, "No space left on device", "runs/a/metrics.csv")))
        runs/a/metrics.csv cannot be written or read: No space left on device. Make room, or make the folder writable
        >>> in_words(KeyError("x")) is None
        True
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno in _DISK:
        name = error.filename or "a file"
        return RunError(f"{name} cannot be written or read: {error.strerror}. Make room, or make the folder writable")
    if isinstance(error, torch.OutOfMemoryError):
        return RunError(
            "the GPU's memory ran out. Lower data.batch_size, or use --trainer.precision=bf16-mixed or more devices",
            repeats=True,
        )
    if isinstance(error, MemoryError):
        return RunError("the memory ran out. Lower data.batch_size or data.num_workers", repeats=True)
    if isinstance(error, RuntimeError) and (worker := _WORKER.search(text)):
        return RunError(
            f"a worker process of the data loader (pid {worker[1]}) died: it was killed, most often because memory ran "
            "out, or its code crashed. Lower data.num_workers; with 0 the data are read in this process, which shows "
            "the crash"
        )
    lost = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and _PEER.search(text))
    if lost and several_ranks():
        return RunError("another process of this run has ended, and this one cannot go on without it; see what it said")
    return None


def misconfigured(error: Exception) -> ConfigurationError | None:
    """Return what Lightning says of the settings that it was given; None if the error is not of its making.

    It checks many of them by plain errors: those are told by where they are raised.
    """
    if isinstance(error, TlkitError):
        return None
    *_, module = ["", *(frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))]
    own = isinstance(error, ValueError | RuntimeError) and f"{module}.".startswith("lightning.pytorch.")
    if not (own or isinstance(error, MisconfigurationException)):
        return None
    return ConfigurationError(f"Lightning cannot train with these settings: {' '.join(str(error).split())}")


@contextmanager
def worded() -> Iterator[None]:
    """Raise what :func:`in_words` and :func:`misconfigured` know in their words.

    Raises:
        RunError: For an error inside that comes from outside.
        ConfigurationError: For one that Lightning raises of the user's settings.
    """
    try:
        yield
    except Exception as error:
        if (fault := in_words(error) or misconfigured(error)) is None:
            raise
        raise fault from error
