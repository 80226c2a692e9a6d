"""Where each sample lies in the shards of a domain, and what is known of it without reading it."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tlkit.data.splits import Rows
from tlkit.errors import DataError, brief

__all__ = ["INDEX", "MOST_BYTES", "SPLITS", "Kind", "ShardIndex", "check_file_name"]

Kind = Literal["image", "array"]

INDEX = "index.npz"  # its name beside the shards
SPLITS = ("train", "val", "test")
MOST_BYTES = 1 << 31  # of a sample; more is no sample, and would fill the memory
_FORMAT = 1
_COLUMNS = {"ends": np.int64, "offset": np.int64, "size": np.uint32, "label": np.int32}
_OPTIONAL = {"group": np.int32, "split": np.int8}


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a domain in the order of its shards: some 20 bytes each, whatever they hold.

    Attributes:
        kind: ``"image"`` for the bytes of image files, ``"array"`` for arrays of numbers.
        shape: The shape of every array; empty for images.
        shards: File names.
        shard_bytes: Their sizes.
        labels: Names of the classes that samples are of.
        groups: Names of the groups.
        ends: ``(S,)`` the number of samples up to and with each shard.
        offset: ``(N,)`` where the content of a sample begins in its shard.
        size: ``(N,)`` how many bytes it has.
        label: ``(N,)`` positions in ``labels``; -1 for none.
        group: ``(N,)`` positions in ``groups``, or None if samples are on their own.
        split: ``(N,)`` positions in :data:`SPLITS`, or None if no split is published.
    """

    kind: Kind
    shape: tuple[int, ...]
    shards: tuple[str, ...]
    shard_bytes: tuple[int, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    ends: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.uint32]
    label: NDArray[np.int32]
    group: NDArray[np.int32] | None = None
    split: NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.offset)

    def shard_of(self, rows: int | Rows) -> Any:
        """Return the number of the shard that a row lies in, or that each of some rows does."""
        return np.searchsorted(self.ends, rows, side="right")

    def name(self, row: int) -> str:
        """Return what a row is known by: its shard and its place among that shard's samples, counted from 0."""
        shard = int(self.shard_of(row))
        return f"{self.shards[shard]}#{row - (int(self.ends[shard - 1]) if shard else 0)}"

    def to_bytes(self) -> bytes:
        """Return the content of an ``index.npz``; the same index gives the same bytes."""
        head = {
            "format": _FORMAT,
            "kind": self.kind,
            "shape": self.shape,
            "shards": self.shards,
            "shard_bytes": self.shard_bytes,
            "labels": self.labels,
            "groups": self.groups,
        }
        columns: dict[str, Any] = {"head": np.frombuffer(json.dumps(head).encode(), np.uint8)}
        columns |= {name: getattr(self, name) for name in (*_COLUMNS, *_OPTIONAL) if getattr(self, name) is not None}
        out = BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, column in columns.items():
                # Not numpy's savez, which writes the time of day into the file.
                content = BytesIO()
                np.lib.format.write_array(content, np.asarray(column), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> ShardIndex:
        """Read the content of an ``index.npz`` and check that it is one.

        Args:
            content: The bytes.
            where: What they are known by, for messages.

        Raises:
            DataError: If it is damaged, of another version of tlkit, or says what cannot be.
        """
        try:
            head, columns = _unpacked(content)
            index = _built(head, columns)
        except _Wrong as error:
            raise DataError(f"the index {where} {error}; {_AGAIN}") from error
        except Exception as error:  # what numpy and zipfile raise on damaged files is written down nowhere
            raise DataError(f"the index {where} is damaged: {brief(error)}; {_AGAIN}") from error
        return index


_AGAIN = "delete it and make it again with tlkit.data.index_shards(FOLDER)"


class _Wrong(Exception):
    """What an index says that cannot be."""


def _unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    with zipfile.ZipFile(BytesIO(content)) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > max(1 << 28, 250 * len(content)):
            raise _Wrong(f"has {len(content)} bytes and unpacks to {size}: it is damaged, or made to fill the memory")
        arrays = {}
        for member in archive.infolist():
            with archive.open(member) as file:
                arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    head = json.loads(arrays.pop("head").tobytes())
    if head["format"] != _FORMAT:
        raise _Wrong(f"has format {head['format']!r}, this version of tlkit reads {_FORMAT}")
    return head, arrays


def _built(head: dict[str, Any], columns: dict[str, NDArray[Any]]) -> ShardIndex:
    names = ("shards", "labels", "groups")
    if (head["kind"], min(head["shape"], default=0) < 0) not in (("image", False), ("array", False)) or any(
        not isinstance(head[name], list) or not all(isinstance(each, str) for each in head[name]) for name in names
    ):
        raise _Wrong("is damaged: its head is not one")
    sizes, shape = ([int(number) for number in head[name]] for name in ("shard_bytes", "shape"))
    for name in head["shards"]:
        check_file_name(name)
    for name, dtype in (_COLUMNS | _OPTIONAL).items():
        if (name in columns or name in _COLUMNS) and (columns[name].dtype != dtype or columns[name].ndim != 1):
            raise _Wrong(f"is damaged: its column {name} is not one of {np.dtype(dtype)}")
    ends, offset, size = columns["ends"], columns["offset"], columns["size"]
    lengths = {len(columns[name]) for name in ("offset", "size", "label", "group", "split") if name in columns}
    counts = np.diff(ends, prepend=0)
    if lengths != {int(ends[-1])} or (counts < 0).any() or {len(head["shards"]), len(sizes)} != {len(ends)}:
        raise _Wrong("is damaged: its columns do not fit each other")
    last = offset + size.astype(np.int64)
    if (offset < 512).any() or (last > np.repeat(sizes, counts)).any():
        raise _Wrong("is damaged: it says that samples lie outside their shards")
    for column, many in (("label", head["labels"]), ("group", head["groups"]), ("split", SPLITS)):
        least = -1 if column == "label" else 0
        if column in columns and not _within(columns[column], least, len(many)):
            raise _Wrong(f"is damaged: its column {column} names what it does not list")
    return ShardIndex(head["kind"], tuple(shape), tuple(head["shards"]), tuple(sizes), tuple(head["labels"]),
                      tuple(head["groups"]), **columns)  # fmt: skip


def _within(column: NDArray[Any], least: int, end: int) -> bool:
    return not len(column) or bool(column.min() >= least and column.max() < end)


def check_file_name(name: str) -> None:
    """Refuse the name of a shard or a domain that would lead out of its folder, or be hidden there.

    Raises:
        DataError: If it is more than a file's name.
    """
    if not name or name != PurePosixPath(name).name or name.startswith(".") or "\\" in name or "\0" in name:
        raise DataError(f"{name!r} cannot be the name of a shard or its folder: it leads elsewhere, or is hidden")
