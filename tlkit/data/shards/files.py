"""Reading samples from the middle of shards, which lie in a folder or are fetched whole from object storage."""

from __future__ import annotations

import errno
import hashlib
import os
import tarfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tlkit.data.files.folders import find_folder, locked
from tlkit.data.files.spool import cache_folder
from tlkit.data.shards.index import INDEX, ShardIndex
from tlkit.errors import DataError, brief

__all__ = ["FetchedShards", "LocalShards", "ShardReader", "Shards", "open_shards"]

_OPEN = 32  # shards that a process keeps open
_TRIES = 3  # of a transfer that breaks off
_WAIT = 1.0  # seconds between them
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Names that the kinds of storage have for it: S3 and https, Google, Azure, a disk, memory.
_VERSIONS = ("ETag", "etag", "md5Hash", "Content-MD5", "Last-Modified", "LastModified", "last_modified", "updated",
             "mtime", "created")  # fmt: skip
_TOUCH = 5.0  # seconds between two marks of what is in use


class Shards(ABC):
    """Where the shards of some domains are."""

    where: str

    @abstractmethod
    def domains(self) -> list[str]:
        """Return the names of the domains: the folders that hold shards."""

    @abstractmethod
    def index(self, domain: str) -> bytes | None:
        """Return the content of the index that lies beside the shards of a domain, or None if there is none."""

    @abstractmethod
    def open(self, domain: str, shard: str, size: int) -> tuple[int, Path]:
        """Open a file of this machine that holds a shard, and return its descriptor and path.

        Raises:
            DataError: If it is not there, or not of the size that the index says.
        """

    def _check(self, place: str, found: int, size: int) -> None:
        if found != size:
            raise DataError(
                f"the index does not fit the shard {place}: it says {size} bytes, and there are {found}. Get the shard "
                f"again if it is cut off; if it is another one, delete {INDEX} and make it again with "
                "tlkit.data.index_shards(FOLDER)"
            )


class LocalShards(Shards):
    """Shards in ``folder/domain/*.tar``, on a disk or a file system that is mounted.

    Args:
        folder: The folder of the domains.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.where = folder, str(folder)

    def domains(self) -> list[str]:
        """Return the folders with shards in them."""
        return sorted(path.name for path in self.folder.iterdir() if _holds_shards(path))

    def index(self, domain: str) -> bytes | None:
        """Return the content of ``index.npz``."""
        path = self.folder / domain / INDEX
        try:
            return path.read_bytes() if path.exists() else None
        except OSError as error:
            raise DataError(f"the index {path} cannot be read: {error.strerror or error}") from error

    def open(self, domain: str, shard: str, size: int) -> tuple[int, Path]:
        """Open the shard as it lies there."""
        path = self.folder / domain / shard
        self.check(domain, shard, size)
        try:
            return os.open(path, os.O_RDONLY), path
        except OSError as error:
            raise DataError(f"the shard {path} cannot be opened: {error.strerror or error}") from error

    def check(self, domain: str, shard: str, size: int) -> None:
        """Refuse a shard that is missing or of another size than the index says.

        Raises:
            DataError: If it is.
        """
        path = self.folder / domain / shard
        try:
            found = path.stat().st_size
        except OSError as error:
            raise DataError(f"the shard {path} is missing, its index lists it: {error.strerror or error}") from error
        self._check(str(path), found, size)


def _holds_shards(path: Path) -> bool:
    # What is still being written, or was left by a process that was killed, lies in a hidden folder.
    return path.name[0] != "." and path.is_dir() and next(path.glob("*.tar"), None) is not None


class FetchedShards(Shards):
    """Shards at an address of object storage, fetched whole when a sample of theirs is asked for, and kept a while.

    They are kept in ``$XDG_CACHE_HOME/tlkit/shards`` (``~/.cache/tlkit/shards``), where all processes of a machine
    share them; what was used least recently goes first.

    Args:
        url: The address of the domains' folder, of any kind that ``fsspec`` opens: ``s3://``, ``gs://``, ``https://``.
        limit: How many bytes may be kept.
    """

    def __init__(self, url: str, limit: int) -> None:
        self.url = self.where = url.rstrip("/")
        self.limit = limit
        self.folder = cache_folder() / "shards" / hashlib.sha256(self.url.encode()).hexdigest()[:20]

    def domains(self) -> list[str]:
        """Return the folders at the address."""
        with self._storage("") as (storage, path):
            found = storage.ls(path, detail=True)
        names = [str(each["name"]).rstrip("/").rpartition("/")[2] for each in found if each["type"] == "directory"]
        return sorted(name for name in names if name and name[0] != ".")

    def index(self, domain: str) -> bytes | None:
        """Return the content of ``index.npz``."""
        with self._storage(f"{domain}/{INDEX}") as (storage, path):
            return bytes(storage.cat_file(path)) if storage.exists(path) else None

    def open(self, domain: str, shard: str, size: int) -> tuple[int, Path]:
        """Open the file that the shard is kept in, fetched if it is not there yet, or was changed at the address."""
        version = self._ask(f"{domain}/{shard}", _version)
        key = hashlib.sha256(f"{domain}\0{version}".encode()).hexdigest()[:20]
        path = self.folder / f"{key}-{size}-{shard}"
        while True:
            with locked(self.folder / f".{path.name}.lock"):
                if not path.is_file():
                    self._fetch(f"{domain}/{shard}", path, size)
            try:
                os.utime(path)  # by which the least recently used one is found
                return os.open(path, os.O_RDONLY), path
            except FileNotFoundError:  # another process has made room just now
                continue

    def _fetch(self, name: str, path: Path, size: int) -> None:
        with locked(self.folder / ".room.lock"):
            self._make_room(size)
        aside = path.with_name(f".{path.name}.part")  # of this process alone: it holds the lock
        try:
            self._ask(name, lambda storage, remote: storage.get_file(remote, str(aside)))
            self._check(f"{self.url}/{name}", aside.stat().st_size, size)
            aside.rename(path)
        except OSError as error:
            raise DataError(
                f"the shard {self.url}/{name} cannot be kept in {self.folder}: {error.strerror or error}; make room "
                "there, or set XDG_CACHE_HOME to another disk"
            ) from error
        finally:
            aside.unlink(missing_ok=True)

    def _ask(self, name: str, question: Callable[[Any, str], Any]) -> Any:
        """Return what the storage answers, asked again if the connection breaks off."""
        for left in reversed(range(_TRIES)):
            try:
                with self._storage(name) as (storage, remote):
                    return question(storage, remote)
            except DataError as error:
                if not left or isinstance(error.__cause__, FileNotFoundError):
                    raise
                time.sleep(_WAIT)
        raise AssertionError

    def _make_room(self, size: int) -> None:
        kept = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self.folder.glob("[!.]*"))
        total = size + sum(each[1] for each in kept)
        for _, each, path in kept:
            if total <= self.limit:
                return
            path.unlink(missing_ok=True)  # a process that has it open goes on reading it
            total -= each

    @contextmanager
    def _storage(self, name: str) -> Iterator[tuple[Any, str]]:
        # Asked for anew each time: a connection made before a fork does not work in a loader's worker process.
        from fsspec.core import url_to_fs

        url = f"{self.url}/{name}" if name else self.url
        try:
            yield url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise DataError(f"root: {url} cannot be opened: {brief(error)}") from error
        except DataError:
            raise
        except Exception as error:  # each kind of storage raises its own
            if isinstance(error, OSError) and error.errno in _FULL:  # of this machine's disk
                raise
            reason = "it is not there" if isinstance(error, FileNotFoundError) else brief(error)
            raise DataError(
                f"{url} cannot be read: {reason}. Check the address, and that this machine may read there"
            ) from error


def _version(storage: Any, remote: str) -> str:
    """Return what a storage tells the versions of a file apart by; "" if it tells nothing."""
    told = storage.info(remote)
    return next((str(told[name]) for name in _VERSIONS if told.get(name)), "")


def open_shards(root: str, cache_bytes: int) -> LocalShards | FetchedShards:
    """Return the shards in a folder or, if ``root`` has ``://`` in it, at an address.

    Args:
        root: The folder, as for :func:`~tlkit.data.files.folders.find_folder`, or the address.
        cache_bytes: How many bytes of shards that are fetched may be kept on this machine's disk.
    """
    return FetchedShards(root, cache_bytes) if "://" in root else LocalShards(find_folder(root))


class ShardReader:
    """The samples of one domain, read one at a time; it may be sent to another process.

    Args:
        shards: Where its shards are.
        domain: Its name.
        index: Where its samples lie in them.
    """

    def __init__(self, shards: Shards, domain: str, index: ShardIndex) -> None:
        self.shards, self.domain, self.index = shards, domain, index
        self._open: dict[int, tuple[int, Path]] = {}
        self._touched = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_touched": 0.0}

    def __del__(self) -> None:
        for descriptor, _ in self._open.values():
            os.close(descriptor)

    def read(self, row: int) -> tuple[bytes, str]:
        """Return the content of a sample, and what a user knows it by.

        Raises:
            DataError: If the shard is missing, cut off, or holds something else there than the index says.
        """
        shard = int(self.index.shard_of(row))
        offset, size = int(self.index.offset[row]), int(self.index.size[row])
        descriptor, path = self._opened(shard)
        # The block before the content is its member's head: it must be one, of this size.
        try:
            block = os.pread(descriptor, tarfile.BLOCKSIZE + size, offset - tarfile.BLOCKSIZE)
        except OSError as error:
            raise DataError(f"the shard {path} cannot be read: {error.strerror or error}") from error
        head = block[: tarfile.BLOCKSIZE]
        if _size_in(head) != size or len(block) < tarfile.BLOCKSIZE + size:
            raise DataError(
                f"the index does not fit the shard {path}: there is no sample of {size} bytes at byte {offset} "
                f"({self.index.name(row)}). One of the two was changed or is damaged: get both again, or delete "
                f"{INDEX} and make it again with tlkit.data.index_shards(FOLDER)"
            )
        name = head[:100].partition(b"\0")[0].decode(errors="replace")
        return block[tarfile.BLOCKSIZE :], f"{path}, member {name!r}"

    def _opened(self, shard: int) -> tuple[int, Path]:
        if shard in self._open:
            self._open[shard] = self._open.pop(shard)  # the last one used is the last to be closed
            if time.monotonic() - self._touched > _TOUCH:
                self._touch()
            return self._open[shard]
        for other in [each for each, (descriptor, _) in self._open.items() if not os.fstat(descriptor).st_nlink]:
            os.close(self._open.pop(other)[0])  # its room on the disk was given to another
        if len(self._open) >= _OPEN:
            os.close(self._open.pop(next(iter(self._open)))[0])
        self._open[shard] = self.shards.open(self.domain, self.index.shards[shard], self.index.shard_bytes[shard])
        return self._open[shard]

    def _touch(self) -> None:
        """Mark the shards that are read now, for the next that has to make room; those last used come last."""
        self._touched = time.monotonic()
        if isinstance(self.shards, FetchedShards):
            for descriptor, _ in self._open.values():
                os.utime(descriptor)

    def check(self) -> None:
        """Refuse shards that are missing or of another size than the index says, where that costs nothing to know.

        Raises:
            DataError: With the first of them.
        """
        if isinstance(self.shards, LocalShards):
            for shard, size in zip(self.index.shards, self.index.shard_bytes, strict=True):
                self.shards.check(self.domain, shard, size)


def _size_in(head: bytes) -> int | None:
    """Return how many bytes the head of a tar file's member says that it has; None if it is no head.

    tarfile does the same, and all that the head says besides, in ten times the time.
    """
    try:
        told = int(head[148:156].strip(b" \0"), 8)
        size = int(head[124:136].strip(b" \0"), 8)
    except ValueError:
        return None
    return size if sum(head) - sum(head[148:156]) + 8 * ord(" ") == told else None
