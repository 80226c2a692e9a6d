"""Making the index of shards: each is read once, from its beginning to its end."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.data.files.folders import locked
from tlkit.data.files.long_job import shown
from tlkit.data.files.spool import cache_folder
from tlkit.data.labels import class_order
from tlkit.data.shards.index import INDEX, SPLITS, ShardIndex, check_file_name
from tlkit.data.shards.samples import Sample, samples_of
from tlkit.errors import DataError
from tlkit.notes import say

__all__ = ["index_of", "index_shards", "kept_index"]


def index_shards(folder: str | Path) -> Path:
    """Write the index of a domain's shards beside them, so that no run has to make it.

    Shards that are to be read from object storage need it; for those in a folder a run makes its own where none is.

    Args:
        folder: The folder with the domain's ``*.tar`` files.

    Returns:
        The index.

    Raises:
        DataError: If there is one, there are no shards, or a shard or a sample is not what it should be.
    """
    path = Path(folder) / INDEX
    if path.exists():
        raise DataError(f"{path} exists and is not written over; move it away to make it again")
    content = index_of(Path(folder)).to_bytes()
    _write(path, content)
    return path


def kept_index(folder: Path) -> ShardIndex:
    """Return the index of shards that have none beside them: as an earlier run has kept it, or made now and kept.

    It lies in ``$XDG_CACHE_HOME/tlkit/shards`` (``~/.cache/tlkit/shards``) under a hash of the folder and the names,
    sizes and times of the shards: shards that change are read anew.

    Raises:
        DataError: See :func:`index_shards`.
    """
    shards = _shards(folder)
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in shards]
    key = hashlib.sha256(repr((str(folder.resolve()), stats)).encode()).hexdigest()[:40]
    path = cache_folder() / "shards" / f"{key}.npz"
    with ExitStack() as stack:
        with suppress(DataError):  # what keeps it says that it cannot
            stack.enter_context(locked(path.with_suffix(".lock")))  # the processes of a run make it once
        return _kept(path) or _keep(path, index_of(folder))


def _kept(path: Path) -> ShardIndex | None:
    if not path.is_file():
        return None
    try:
        return ShardIndex.from_bytes(path.read_bytes(), str(path))
    except (DataError, OSError):
        say(f"the index kept in {path} is damaged and is made again")
        return None


def _keep(path: Path, index: ShardIndex) -> ShardIndex:
    try:
        _write(path, index.to_bytes())
    except DataError as error:
        say(f"{error}; the next run makes it again")
    return index


def index_of(folder: Path) -> ShardIndex:
    """Return the index of a domain's shards.

    Raises:
        DataError: See :func:`index_shards`.
    """
    shards = _shards(folder)
    columns = _Columns()
    with shown(f"index of {folder}", sum(path.stat().st_size for path in shards)) as advance:
        for shard in shards:
            check_file_name(shard.name)
            for sample in samples_of(shard):
                columns.add(sample, shard)
            columns.ends.append(len(columns.offset))
            advance(shard.stat().st_size)
    return columns.index([path.name for path in shards], [path.stat().st_size for path in shards], folder)


def _shards(folder: Path) -> list[Path]:
    shards = sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))
    if not shards:
        raise DataError(f"{folder} holds no shards: they are tar files whose names end in .tar")
    return shards


class _Columns:
    """The columns of an index as they grow; names are kept once and have numbers."""

    def __init__(self) -> None:
        self.ends, self.offset, self.size = array("q"), array("q"), array("I")
        self.label, self.group, self.split = array("i"), array("i"), array("b")
        self.labels: dict[str, int] = {}
        self.groups: dict[str, int] = {}
        self.first: tuple[Sample, Path] | None = None

    def add(self, sample: Sample, shard: Path) -> None:
        """Add a sample, which must have what the first one has.

        Raises:
            DataError: If it lacks a label, a group or a split, or is another kind or of another shape.
        """
        if self.first is None:
            self.first = sample, shard
        first, of = self.first
        for name in ("label", "group", "split"):
            here, there = getattr(sample, name), getattr(first, name)
            if bool(here) != bool(there):
                lacks, has = ((shard, sample), (of, first)) if there else ((of, first), (shard, sample))
                raise DataError(
                    f"{lacks[0]}, sample {lacks[1].key!r} has no {name}, and {has[0]}, sample {has[1].key!r} has one: "
                    f"give all samples of a domain a {name} (in .cls or .json), or none"
                )
        if (sample.kind, sample.shape) != (first.kind, first.shape):
            kinds = [f"an array {each.shape}" if each.kind == "array" else "an image" for each in (sample, first)]
            raise DataError(
                f"{shard}, sample {sample.key!r} is {kinds[0]}, and {of}, sample {first.key!r} is {kinds[1]}: the "
                "samples of a domain must be of one kind, and arrays of one shape"
            )
        self.offset.append(sample.offset)
        self.size.append(sample.size)
        self.label.append(self.labels.setdefault(sample.label, len(self.labels)))
        self.group.append(self.groups.setdefault(sample.group, len(self.groups)))
        self.split.append(SPLITS.index(sample.split) if sample.split else -1)

    def index(self, shards: list[str], sizes: list[int], folder: Path) -> ShardIndex:
        """Return the index; classes and groups are put in order."""
        if self.first is None:
            raise DataError(f"the shards in {folder} hold no samples")
        first = self.first[0]
        labels, label = _in_order(self.labels, self.label) if first.label else ([], np.full(len(self.label), -1))
        groups, group = _in_order(self.groups, self.group) if first.group else ([], None)
        kind: Any = first.kind
        return ShardIndex(
            kind,
            first.shape,
            tuple(shards),
            tuple(sizes),
            tuple(labels),
            tuple(groups),
            np.array(self.ends, np.int64),
            np.array(self.offset, np.int64),
            np.array(self.size, np.uint32),
            label.astype(np.int32),
            None if group is None else group.astype(np.int32),
            np.array(self.split, np.int8) if first.split else None,
        )


def _in_order(numbers: dict[str, int], column: Any) -> tuple[list[str], Any]:
    names = class_order(numbers)
    place = {name: number for number, name in enumerate(names)}
    return names, np.array([place[name] for name in numbers], np.int64)[np.array(column)]


def _write(path: Path, content: bytes) -> None:
    """Write a file aside and put it into place at once; another process that does the same writes the same."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with _worded(path):
        try:
            aside.write_bytes(content)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def _worded(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
