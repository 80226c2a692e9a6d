"""What a sample in a shard is: members of a tar file with one key, in the layout of WebDataset."""

from __future__ import annotations

import json
import math
import os
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlkit.data.images.files import EXTENSIONS, decode, looks_whole
from tlkit.data.shards.index import MOST_BYTES, SPLITS
from tlkit.errors import DataError, brief

__all__ = ["CURE", "Sample", "array_of", "array_shape", "samples_of"]

CURE = "write the shard again without it, or with a good one"
_MOST_TEXT = 1 << 20  # bytes of a label or a json


@dataclass
class Sample:
    """A sample as its members say.

    Attributes:
        key: The path of its members up to the first dot of the file's name.
        kind: ``"image"`` or ``"array"``.
        offset: Where its content begins in the shard.
        size: How many bytes that has.
        shape: Of an array; empty for an image.
        label: Its class; "" for none.
        group: Its group; "" for none.
        split: Its published split; "" for none.
    """

    key: str
    kind: str = ""
    offset: int = 0
    size: int = 0
    shape: tuple[int, ...] = ()
    label: str = ""
    group: str = ""
    split: str = ""
    ending: str = field(default="", repr=False)


def samples_of(shard: Path) -> Iterator[Sample]:
    """Yield the samples of a shard in order, each checked as far as that goes without decoding it.

    Members of other endings than those of images, ``npy``, ``cls`` and ``json`` are passed over, and so are hidden
    ones, those without an ending, and those named ``__like_this__``.

    Raises:
        DataError: If the shard is cut off or no plain tar file, a member is none that a shard may have, or a sample has
            no content, several, or what cannot be read; with the shard and the sample.
    """
    try:
        size = shard.stat().st_size
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield from _grouped(shard, tar, file.fileno(), size)
            if tar.offset + tarfile.BLOCKSIZE > size:
                raise DataError(f"the shard {shard} is cut off, it does not end as a tar file does: get it again")
    except tarfile.TarError as error:
        raise DataError(
            f"the shard {shard} is no tar file, or is damaged: {brief(error)}. Get it again; one that is compressed "
            "must be unpacked, samples are read from the middle of it"
        ) from error
    except OSError as error:
        raise DataError(f"the shard {shard} cannot be read: {error.strerror or error}") from error


def _grouped(shard: Path, tar: tarfile.TarFile, descriptor: int, size: int) -> Iterator[Sample]:
    sample: Sample | None = None
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
        if member.isdir():
            continue
        key, ending = _split_name(shard, member)
        if member.offset_data + member.size > size:
            raise DataError(
                f"the shard {shard} is cut off or damaged: its member {member.name!r} should have {member.size} bytes, "
                f"and {max(size - member.offset_data, 0)} are there. Get it again"
            )
        if not ending or _is_aside(PurePosixPath(key).name):
            continue
        if sample is None or sample.key != key:
            if sample is not None:
                yield _finished(shard, sample)
            sample = Sample(key)
        _add(shard, sample, ending, member, descriptor)
    if sample is not None:
        yield _finished(shard, sample)


def _is_aside(name: str) -> bool:
    """Return whether a name is of what systems and programs leave: ``._0001``, ``.DS_Store``, ``__index__``."""
    return name.startswith(".") or (name.startswith("__") and name.endswith("__"))


def _split_name(shard: Path, member: tarfile.TarInfo) -> tuple[str, str]:
    path = PurePosixPath(member.name.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":"))
    if outside or "\0" in member.name:
        raise DataError(f"the shard {shard} has a member outside its folder, {member.name!r}: do not trust it")
    if not member.isreg() or member.issparse():
        raise DataError(f"the shard {shard}: the member {member.name!r} is no plain file: do not trust it")
    stem, _, ending = path.name.partition(".")
    return str(path.with_name(stem)) if stem else str(path), ending.lower()


def _add(shard: Path, sample: Sample, ending: str, member: tarfile.TarInfo, descriptor: int) -> None:
    where = f"{shard}, sample {sample.key!r}"
    if ending in ("cls", "json"):
        if member.size > _MOST_TEXT:
            raise DataError(f"{where}: its {ending} has {member.size} bytes, at most {_MOST_TEXT} are read")
        content = os.pread(descriptor, member.size, member.offset_data)
        (_read_class if ending == "cls" else _read_json)(where, sample, content)
        return
    if ending != "npy" and f".{ending}" not in EXTENSIONS:
        return
    if sample.kind:
        raise DataError(f"{where} has two contents, {sample.ending} and {ending}: a sample is one image or one array")
    if member.size > MOST_BYTES:
        raise DataError(f"{where}: its {ending} has {member.size} bytes, at most {MOST_BYTES} are read")
    if member.size == 0:
        raise DataError(f"{where}: its {ending} is empty (0 bytes); {CURE}")
    sample.offset, sample.size, sample.ending = member.offset_data, member.size, ending
    sample.kind = "array" if ending == "npy" else "image"
    start = os.pread(descriptor, min(member.size, 1 << 14), member.offset_data)
    if sample.kind == "array":
        sample.shape = array_shape(start, member.size, where)
    elif not looks_whole(start[:8], os.pread(descriptor, *_tail(member))):
        decode(os.pread(descriptor, member.size, member.offset_data), where, CURE)


def _tail(member: tarfile.TarInfo) -> tuple[int, int]:
    size = min(member.size, 64)
    return size, member.offset_data + member.size - size


def _finished(shard: Path, sample: Sample) -> Sample:
    if not sample.kind:
        raise DataError(
            f"{shard}, sample {sample.key!r} has no content: neither an image ({' '.join(sorted(EXTENSIONS))}) nor an "
            f"array (.npy); {CURE}"
        )
    return sample


def _read_class(where: str, sample: Sample, content: bytes) -> None:
    try:
        _set(where, sample, "label", content.decode().strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: its cls is no text: {error}") from error


def _read_json(where: str, sample: Sample, content: bytes) -> None:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its json cannot be read: {brief(error)}") from error
    if not isinstance(values, dict):
        return  # of another meaning than ours: a caption, a list of boxes
    for name in ("label", "group", "split"):
        value = values.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise DataError(f"{where}: {name} in its json is a word or a whole number, got {brief(ValueError(value))}")
        _set(where, sample, name, str(value).strip())
    if sample.split and sample.split not in SPLITS:
        raise DataError(f"{where}: the split in its json is train, val or test, got {sample.split!r}")


def _set(where: str, sample: Sample, name: str, value: str) -> None:
    before = getattr(sample, name)
    if before and value and before != value:
        raise DataError(f"{where} has two {name}s, {before!r} and {value!r}: its cls and its json must say the same")
    setattr(sample, name, value or before)


def array_shape(start: bytes, size: int, where: str) -> tuple[int, ...]:
    """Return the shape of an array from the first bytes of its ``npy``.

    Args:
        start: Its first 16 KiB, or all of it.
        size: How many bytes it has.
        where: What it is known by, for messages.

    Raises:
        DataError: If it is none, holds no numbers, or has another size than it says.
    """
    return _checked(start, size, where)[0]


def array_of(content: bytes, where: str) -> NDArray[np.float32]:
    """Return the array that an ``npy`` holds as float32.

    Args:
        content: The bytes of the file.
        where: What it is known by, for messages.

    Raises:
        DataError: See :func:`array_shape`.
    """
    shape, fortran, dtype, first = _checked(content, len(content), where)
    array = np.frombuffer(content, dtype, offset=first).reshape(shape, order="F" if fortran else "C")
    return np.array(array, np.float32, order="C")


_Header = tuple[tuple[int, ...], bool, np.dtype[Any], int]


def _checked(start: bytes, size: int, where: str) -> _Header:
    """Return shape, order, type and length of the head of an ``npy`` that has the size that it says."""
    try:
        # The first 10 or 12 bytes say how long the head is; those of arrays that are alike are the same.
        (length,) = struct.unpack_from("<H" if start[6:7] == b"\1" else "<I", start, 8)
        header = _header(start[: 10 + length if start[6:7] == b"\1" else 12 + length])
    except Exception as error:  # what numpy raises on damaged files is written down nowhere
        raise DataError(f"{where}: its npy is no array that numpy has written: {brief(error)}; {CURE}") from error
    shape, _, dtype, first = header
    if dtype.kind not in "fiub" or min(shape, default=0) < 0:
        raise DataError(f"{where}: its npy holds {dtype}, numbers are needed; {CURE}")
    told = math.prod(shape) * dtype.itemsize
    if first + told != size:
        raise DataError(
            f"{where}: its npy says that it is {shape} of {dtype}, which are {told} bytes, and has {size - first}; "
            f"{CURE}"
        )
    return header


@lru_cache(maxsize=64)
def _header(start: bytes) -> _Header:
    file = BytesIO(start)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = read[version](file)
    return shape, fortran, dtype, file.tell()
