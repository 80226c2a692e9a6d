"""Published files: found in a folder, copied from a mirror or downloaded, and checked against their sums."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tlkit import __version__
from tlkit.data.files.archives import unpack
from tlkit.data.files.folders import data_folder, find_folder, locked
from tlkit.errors import DataError

__all__ = ["Published", "fetch", "published_folder", "unpack"]

_TRIES = 4  # of a connection that breaks off; each goes on where the last one ended
_WAIT = 1.0  # seconds between them
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18
_checked: set[tuple[str, int, int]] = set()


@dataclass(frozen=True)
class Published:
    """One published file.

    Attributes:
        name: Its file name.
        url: Where it is published; empty if it can only be had by hand.
        sha256: Its sum, if one is published.
        md5: The same.
        by_hand: What to do when the site is gone or asks for a login: another place, a search term.
    """

    name: str
    url: str
    sha256: str | None = None
    md5: str | None = None
    by_hand: str = ""


def published_folder(root: str | None, default: str, needed: Sequence[str], archives: Sequence[Published] = ()) -> Path:
    """Return the folder that holds a published data set; what is missing is fetched and unpacked into it.

    Args:
        root: The folder that the user named, or None. A relative one is looked for in the working folder, then in
            :func:`~tlkit.data.files.folders.data_folder`.
        default: The folder's name in :func:`~tlkit.data.files.folders.data_folder` when ``root`` is None.
        needed: Paths in the folder that must be there, files or folders.
        archives: The published files; an archive is unpacked.

    Raises:
        DataError: If ``root`` is not there, a file cannot be had, or something is still missing afterwards.
    """
    folder = find_folder(root) if root else data_folder() / default
    if not _missing(folder, needed):
        return folder
    if archives:
        with locked(folder / ".tlkit-lock", "TLKIT_DATA"):  # the ranks of a run must not write the same file
            if missing := _missing(folder, needed):  # another process may have been faster
                for file in archives:
                    try:
                        unpack(_fetch(file, folder), folder)
                    except DataError as error:
                        raise DataError(f"{folder} lacks {', '.join(missing)}: {error}") from error
    if missing := _missing(folder, needed):
        found = sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []
        held = f"holds {', '.join(found[:8])}{' and more' if len(found) > 8 else ''}" if found else "is empty"
        raise DataError(
            f"{folder} lacks {', '.join(missing)}: it {held if folder.is_dir() else 'is not there'}. Give the folder "
            "of the unpacked data as root"
        )
    return folder


def _missing(folder: Path, needed: Sequence[str]) -> list[str]:
    return [name for name in needed if not (folder / name).exists()]


def fetch(file: Published, folder: Path) -> Path:
    """Return ``folder/name``: as it lies there, else from the mirror, else downloaded.

    The environment variable TLKIT_MIRROR names a mirror: a folder, or a file, http or https address. There the file is
    looked for under the name of ``folder``, then by itself. A download that breaks off leaves ``<name>.part`` and goes
    on from there. A file with a wrong sum is kept as ``<name>.wrong-sum``.

    Args:
        file: What to fetch.
        folder: Where it belongs; made if it is not there.

    Raises:
        DataError: If it can be had nowhere, with what was tried and what to do; or if its sum is wrong.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt").write_bytes(b"here")
        >>> fetch(Published("a.txt", "", md5=hashlib.md5(b"here").hexdigest()), folder).read_text()
        'here'
    """
    if (folder / file.name).is_file():
        return _verified(file, folder / file.name)
    with locked(folder / ".tlkit-lock", "TLKIT_DATA"):  # the ranks of a run must not write the same file
        return _fetch(file, folder)


def _fetch(file: Published, folder: Path) -> Path:
    path = folder / file.name
    if path.is_file():
        return _verified(file, path)
    tried: list[str] = []
    for place in [*_mirrors(file, folder), *([file.url] if file.url else [])]:
        try:
            part = _get(file, place, folder)
        except (OSError, http.client.HTTPException, _NotTheFile) as error:
            tried.append(f"{place}: {_reason(error)}")
            continue
        try:
            _check_sum(file, part, place)
        except DataError as error:  # a mirror may hold another file of that name; the next place may have this one
            if place == file.url:
                raise
            tried.append(str(error))
            continue
        part.replace(path)
        return _verified(file, path, known=True)
    raise DataError(_nowhere(file, folder, tried))


def _nowhere(file: Published, folder: Path, tried: list[str]) -> str:
    looked = "; ".join(tried) or "there is no address to download it from"
    by_hand = f" {file.by_hand.rstrip('.')}." if file.by_hand else ""
    mirror = "" if os.environ.get("TLKIT_MIRROR") else ", or set TLKIT_MIRROR to a folder or an address that has it"
    return f"{file.name} is not in {folder}, and could not be fetched ({looked}).{by_hand} Put it into {folder}{mirror}"


class _NotTheFile(Exception):
    """What a site sends instead of the file."""


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        login = ", it asks for a login" if error.code in (401, 403) else ""
        return f"HTTP {error.code} {error.reason}{login}"
    cause = getattr(error, "reason", None) or error
    return "not there" if isinstance(cause, FileNotFoundError) else str(cause) or type(cause).__name__


def _mirrors(file: Published, folder: Path) -> list[str]:
    """Return where the file may be on the mirror, which is laid out as a data folder or holds all files flat."""
    mirror = os.environ.get("TLKIT_MIRROR", "").rstrip("/")
    if not mirror:
        return []
    scheme = urllib.parse.urlsplit(mirror).scheme
    if "://" not in mirror:
        base = Path(mirror).expanduser().absolute()
        if not base.is_dir():
            raise DataError(f"TLKIT_MIRROR: no folder {base}; name a folder, or a file, http or https address")
        mirror = base.as_uri()
    elif scheme not in ("file", "http", "https"):
        raise DataError(f"TLKIT_MIRROR: {mirror} is neither a folder nor a file, http or https address")
    return [f"{mirror}/{urllib.parse.quote(name)}" for name in (f"{folder.absolute().name}/{file.name}", file.name)]


def _get(file: Published, url: str, folder: Path) -> Path:
    """Download a file to ``<name>.part``, going on where an earlier download ended, and return its path."""
    part, mark = folder / f"{file.name}.part", folder / f"{file.name}.part-mark"
    for left in reversed(range(_TRIES)):
        start = part.stat().st_size if part.is_file() else 0
        try:
            complete = _transfer(file, url, part, mark)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 416 or not start:
                raise
            part.unlink()  # longer than the file, so not a part of it
            continue
        except (OSError, http.client.HTTPException):
            if not left or not part.is_file() or part.stat().st_size == start:
                raise
            complete = False
        if complete:
            mark.unlink(missing_ok=True)
            return part
        time.sleep(_WAIT if left else 0)
    raise ConnectionError(f"the connection broke off {_TRIES} times; run the command again to go on from {part}")


def _transfer(file: Published, url: str, part: Path, mark: Path) -> bool:
    """Add to ``part`` until the connection ends; return whether the file is complete."""
    request = urllib.request.Request(url, headers={"User-Agent": f"tlkit/{__version__}"})
    start = part.stat().st_size if part.is_file() else 0
    seen = mark.read_text() if mark.is_file() else ""
    # Without a sum to find it out later, a part is only completed by a server that says it is of the same file.
    if start and (seen or file.sha256 or file.md5) and not url.startswith("file:"):
        request.add_header("Range", f"bytes={start}-")
        if seen:
            request.add_header("If-Range", seen)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        headers = response.headers
        if headers.get_content_type() == "text/html" and not url.startswith("file:") and ".htm" not in file.name:
            raise _NotTheFile("it sent a web page instead of the file, perhaps a login or a notice")
        length = headers.get("Content-Length")
        if response.status == 206:
            if not re.match(rf"bytes {start}-", headers.get("Content-Range", "")):
                raise _NotTheFile(f"asked for the rest from byte {start}, it sent {headers.get('Content-Range')}")
        else:
            start = 0
        mark.write_text(_validator(headers))
        total = start + int(length) if length else None
        try:
            with part.open("ab" if start else "wb") as out, _progress(file.name, start, total) as advance:
                _copy(response, out, advance)
        except _DiskError as error:
            raise DataError(f"{part} cannot be written: {error}") from error
    return total is None or part.stat().st_size == total


def _validator(headers: Any) -> str:
    """Return what says that the file of the next request is the same, byte by byte."""
    tag: str = headers.get("ETag", "")
    return tag if tag.startswith('"') else str(headers.get("Last-Modified", ""))


class _DiskError(Exception):
    """What the disk refuses, told apart from what the network does."""


def _copy(response: Any, out: BinaryIO, advance: Any) -> None:
    while chunk := response.read(_CHUNK):
        try:
            out.write(chunk)
        except OSError as error:
            raise _DiskError(str(error)) from error
        advance(len(chunk))


@contextmanager
def _progress(name: str, start: int, total: int | None) -> Iterator[Any]:
    """Show on a terminal how far the download is, and yield what takes the number of new bytes."""
    if not sys.stderr.isatty():
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=total, completed=start)
        yield lambda size: progress.advance(task, size)


def _verified(file: Published, path: Path, known: bool = False) -> Path:
    """Return ``path``, after a check of its sum unless this process has made it already."""
    stat = path.stat()
    key = str(path.absolute()), stat.st_size, stat.st_mtime_ns
    if key not in _checked:
        if not known:
            _check_sum(file, path, str(path.parent))
        _checked.add(key)
    return path


def _check_sum(file: Published, path: Path, place: str) -> None:
    for kind in ("sha256", "md5"):
        wanted = getattr(file, kind)
        if wanted is None:
            continue
        digest = hashlib.new(kind, usedforsecurity=False)
        with path.open("rb") as content:
            got = hashlib.file_digest(content, lambda: digest).hexdigest()  # noqa: B023 - called at once
        if got != wanted.lower():
            aside = _aside(path.with_name(f"{file.name}.wrong-sum"))
            path.rename(aside)
            by_hand = f" {file.by_hand.rstrip('.')}." if file.by_hand else ""
            raise DataError(
                f"{file.name} from {place} has the {kind} sum {got}, published is {wanted}: it is damaged or another "
                f"version. It is kept as {aside}; run the command again to fetch it anew.{by_hand}"
            )


def _aside(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
