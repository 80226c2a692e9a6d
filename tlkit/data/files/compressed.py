"""Compressed files that cannot fill the memory: a small file that unpacks to a huge one is refused while it is read."""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
from pathlib import Path
from typing import IO, Any, cast

from tlkit.errors import DataError

__all__ = ["check_expansion", "check_zip", "open_compressed"]

# Tables and images shrink to a tenth or so, a column of zeros to a thousandth; both in small files are harmless.
_HARMLESS = 1 << 28  # bytes
_MOST = 250  # times


def check_expansion(path: Path, size: int) -> None:
    """Refuse a file that unpacks to more than 256 MiB and more than 250 times its own size.

    Args:
        path: The compressed file.
        size: How many bytes it unpacks to, or has unpacked to so far.

    Raises:
        DataError: If it does.
    """
    if size > max(_HARMLESS, _MOST * path.stat().st_size):
        raise DataError(
            f"{path} has {path.stat().st_size} bytes and unpacks to {size} or more: it is damaged, or made to fill the "
            "memory. If it is what it should be, unpack it by hand and name what comes out"
        )


def check_zip(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a zip file, as an ``.npz`` is one, whose members say that they unpack to too much.

    Raises:
        DataError: See :func:`check_expansion`.
    """
    check_expansion(path, sum(member.file_size for member in archive.infolist()))


def open_compressed(path: Path) -> IO[bytes]:
    """Open a file to read its bytes, unpacked if its name ends in ``.gz`` or ``.bz2``.

    Raises:
        DataError: While it is read, see :func:`check_expansion`.
    """
    opened: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
    if (unpack := opened.get(path.suffix.lower())) is None:
        return path.open("rb")
    return cast(IO[bytes], io.BufferedReader(_Counted(path, unpack(path, "rb")), 1 << 16))


class _Counted(io.RawIOBase):
    """An unpacked stream that keeps count."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self.path, self.stream, self.count = path, stream, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self.stream.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self.count += len(chunk)
        check_expansion(self.path, self.count)
        return len(chunk)

    def close(self) -> None:
        self.stream.close()
        super().close()
