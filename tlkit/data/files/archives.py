"""Archives, unpacked whole or not at all, and never outside their folder."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tlkit.data.files.compressed import check_expansion
from tlkit.errors import DataError, brief

__all__ = ["unpack"]

_SINGLE: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open}
# Name, kind ("file", "folder" or what is refused), and what opens the content.
_Member = tuple[str, str, Callable[[], IO[bytes] | None]]


def unpack(archive: Path, folder: Path, marker: str = "", replace: bool = True) -> Path:
    """Unpack a zip, tar (also compressed) or a single gz or bz2 file into ``folder``.

    Everything is unpacked aside and then moved, so a folder that has appeared is complete.

    Args:
        archive: The file.
        folder: Where to; made if it is not there.
        marker: A path in ``folder`` that is there once the archive has been unpacked: nothing is done if it is.
        replace: Whether files of the same name are replaced; else they stay as they are.

    Returns:
        ``folder``.

    Raises:
        DataError: If the archive is damaged, is none, unpacks to far more than archives do, or a member is a link or
            would lie outside ``folder``.
    """
    if marker and (folder / marker).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder))
    try:
        size = 0
        for name, kind, content in _members(archive, folder):
            size = _unpack_member(archive, name, kind, content, aside, size)
        _move(aside, folder, marker, replace)
    except (
        OSError,
        EOFError,
        RuntimeError,  # zipfile's, for a member with a password or of a compression that it does not know
        MemoryError,
        OverflowError,
        UnicodeDecodeError,
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise DataError(
            f"cannot unpack {archive}: {brief(error)}; if it is damaged, delete it and get it again"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _members(archive: Path, folder: Path) -> Iterator[_Member]:
    if not archive.is_file():
        raise DataError(f"no archive {archive}")
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive, folder)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for member in tar:
                kind = "file" if member.isreg() else "folder" if member.isdir() else "a link or a device"
                yield member.name, kind, lambda member=member: tar.extractfile(member)  # type: ignore[misc]
    elif archive.suffix in _SINGLE:
        yield archive.stem, "file", lambda: _SINGLE[archive.suffix](archive)
    else:
        with archive.open("rb") as file:
            start = file.read(20)
        raise DataError(
            f"{archive} is no zip, tar, gz or bz2 file, it begins with {start!r}: a page that was saved instead, or a "
            "download that broke off? Delete it and get it again"
        )


def _zip_members(archive: Path, folder: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as bundle:
        size, free = sum(member.file_size for member in bundle.infolist()), shutil.disk_usage(folder).free
        if size > free:
            raise DataError(f"{archive} unpacks to {size / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB free")
        for member in bundle.infolist():
            link = stat.S_ISLNK(member.external_attr >> 16)
            kind = "a link or a device" if link else "folder" if member.is_dir() else "file"
            yield member.filename, kind, lambda member=member: bundle.open(member)  # type: ignore[misc]


def _unpack_member(
    archive: Path, name: str, kind: str, content: Callable[[], IO[bytes] | None], aside: Path, size: int
) -> int:
    """Unpack a member into ``aside``, and return how many bytes that and the ``size`` of those before it are."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")) or "\0" in name:
        raise DataError(f"{archive} has a member outside its folder, {name!r}: nothing was unpacked. Do not trust it")
    if kind not in ("file", "folder"):
        raise DataError(
            f"{archive}: the member {name!r} is {kind}: nothing was unpacked. Unpack it by hand if you trust it"
        )
    target = aside / path
    if kind == "folder":
        target.mkdir(parents=True, exist_ok=True)
        return size
    target.parent.mkdir(parents=True, exist_ok=True)
    source = content()
    if source is None:
        raise DataError(f"{archive}: the member {name!r} has no content")
    with source, target.open("wb") as out:
        while chunk := source.read(1 << 20):
            out.write(chunk)
            size += len(chunk)
            check_expansion(archive, size)
    return size


def _move(aside: Path, folder: Path, last: str, replace: bool) -> None:
    """Move everything from ``aside`` into ``folder``, what ``last`` lies in at the end."""
    first = PurePosixPath(last).parts[:1]
    for path in sorted(aside.iterdir(), key=lambda path: ((path.name,) == first, path.name)):
        target = folder / path.name
        if target.is_dir() and path.is_dir():
            _move(path, target, "/".join(PurePosixPath(last).parts[1:]) if (path.name,) == first else "", replace)
        elif target.is_dir() != path.is_dir() and target.exists():
            raise DataError(f"{target} is in the way of a file or folder of the archive; move it away")
        elif replace or not target.exists():
            os.replace(path, target)
