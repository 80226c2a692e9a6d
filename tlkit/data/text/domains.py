"""Texts of your own: CSV, JSON lines or parquet files, or a data set of Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlkit.data.files.folders import data_folder
from tlkit.data.files.tables import ENDINGS, check_column, read_table, row_places
from tlkit.data.labels import as_word, check_all_or_none, class_order, unlabelled_rows
from tlkit.data.text.rows import TextModule, Texts
from tlkit.errors import DataError, unknown

__all__ = ["TextDomains"]

_SAVED = ("dataset_info.json", "dataset_dict.json")  # what save_to_disk leaves


class TextDomains(TextModule):
    """Texts with a label and a domain each: reviews by product, messages by channel, reports by hospital.

    They lie in one file (CSV, JSON lines or parquet, see :func:`~tlkit.data.files.tables.read_table`), in a folder of
    such files, in a folder that ``datasets.save_to_disk`` wrote, or in a data set of the Hugging Face hub or a copy of
    one (extra ``text``). Domains and classes are those found in the data; the domains of a run must have the same
    classes. A file (``test.csv``, ``Test.csv``, ``test-00000-of-00001.parquet``) or a split named ``test`` is the test
    split of the domains in it.

    Args:
        path: The file, the folder, or the name on the hub (``owner/name``, or ``owner/name:configuration``). A relative
            path is looked for in the working folder, then in the folder that the environment variable TLKIT_DATA names
            (default ``~/.cache/tlkit``).
        sources: Labelled domains.
        targets: Domains to adapt to.
        text: Column of the texts.
        label: Column of the labels, words or whole numbers. In all rows of a target without labels it is empty, or
            their file lacks it.
        domain: Column of the domains; ``None`` if each file (without its ending) or split is a domain.
        **kwargs: The arguments of :class:`~tlkit.data.text.rows.TextModule`, ``tokenizer`` or ``words`` among them, and
            of :class:`DomainDataModule`.

    Raises:
        DataError: If the data is not there, a column is missing, or a cell is not text, empty or NaN: with file, line
            and column.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> file = tempfile.mkdtemp() + "/mine.csv"
        >>> words = [(shop, word, n) for shop in "ab" for word in ("good", "bad") for n in range(20)]
        >>> rows = [(f"{shop * 2} is {word} {n}", word, shop) for shop, word, n in words]
        >>> pd.DataFrame(rows, columns=["text", "label", "domain"]).to_csv(file, index=False)
        >>> data = TextDomains(file, sources=["a"], targets=["b"], words=50, batch_size=8)
        >>> data.setup()
        >>> data.classes, next(iter(data.train_dataloader())).source.x.shape
        (['bad', 'good'], torch.Size([8, 15]))
    """

    def __init__(
        self,
        path: str,
        sources: list[str],
        targets: list[str] | None = None,
        text: str = "text",
        label: str = "label",
        domain: str | None = "domain",
        **kwargs: Any,
    ) -> None:
        super().__init__(sources=sources, targets=targets, **kwargs)
        if len({text, label, domain}) < 3:
            raise DataError(
                f"text, label and domain: two of them name the same column, got {text!r}, {label!r} and {domain!r}"
            )
        self.path, self.text, self.label, self.domain = path, text, label, domain

    @cached_property
    def domains(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a cached_property for read-only
        """The domains found, in alphabetical order."""
        return sorted(self._by_domain)

    @cached_property
    def classes(self) -> Sequence[str]:  # type: ignore[override]
        """The labels of the domains of this run, in numerical order if all are numbers, else in alphabetical."""
        return class_order({name for domain in self.eval_domains for name in self.read(domain).labels} - {""})

    def domain_classes(self, domain: str) -> Sequence[str]:
        """Return the labels of one domain."""
        found = set(self.read(domain).labels)
        if lacking := [name for name in self.classes if name not in found]:
            others = [name for name in self.eval_domains if lacking[0] in self.read(name).labels]
            raise DataError(
                f"{self.path}, column {self.label!r}: domain {domain!r} has no text labelled {lacking[0]!r}, which "
                f"{others[0]!r} has ({domain!r} has {', '.join(class_order(found))}). The domains of a run must have "
                "the same classes: correct the labels, or leave the rows or the domain out"
            )
        return self.classes

    def where(self, what: str) -> str:
        """Return the files and the column that the domains or the classes are read from."""
        if what == "domains" and self.domain is None:
            return f"the names of the files or splits of {self.path}"
        return f"{self.path}, column {(self.domain if what == 'domains' else self.label)!r}"

    def read(self, domain: str) -> Texts:
        """Return all texts of a domain, duplicates among them."""
        if domain not in self._by_domain:
            raise DataError(f"{self.path}: {unknown('domain', domain, self._by_domain)}")
        return self._by_domain[domain]

    @cached_property
    def _by_domain(self) -> dict[str, Texts]:
        columns = [self.text, self.label, *([] if self.domain is None else [self.domain])]
        rows: dict[str, list[tuple[str, str, str, str, bool]]] = {}
        files: dict[str, list[tuple[Path, str]]] = {}
        parts = _parts(self.path, columns, self.label)
        for part in parts:
            for column in columns:
                if column != self.label:
                    check_column(part.frame, part.path, column, "text" if column == self.text else "label", part.places)
            missing = unlabelled_rows(part.frame, part.path, [self.label], places=part.places)
            domains = [part.name] * len(part.frame) if self.domain is None else map(as_word, part.frame[self.domain])
            published = self.domain is not None and re.match(r"(?i)test(-|$)", part.name) is not None
            cells = zip(domains, part.frame[self.text], part.frame[self.label], missing, part.places, strict=True)
            for domain, text, label, gone, place in cells:
                if gone and part.lacks_label and self.needs_labels(domain):
                    raise part.lacks_label
                where = place if len(parts) == 1 else f"{part.path.name}, {place}"
                rows.setdefault(domain, []).append((text, text, "" if gone else as_word(label), where, published))
                files.setdefault(domain, []).append((part.path, place))
        if not rows:
            raise DataError(f"{self.path} holds no rows")
        for domain, found in rows.items():
            if domain in self.eval_domains:  # another one may be half labelled, as work goes on
                self._check_missing(domain, np.array([not row[2] for row in found]), files[domain])
        return {domain: Texts.of(found) for domain, found in rows.items()}

    def _check_missing(self, domain: str, missing: NDArray[np.bool_], places: list[tuple[Path, str]]) -> None:
        def place(row: int) -> str:
            return f"{places[row][0]}, {places[row][1]}, column {self.label!r}"

        check_all_or_none(domain, missing, self.needs_labels(domain), place)


@dataclass(frozen=True)
class _Part:
    """One file or split: its columns, where each row stands in it, and the fault if it has no column of labels."""

    path: Path
    name: str
    frame: Any
    places: list[str]
    lacks_label: DataError | None = None


def _parts(path: str, columns: list[str], label: str) -> list[_Part]:
    places = list(dict.fromkeys([Path(path).expanduser(), data_folder() / Path(path).expanduser()]))
    found = next((place for place in places if place.exists()), None)
    if found is None and (path.lower().endswith(ENDINGS) or path[0] in "/.~" or path.count("/") > 1):
        raise DataError(f"path: there is no {' or '.join(map(str, places))}: give the file or folder of the texts")
    if found is None:
        return _hub(path, columns, label)
    if found.is_file():
        return [_file(found, columns, label)]
    saved = any((found / name).is_file() for name in _SAVED)
    files = sorted(filter(_is_table, found.iterdir()))
    if saved or (not files and any(map(_is_table, found.rglob("*")))):
        return _in_folder(found, saved, columns, label)
    if not files:
        raise DataError(
            f"path: {found} holds no table (a file that ends in {', '.join(ENDINGS)}) and was not written by "
            "datasets.save_to_disk: give the file or the folder of the texts"
        )
    return [_file(file, columns, label) for file in files]


def _is_table(file: Path) -> bool:
    return file.name.lower().endswith(ENDINGS) and file.name[0] != "."


def _file(path: Path, columns: list[str], label: str) -> _Part:
    frame = read_table(path, columns, optional=[label])
    name = path.name[: -len(next(ending for ending in ENDINGS if path.name.lower().endswith(ending)))]
    lacks_label = None
    if frame[label].isna().all():
        try:
            read_table(path, [label])
        except DataError as error:
            lacks_label = error
    return _Part(path, name, frame, row_places(path, len(frame)), lacks_label)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError('a data set of Hugging Face needs datasets: pip install "tlkit[text]"') from error
    return datasets


def _in_folder(folder: Path, saved: bool, columns: list[str], label: str) -> list[_Part]:
    """Read what ``datasets.save_to_disk`` wrote, or a copy of the hub's ``data/train-00000-of-00001.parquet``."""
    datasets = _datasets()
    layout = "" if saved else " in the layout of the hub of Hugging Face"
    advice = "" if saved else ". Give the folder that the tables are in"
    try:
        loaded = (datasets.load_from_disk if saved else datasets.load_dataset)(str(folder))
    except Exception as error:  # whatever its readers raise
        raise DataError(f"path: {folder} cannot be read as a data set{layout}: {_first_line(error)}{advice}") from error
    return _splits(folder, loaded, columns, label)


def _hub(name: str, columns: list[str], label: str) -> list[_Part]:
    datasets = _datasets()
    repository, _, configuration = name.partition(":")
    try:
        loaded = datasets.load_dataset(repository, configuration or None)
    except Exception as error:  # no network, no such data set, a configuration to choose
        raise DataError(
            f"path: {name!r} is no file or folder here or in {data_folder()}, and could not be had from the hub of "
            f"Hugging Face: {_first_line(error)}. Give the path of a file or folder, owner/name or "
            "owner/name:configuration; without a network, save the data set elsewhere with datasets.save_to_disk"
        ) from error
    return _splits(Path(name), loaded, columns, label)


def _splits(path: Path, loaded: Any, columns: list[str], label: str) -> list[_Part]:
    splits = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
    parts = []
    for name, split in splits.items():
        lacks_label = None
        for column in columns:
            if column not in split.column_names:
                error = DataError(f"{path}, split {name!r}: {unknown('column', column, split.column_names)}")
                if column != label:
                    raise error
                lacks_label = error
        there = [column for column in columns if column in split.column_names]
        frame = split.select_columns(there).to_pandas().reindex(columns=columns)
        for column in there:
            kind = split.features[column]
            if hasattr(kind, "int2str"):  # classes are kept as numbers, with their names beside
                frame[column] = [
                    None if value != value or value < 0 else kind.int2str(int(value)) for value in frame[column]
                ]
        parts.append(_Part(path / name, name, frame, [f"row {number}" for number in range(len(frame))], lacks_label))
    return parts


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
