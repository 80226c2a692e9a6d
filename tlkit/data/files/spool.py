"""Arrays that grow, in memory while they are small and on disk from then on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tlkit.errors import DataError

__all__ = ["Spool", "cache_folder"]

_IN_MEMORY = 64 << 20  # bytes; what is larger goes to disk


def cache_folder() -> Path:
    """Return where tlkit keeps what it has worked out: ``$XDG_CACHE_HOME/tlkit``, else ``~/.cache/tlkit``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tlkit"


class Spool:
    """One array, made of parts that are added one after the other and copied.

    From 64 MiB on it lies in a file without a name in :func:`cache_folder`, or, where that cannot be written, in the
    system's folder for temporary files. It is gone when the array is, even if the process is killed.

    Args:
        dtype: Type of the elements.
        columns: Shape of one row; ``()`` for a vector.

    Example:
        >>> spool = Spool(np.float32, (2,))
        >>> for rows in ([[1, 2]], [[3, 4], [5, 6]]):
        ...     spool.add(np.array(rows))
        >>> spool.array()[1:].tolist()
        [[3.0, 4.0], [5.0, 6.0]]
    """

    def __init__(self, dtype: DTypeLike, columns: tuple[int, ...] = ()) -> None:
        self.dtype, self.columns = np.dtype(dtype), columns
        self._parts: list[NDArray[Any]] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None

    def add(self, rows: NDArray[Any]) -> None:
        """Add ``(N, *columns)`` rows.

        Raises:
            DataError: If the disk is full.
        """
        part = np.array(rows, self.dtype, order="C").reshape(len(rows), *self.columns)
        self._parts.append(part)
        self._bytes += part.nbytes
        if self._file is not None or self._bytes > _IN_MEMORY:
            self._file = self._file or _unnamed_file()
            with _worded(self._file):
                for each in self._parts:
                    self._file.write(each.data)
            self._parts.clear()

    def array(self) -> NDArray[Any]:
        """Return all rows. It is asked once, and then none may be added.

        Raises:
            DataError: If the disk is full.
        """
        if self._file is None:
            empty = np.empty((0, *self.columns), self.dtype)
            return np.concatenate([empty, *self._parts])
        with _worded(self._file):
            self._file.flush()
        # Not copy on write, of which Linux promises no more than it has memory; torch takes no array to read alone.
        mapped = np.memmap(self._file, self.dtype, "r+", shape=(self._size(), *self.columns))
        self._file.close()
        return mapped

    def _size(self) -> int:
        return self._bytes // (self.dtype.itemsize * int(np.prod(self.columns, dtype=np.int64)))


@contextmanager
def _worded(file: IO[bytes]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        with suppress(OSError):  # else it is tried again when the file is no longer used
            file.close()
        raise DataError(
            f"what is too large for memory cannot be kept in {cache_folder()}: {error.strerror or error}. Make room "
            "there, or set XDG_CACHE_HOME to a folder on another disk"
        ) from error


def _unnamed_file() -> IO[bytes]:
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=cache_folder())
    except OSError:
        return tempfile.TemporaryFile()
