"""Images listed in a table: a file, its class and its domain a row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.data.files.folders import find_folder
from tlkit.data.files.tables import check_column, read_table, row_places
from tlkit.data.images.augment import Augment
from tlkit.data.images.files import ImageDomains, Listing
from tlkit.data.labels import as_word, check_all_or_none, unlabelled_rows
from tlkit.errors import DataError, near, unknown
from tlkit.notes import say

__all__ = ["ImageColumns", "ImageTableDomains"]


@dataclass(frozen=True)
class ImageColumns:
    """Which columns of a table hold what.

    Attributes:
        path: The file of the image.
        label: Its class, a word or a whole number; empty in all rows of a target without labels.
        domain: Its domain.
        group: What must stay in one split, such as the patient, in all domains of the run; None if there is nothing.
        split: ``train``, ``val`` or ``test``, the published split; None if rows are drawn by chance. Where no row of a
            domain says ``val``, validation rows are drawn from those that say ``train``.
    """

    path: str = "path"
    label: str = "label"
    domain: str = "domain"
    group: str | None = None
    split: str | None = None


class ImageTableDomains(ImageDomains):
    """Images listed in a CSV file, JSON lines or a parquet file.

    How images are read, resized and cut is said at :class:`~tlkit.data.images.files.ImageDomains`, how tables are at
    :func:`~tlkit.data.files.tables.read_table`. Of rows that say the same of a file one is kept, and said how many were
    not. A file that two domains of a run have is not trained on in the one and tested on in the other.

    Args:
        table: The file; a relative one is looked for in the working folder, then in the folder that the environment
            variable TLKIT_DATA names (default ``~/.cache/tlkit``).
        sources: Labelled domains, as they stand in the table.
        targets: Domains to adapt to.
        columns: Names of the columns: ``{path: file, label: diagnosis, domain: hospital, group: patient}``.
        root: Folder that the files in the table are relative to; the table's folder by default.
        image_size: Height and width in pixels.
        augment: What is random in training: ``"none"``, ``"flip_crop"`` (a crop at a random place, flipped left to
            right half of the time) or ``"strong"`` (a random half or more of the image, flipped, with other brightness,
            contrast and saturation).
        cache: Keep the resized images of a domain in memory once read, if they take at most 1 GiB.
        **kwargs: The arguments of :class:`DomainDataModule`.

    Raises:
        DataError: If the table cannot be read, lacks a column or has a bad cell, says two things of a file, an image is
            missing or cannot be read, or the domains have other classes.
    """

    shared_groups = True

    def __init__(
        self,
        table: str,
        sources: list[str],
        targets: list[str] | None = None,
        columns: ImageColumns = ImageColumns(),
        root: str | None = None,
        image_size: int = 224,
        augment: Augment = "flip_crop",
        cache: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources=sources, targets=targets, image_size=image_size, augment=augment, cache=cache, **kwargs
        )
        self.table, self.columns, self.root = table, columns, root

    @cached_property
    def path(self) -> Path:
        """The table."""
        path = Path(self.table).expanduser()
        return path if path.is_file() else find_folder(str(path.parent), "table") / path.name

    @cached_property
    def frame(self) -> Any:
        """The rows of the table, with columns named as the attributes of :class:`ImageColumns`."""
        named = {column: name for name, column in vars(self.columns).items() if column is not None}
        if len(named) < sum(column is not None for column in vars(self.columns).values()):
            raise DataError(f"columns: two of them name the same column, got {vars(self.columns)}")
        frame = read_table(self.path, list(named))
        for column, name in named.items():
            if name != "label":
                check_column(frame, self.path, column, "text" if name in ("path", "split") else "label")
        missing = unlabelled_rows(frame, self.path, [self.columns.label])
        frame[self.columns.label] = frame[self.columns.label].astype(object).mask(missing, "")
        frame = frame.rename(columns=named)
        for name in set(named.values()) & {"label", "domain", "group"}:
            frame[name] = frame[name].map(as_word).astype(object)
        frame["place"] = row_places(self.path, len(frame))
        frame["file"] = [os.path.normpath(self.folder / Path(name).expanduser()) for name in frame["path"]]
        return self._without_repetitions(frame)

    @cached_property
    def folder(self) -> Path:
        """The folder that the files in the table are relative to."""
        return self.path.parent if self.root is None else find_folder(self.root)

    def _without_repetitions(self, frame: Any) -> Any:
        """Return the rows without those that say of a file what another row of its domain says."""
        first: dict[tuple[str, str], int] = {}
        said = [name for name in ("label", "group", "split") if name in frame]
        repeated = []
        for row, key in enumerate(zip(frame["domain"], frame["file"], strict=True)):
            if (before := first.setdefault(key, row)) == row:
                continue
            for name in said:
                one, other = frame[name].iloc[before], frame[name].iloc[row]
                if one != other:
                    raise DataError(
                        f"{self.path}, {frame['place'].iloc[row]}: {frame['path'].iloc[row]} stands with the "
                        f"{name} {other!r}, and with {one!r} in {frame['place'].iloc[before]}: correct one of the "
                        "rows, or remove it"
                    )
            repeated.append(row)
        if repeated:
            say(f"{self.path}: {len(repeated)} of {len(frame)} rows repeat another one and are left out")
        return frame.drop(index=frame.index[repeated])

    @cached_property
    def domains(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a cached_property for read-only
        """The domains in the table, in alphabetical order."""
        return sorted(set(self.frame["domain"]))

    def where(self, what: str) -> str:
        """Return the table and the column that the domains or the classes are read from."""
        return f"{self.path}, column {(self.columns.domain if what == 'domains' else self.columns.label)!r}"

    def listing(self, domain: str) -> Listing:
        """Return the images of one domain, in the order of the table."""
        if domain not in self.domains:
            raise DataError(f"table={self.table!r}: {unknown('domain', domain, self.domains)}")
        frame = self.frame[self.frame["domain"] == domain]
        places, missing = frame["place"].tolist(), (frame["label"] == "").to_numpy(bool)
        cells = f"{self.path}, {{}}, column {self.columns.label!r}"
        check_all_or_none(domain, missing, self.needs_labels(domain), lambda row: cells.format(places[row]))
        for place, file in zip(places, frame["file"], strict=True):
            if not os.path.isfile(file):
                fault = _missing(Path(file), self.folder)
                raise DataError(f"{self.path}, {place}, column {self.columns.path!r}: {fault}")
        return Listing(
            [Path(file) for file in frame["file"]],
            frame["label"].tolist(),
            [f"{place}: {name}" for place, name in zip(places, frame["path"], strict=True)],
            self._groups(frame),
            *(self._published(frame, places) if self.columns.split else ()),
        )

    def _groups(self, frame: Any) -> list[str] | None:
        """Return the group of each row; a file that several domains of the run have is one if nothing else is."""
        if self.columns.group:
            return list(frame["group"])
        used = self.frame[self.frame["domain"].isin(self.eval_domains)]
        return list(frame["file"]) if used["file"].duplicated().any() else None

    def _published(self, frame: Any, places: list[str]) -> tuple[list[int], list[int] | None]:
        """Return the numbers of the rows to test and to validate on."""
        for place, split in zip(places, frame["split"], strict=True):
            if split not in ("train", "val", "test"):
                raise DataError(
                    f"{self.path}, {place}, column {self.columns.split!r}: the split is train, val or test, got "
                    f"{split!r}"
                )
        if self.columns.group:
            first: dict[str, tuple[str, str]] = {}
            for place, group, split in zip(places, frame["group"], frame["split"], strict=True):
                place_of_first, split_of_first = first.setdefault(group, (place, split))
                if split != split_of_first:
                    raise DataError(
                        f"{self.path}: {self.columns.group} {group!r} is in two splits, {split_of_first} "
                        f"({place_of_first}) and {split} ({place}): a group must stay in one; correct the column "
                        f"{self.columns.split!r}, or leave one of the two columns out"
                    )
        test, val = (np.flatnonzero(frame["split"].to_numpy() == name).tolist() for name in ("test", "val"))
        return test, val or None


def _missing(path: Path, folder: Path) -> str:
    hits = near(path.name, [other.name for other in path.parent.iterdir()]) if path.parent.is_dir() else []
    hint = f" Did you mean {' or '.join(hits)}?" if hits else ""
    return f"there is no file {path}.{hint} Paths are relative to {folder}; root names another folder"
