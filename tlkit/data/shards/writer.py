"""Writing shards, from what a data module reads or from samples of one's own."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tlkit.data.base import DomainDataModule
from tlkit.data.checks import check_domains, roles
from tlkit.data.files.long_job import shown
from tlkit.data.images.files import ImageDomains, check_image
from tlkit.data.rows import mix
from tlkit.data.shards.index import check_file_name
from tlkit.data.shards.scan import index_shards
from tlkit.data.splits import as_mask
from tlkit.errors import DataError
from tlkit.notes import say
from tlkit.types import Split

__all__ = ["ShardSample", "write_domain", "write_shards"]


@dataclass(frozen=True)
class ShardSample:
    """A sample to be written.

    Attributes:
        x: The content of an image's file, or an array of numbers.
        label: Its class, a word or a whole number; None for none.
        group: What it belongs to, such as the patient; None if it is on its own.
        split: Its published split; None if none is published.
        ending: How an image's file ends: ``jpg``, ``png``, ``webp``, ...
        name: What it is known by; the letters and digits of it become a part of its key.
    """

    x: bytes | ArrayLike
    label: str | int | None = None
    group: str | int | None = None
    split: Split | None = None
    ending: str = "jpg"
    name: str = ""


def write_shards(
    data: DomainDataModule, out: str | Path, domains: Sequence[str] | None = None, megabytes: float = 256, seed: int = 0
) -> list[Path]:
    """Write the domains of a data module as shards, ``out/domain/*.tar``, each with an index beside its shards.

    Image files go into the shards as they are; of another data module what it yields to be evaluated, an array of
    numbers a row. Groups and published splits go with them. The rows of a domain are written in a random order, so
    that every shard has some of each class.

    Args:
        data: The data module; its training rows must not be cut by ``labels_per_class`` or ``label_fraction``.
        out: Where to; a domain's folder must not be there yet.
        domains: The domains to write; the sources, targets and ``also_test`` of the data module by default.
        megabytes: How large a shard becomes.
        seed: Seed of the order.

    Returns:
        The folders of the domains.

    Raises:
        DataError: If there is no such domain, a folder is there, two domains would have the same one, or the rows are
            neither images nor arrays with classes.
    """
    check_domains({"domains": domains} if domains else roles(data), data.domains, data.where)
    if data.budgets:
        raise DataError(
            f"labels_per_class or label_fraction is set for {', '.join(map(repr, data.budgets))}, and would leave out "
            "rows: leave it out here, and give it to the runs that read the shards"
        )
    if data.quantities:
        raise DataError("shards hold classes for labels, and those of this data module are measured values")
    folders = {domain: Path(out) / _folder_name(domain) for domain in domains or data.eval_domains}
    named: dict[Path, str] = {}
    for domain, folder in folders.items():
        _check_free(folder)
        if (other := named.setdefault(folder, domain)) != domain:
            raise DataError(f"domains {other!r} and {domain!r} would both be written to {folder}: write one elsewhere")
    for domain, folder in folders.items():
        source = _ImageFiles(data, domain) if isinstance(data, ImageDomains) else _ArrayRows(data, domain)
        order = np.random.default_rng(mix(seed, zlib.crc32(domain.encode()))).permutation(len(source))
        write_domain(folder, (source.sample(row) for row in order.tolist()), megabytes, len(source))
    return list(folders.values())


def write_domain(
    folder: str | Path, samples: Iterable[ShardSample], megabytes: float = 256, total: int | None = None
) -> Path:
    """Write samples as the shards of one domain, in the order in which they come, with their index.

    Training draws batches from a few shards at a time: mix the samples, so that each shard has some of every class.
    Everything is written aside and then moved, so a folder that has appeared is complete; the same samples give the
    same bytes.

    Args:
        folder: The domain's folder, which must not be there yet; ``root/domain`` is read with ``root``.
        samples: The samples.
        megabytes: How large a shard becomes.
        total: How many samples there are, to show how long it takes; None if that is not known.

    Returns:
        ``folder``.

    Raises:
        DataError: If the folder is there or cannot be written, there are no samples, or one cannot be.
    """
    folder = Path(folder)
    check_file_name(folder.name)
    _check_free(folder)
    if not megabytes > 0:
        raise DataError(f"megabytes must be more than 0, got {megabytes}")
    aside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
        shards = _Shards(aside, folder.name, round(megabytes * 1e6))
        with closing(shards), shown(f"shards of {folder.name}", total) as advance:
            for number, sample in enumerate(samples):
                shards.add(_members(number, sample))
                advance(1)
        index_shards(aside)
        aside.chmod(0o755)  # made for this user alone
        _check_free(folder)
        aside.rename(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}; nothing is left of it") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def _folder_name(domain: str) -> str:
    name = domain.replace("/", "_")
    check_file_name(name)
    if name != domain:
        say(f"the shards of domain {domain!r} are named {name!r}, which can be a folder")
    return name


def _check_free(folder: Path) -> None:
    if folder.exists():
        raise DataError(f"{folder} exists and is not written over: move it away, or name another folder")


class _Shards:
    """Tar files of a size, one after the other."""

    def __init__(self, folder: Path, name: str, most: int) -> None:
        self.folder, self.name, self.most = folder, name, most
        self.count = 0
        self.tar: tarfile.TarFile | None = None

    def add(self, members: list[tuple[str, bytes]]) -> None:
        """Write the members of a sample, which stay together."""
        if self.tar is not None and self.tar.offset >= self.most:
            self.close()
        if self.tar is None:
            path = self.folder / f"{self.name}-{self.count:06d}.tar"
            self.tar = tarfile.open(path, "x", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed when it is full
            self.count += 1
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            self.tar.addfile(member, BytesIO(content))
            self.tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them

    def close(self) -> None:
        """Finish the last one."""
        if self.tar is not None:
            self.tar.close()
            self.tar = None


def _members(number: int, sample: ShardSample) -> list[tuple[str, bytes]]:
    """Return the names and contents of a sample's members."""
    slug = re.sub(r"[^A-Za-z0-9-]+", "_", sample.name)[-60:].strip("_")
    key = f"{number:08d}-{slug}" if slug else f"{number:08d}"
    if isinstance(sample.x, bytes):
        members = [(f"{key}.{sample.ending.lower().lstrip('.')}", sample.x)]
    else:
        content = BytesIO()
        array = np.ascontiguousarray(sample.x)
        if array.dtype.kind not in "fiub":
            raise DataError(f"sample {number} holds {array.dtype}, an array of numbers is needed")
        np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
        members = [(f"{key}.npy", content.getvalue())]
    if sample.label is not None:
        members.append((f"{key}.cls", str(sample.label).encode()))
    more = {name: value for name in ("group", "split") if (value := getattr(sample, name)) is not None}
    if more:
        members.append((f"{key}.json", json.dumps(more, ensure_ascii=False).encode()))
    return members


class _ImageFiles:
    """The images of a domain, file by file."""

    def __init__(self, data: ImageDomains, domain: str) -> None:
        self.listing = data.listing(domain)
        listed = self.listing
        self.splits = _published(len(listed.paths), listed.test, listed.val)

    def __len__(self) -> int:
        return len(self.listing.paths)

    def sample(self, row: int) -> ShardSample:
        """Return a row."""
        path = self.listing.paths[row]
        check_image(path)
        return ShardSample(
            path.read_bytes(),
            self.listing.labels[row] or None,
            None if self.listing.groups is None else self.listing.groups[row],
            None if self.splits is None else self.splits[row],
            path.suffix,
            str(path.with_suffix("")),
        )


class _ArrayRows:
    """The rows of a domain as they are read to evaluate, in the order of their numbers."""

    def __init__(self, data: DomainDataModule, domain: str) -> None:
        self.classes, self.domain = data.classes, domain
        # Shards take groups of one name for one in all domains; those of other data may be each domain's own numbers.
        self.before = "" if data.shared_groups else f"{domain}: "
        self.parts = [data.dataset(domain, "reference"), data.dataset(domain, "test")]
        division = data._divisions.get(domain)
        self.groups: NDArray[Any] | None = None
        self.splits: list[Split] | None = None
        if domain not in data.splits:  # a data module that divides its rows in its own way
            sizes = [len(part) for part in self.parts]  # type: ignore[arg-type]
            self.numbers = np.arange(sum(sizes))
            self.places = self.numbers
            self.splits = [*["train"] * sizes[0], *["test"] * sizes[1]]  # type: ignore[list-item]
            return
        splits = data.splits[domain]
        numbers = np.concatenate([splits["reference"], splits["test"]])
        # Some protocols test on training rows: each is written once.
        self.numbers, self.places = np.unique(numbers, return_index=True)
        if division is None:  # all rows are in every split
            return
        self.groups = None if division.groups is None else np.asarray(division.groups)
        published = division.test if division.test is not None and np.ndim(division.test) else None
        self.splits = _published(len(division.y), published, division.val)
        left_out = len(division.y) - len(self.numbers)
        if left_out:
            say(f"{left_out} of the {len(division.y)} rows of domain {domain!r} are not in use, and not written")

    def __len__(self) -> int:
        return len(self.numbers)

    def sample(self, row: int) -> ShardSample:
        """Return a row."""
        place, number = int(self.places[row]), int(self.numbers[row])
        first = len(self.parts[0])  # type: ignore[arg-type]
        x, y = self.parts[0][place] if place < first else self.parts[1][place - first]
        if not isinstance(x, Tensor | np.ndarray):
            raise DataError(
                f"shards hold an image or an array of numbers a row, and domain {self.domain!r} has a "
                f"{type(x).__name__}: texts are best kept as tokens on disk, which TextDomains does by itself"
            )
        label = int(y)
        return ShardSample(
            np.asarray(x),
            None if label < 0 else self.classes[label],
            None if self.groups is None else self.before + (str(self.groups[number]) or f"row {number}"),
            None if self.splits is None else self.splits[number],
            name=f"row {number}",
        )


def _published(size: int, test: ArrayLike | None, val: ArrayLike | None) -> list[Split] | None:
    """Return the published split of each row; None if no test split is."""
    if test is None:
        return None
    held, kept = as_mask(test, size), as_mask([] if val is None else val, size)
    return ["test" if one else "val" if other else "train" for one, other in zip(held, kept, strict=True)]
