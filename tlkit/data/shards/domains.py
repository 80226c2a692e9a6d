"""Data larger than memory: a folder of tar shards a domain, on disks or in object storage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tlkit.data.base import DomainDataModule
from tlkit.data.images.augment import Augment, augmented, check_augment
from tlkit.data.images.files import check_image_size, decode, shrunk
from tlkit.data.labels import class_order
from tlkit.data.rows import row_draws
from tlkit.data.shards.files import FetchedShards, ShardReader, open_shards
from tlkit.data.shards.index import SPLITS, Kind, ShardIndex
from tlkit.data.shards.samples import CURE, array_of
from tlkit.data.shards.scan import kept_index
from tlkit.data.splits import Rows
from tlkit.errors import ContractError, DataError, unknown
from tlkit.notes import say
from tlkit.types import Split

__all__ = ["ArrayShardDomains", "ImageShardDomains", "ShardDomains"]


class ShardDomains(DomainDataModule):
    """Samples in ``root/domain/*.tar``, in the layout of WebDataset; a subclass says what they hold.

    A sample is read where it lies, when its turn comes: memory holds some tens of bytes for each row, whatever it is.
    Training goes through the shards of a domain in a random order and through the rows of a few shards, ``window``, at
    random, which is the same for any number of processes and workers.

    Args:
        root: Folder of the domains; a relative one is looked for in the working folder, then in the folder that the
            environment variable TLKIT_DATA names (default ``~/.cache/tlkit``). Or the address of such a folder in
            object storage (``s3://bucket/shards``): its shards are fetched when they are needed.
        sources: Labelled domains, named as their folders.
        targets: Domains to adapt to.
        window: Shards of a domain whose rows are shuffled together in training.
        cache_gb: How much of what is fetched may be kept on this machine's disk, in GB.
        **kwargs: The arguments of :class:`DomainDataModule`.

    Raises:
        DataError: If ``root`` or a shard is not there, a shard is cut off or does not fit its index, a sample lacks
            what others have, or the domains have other classes.
    """

    kind: Kind
    shared_groups = True

    def __init__(
        self,
        root: str,
        sources: list[str],
        targets: list[str] | None = None,
        window: int = 8,
        cache_gb: float = 50.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources=sources, targets=targets, **kwargs)
        if window < 1:
            raise DataError(f"window must be 1 shard or more, got {window}")
        if not cache_gb > 0:
            raise DataError(f"cache_gb must be more than 0, got {cache_gb}")
        self.root, self.window, self.cache_gb = root, window, cache_gb
        self._readers: dict[str, ShardReader] = {}

    def rows(self, reader: ShardReader, rows: Rows, codes: NDArray[np.int64], split: Split) -> ShardRows:
        """Return some rows of a domain, read as they are for a split; a subclass defines it.

        Args:
            reader: What reads the samples of the domain.
            rows: The numbers of the rows.
            codes: The label of each of the index's classes; the last is -1, for rows without.
            split: The split.
        """
        raise ContractError(f"{type(self).__name__} must define rows(reader, rows, codes, split)")

    @cached_property
    def shards(self) -> Any:
        """Where the shards are."""
        return open_shards(self.root, round(self.cache_gb * 1e9))

    @cached_property
    def domains(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a cached_property for read-only
        """The folders in ``root``."""
        return self.shards.domains()  # type: ignore[no-any-return]

    @cached_property
    def classes(self) -> Sequence[str]:  # type: ignore[override]
        """The classes of the domains of this run, in alphabetical order, or by value if they are whole numbers."""
        return class_order(name for domain in self.eval_domains for name in self._index(domain).labels)

    def domain_classes(self, domain: str) -> Sequence[str]:
        """Return the classes that a domain has samples of."""
        return self._index(domain).labels

    def has_labels(self, domain: str) -> bool:
        """Return whether the samples of a domain have classes."""
        return bool(self._index(domain).labels)

    def where(self, what: str) -> str:
        """Return the folders that the domains are named by, or the shards that the classes are in."""
        return f"the folders {self.shards.where}/*" + ("" if what == "domains" else "/*.tar")

    def row_names(self, domain: str) -> Sequence[str]:
        """Return the shard of each row and its place in it."""
        return _Names(self._index(domain))

    def dataset(self, domain: str, split: Split) -> Dataset[tuple[Tensor, Tensor]]:
        """Return one split of one domain; training rows are augmented, if so chosen."""
        index = self._index(domain)
        codes = np.array([*(self.classes.index(name) for name in index.labels), -1])
        if domain not in self.splits:
            groups = None if index.group is None else np.array(index.groups)[index.group]
            published = {}
            if index.split is not None:
                held = [np.flatnonzero(index.split == SPLITS.index(name)) for name in ("test", "val")]
                published = {"test": held[0], "val": held[1] if len(held[1]) else None}
            self.split(domain, codes[index.label], groups=groups, **published)
        return self.rows(self._readers[domain], self.splits[domain][split], codes, split)

    def _index(self, domain: str) -> ShardIndex:
        if domain not in self._readers:
            if domain not in self.domains:
                raise DataError(f"root={self.root!r}: {unknown('domain', domain, self.domains)}")
            reader = ShardReader(self.shards, domain, self._read_index(domain))
            reader.check()
            _check_groups(domain, reader.index)
            _tell_sorted(domain, reader.index, self.window)
            self._readers[domain] = reader
            self._check_cache()
        return self._readers[domain].index

    def _read_index(self, domain: str) -> ShardIndex:
        content, place = self.shards.index(domain), f"{self.shards.where}/{domain}"
        if content is not None:
            index = ShardIndex.from_bytes(content, f"{place}/index.npz")
        elif isinstance(self.shards, FetchedShards):
            raise DataError(
                f"{place} has no index.npz, without which all its shards would have to be fetched to begin with: make "
                "it where the shards were made, with tlkit.data.index_shards(FOLDER), and put it beside them"
            )
        else:
            index = kept_index(Path(self.shards.folder) / domain)
        if index.kind != self.kind:
            other = ArrayShardDomains if index.kind == "array" else ImageShardDomains
            raise DataError(f"{place} holds {index.kind}s, which {other.__name__} reads, not {type(self).__name__}")
        return index

    def _check_cache(self) -> None:
        """Refuse a cache in which the shards that a run reads at a time do not fit together."""
        if not isinstance(self.shards, FetchedShards):
            return
        needed = sum(sum(sorted(reader.index.shard_bytes)[-self.window :]) for reader in self._readers.values())
        if needed > self.shards.limit:
            raise DataError(
                f"cache_gb {self.cache_gb:g} is less than the {needed / 1e9:.3g} GB of the {self.window} shards a "
                f"domain whose rows are shuffled together ({', '.join(map(repr, self._readers))}), which would be "
                "fetched over and over: raise it, or lower window"
            )


class ImageShardDomains(ShardDomains):
    """Images in tar shards, ``root/domain/*.tar``: files as they are, in the layout of WebDataset.

    A sample is the members of one name: an image (``0001.jpg``) and its class in ``0001.cls``, or in ``0001.json``
    as ``{"label": "dog", "group": "patient-7", "split": "train"}``. ``write_shards`` writes them. Images are read,
    resized and cut as :class:`~tlkit.data.images.files.ImageDomains` says; nothing is kept in memory.

    Args:
        root: Folder of the domains; a relative one is looked for in the working folder, then in the folder that the
            environment variable TLKIT_DATA names (default ``~/.cache/tlkit``). Or its address in object storage.
        sources: Labelled domains, named as their folders.
        targets: Domains to adapt to.
        image_size: Height and width in pixels.
        augment: What is random in training: ``"none"``, ``"flip_crop"`` (a crop at a random place, flipped left to
            right half of the time) or ``"strong"`` (a random half or more of the image, flipped, with other brightness,
            contrast and saturation).
        **kwargs: The arguments of :class:`ShardDomains` and :class:`DomainDataModule`.

    Raises:
        DataError: If a shard is missing, cut off or does not fit its index, an image is damaged, a sample lacks what
            others have, or the domains have other classes.
    """

    kind = "image"

    def __init__(
        self,
        root: str,
        sources: list[str],
        targets: list[str] | None = None,
        image_size: int = 224,
        augment: Augment = "flip_crop",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, sources, targets, **kwargs)
        self.image_size, self.augment = check_image_size(image_size), check_augment(augment)

    def rows(self, reader: ShardReader, rows: Rows, codes: NDArray[np.int64], split: Split) -> ShardRows:
        """Return some rows of a domain; training images are augmented."""
        augment = self.augment if split == "train" else "none"
        return _ImageRows(reader, rows, codes, self.window, self.image_size, augment)


class ArrayShardDomains(ShardDomains):
    """Arrays of numbers in tar shards, ``root/domain/*.tar``: signals or features, in the layout of WebDataset.

    A sample is the members of one name: an array of numpy (``0001.npy``), yielded as float32 whatever its numbers are,
    and its class in ``0001.cls``, or in ``0001.json`` as ``{"label": "walk", "group": "wearer-7", "split": "train"}``.
    All arrays of a run have one shape. ``write_shards`` writes them.

    Args:
        root: Folder of the domains; a relative one is looked for in the working folder, then in the folder that the
            environment variable TLKIT_DATA names (default ``~/.cache/tlkit``). Or its address in object storage.
        sources: Labelled domains, named as their folders.
        targets: Domains to adapt to.
        **kwargs: The arguments of :class:`ShardDomains` and :class:`DomainDataModule`.

    Raises:
        DataError: If a shard is missing, cut off or does not fit its index, an array is damaged or of another shape, a
            sample lacks what others have, or the domains have other classes.
    """

    kind = "array"

    def rows(self, reader: ShardReader, rows: Rows, codes: NDArray[np.int64], split: Split) -> ShardRows:
        """Return some rows of a domain."""
        return _ArrayRows(reader, rows, codes, self.window)

    def _read_index(self, domain: str) -> ShardIndex:
        index = super()._read_index(domain)
        for other, reader in self._readers.items():
            if reader.index.shape != index.shape:
                raise DataError(
                    f"domain {domain!r} has arrays of shape {index.shape}, domain {other!r} of {reader.index.shape}: "
                    "those of a run must be of one shape"
                )
        return index


class ShardRows(Dataset[tuple[Tensor, Tensor]], ABC):
    """Rows of a domain in shards, read a batch at a time.

    Args:
        reader: What reads the samples of the domain.
        rows: The numbers of the rows.
        codes: The label of each of the index's classes; the last is -1, for rows without.
        window: Shards whose rows are shuffled together in training.
    """

    def __init__(self, reader: ShardReader, rows: Rows, codes: NDArray[np.int64], window: int) -> None:
        self.reader, self.numbers, self.codes, self.window = reader, rows, codes, window

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        x, y = self.seeded_batch(torch.tensor([row]), (int(torch.randint(2**62, ())),))
        return x[0], y[0]

    @property
    def row_shards(self) -> Tensor:
        """``(N,)`` the number of the shard of each row."""
        return torch.from_numpy(self.reader.index.shard_of(self.numbers).astype(np.int32))

    def seeded_batch(self, rows: Tensor, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of ``(B,)`` rows, augmented by what ``key`` and each row's number draw."""
        numbers = self.numbers[rows.numpy()]
        labels = self.codes[self.reader.index.label[numbers]]
        return self._inputs(numbers, key), torch.from_numpy(labels)

    @abstractmethod
    def _inputs(self, numbers: Rows, key: tuple[int, ...]) -> Tensor:
        """Return the inputs of some rows."""


class _ImageRows(ShardRows):
    def __init__(
        self,
        reader: ShardReader,
        rows: Rows,
        codes: NDArray[np.int64],
        window: int,
        size: int,
        augment: Augment,
    ) -> None:
        super().__init__(reader, rows, codes, window)
        self.size, self.augment = size, augment

    def _inputs(self, numbers: Rows, key: tuple[int, ...]) -> Tensor:
        images = []
        for row in numbers.tolist():
            content, name = self.reader.read(row)
            images.append(shrunk(decode(content, name, CURE), round(self.size * 8 / 7)))
        return augmented(images, self.size, self.augment, row_draws(key, torch.from_numpy(numbers)))


class _ArrayRows(ShardRows):
    def _inputs(self, numbers: Rows, key: tuple[int, ...]) -> Tensor:
        batch = np.empty((len(numbers), *self.reader.index.shape), np.float32)
        for place, row in enumerate(numbers.tolist()):
            content, name = self.reader.read(row)
            array = array_of(content, name)
            if array.shape != self.reader.index.shape:
                raise DataError(
                    f"{name} is an array {array.shape}, its index says {self.reader.index.shape}: the index does not "
                    "fit the shard, make it again with tlkit.data.index_shards(FOLDER)"
                )
            batch[place] = array
        return torch.from_numpy(batch)


class _Names(Sequence[str]):
    """The names of rows, made when they are asked for."""

    def __init__(self, index: ShardIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, row: Any) -> Any:
        return self._index.name(int(row))


def _check_groups(domain: str, index: ShardIndex) -> None:
    """Refuse a group that is in two published splits."""
    if index.group is None or index.split is None:
        return
    pairs = np.unique(index.group.astype(np.int64) * len(SPLITS) + index.split)
    twice = np.flatnonzero(np.diff(pairs // len(SPLITS)) == 0)
    if len(twice):
        group, one, other = pairs[twice[0]] // len(SPLITS), *(pairs[twice[0] : twice[0] + 2] % len(SPLITS))
        rows = [int(np.flatnonzero((index.group == group) & (index.split == split))[0]) for split in (one, other)]
        raise DataError(
            f"domain {domain!r}: the group {index.groups[group]!r} is in two splits, {SPLITS[one]} "
            f"({index.name(rows[0])}) and {SPLITS[other]} ({index.name(rows[1])}): a group must stay in one"
        )


def _tell_sorted(domain: str, index: ShardIndex, window: int) -> None:
    """Say if the rows of a few shards are of a few classes alone: batches are drawn from a few shards."""
    if len(index.shards) <= window or len(index.labels) < 2:
        return
    pairs = np.unique(index.shard_of(np.arange(len(index))) * len(index.labels) + index.label)
    found = len(pairs) / len(index.shards)
    if found * window < len(index.labels) or found < 1.5:
        say(
            f"domain {domain!r}: a shard has samples of {found:.1f} of the {len(index.labels)} classes on average, and "
            f"batches are drawn from {window} shards at a time. Write its samples in a random order, or raise window"
        )
