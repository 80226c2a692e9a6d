"""Windows of the user's own recordings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch.utils.data import Dataset

from tlkit.data.labels import check_all_or_none
from tlkit.data.series.files import SeriesColumns, SeriesTable, path_parts, series_files
from tlkit.data.series.recording import Recording, Series, class_numbers
from tlkit.data.series.signals import Signals, Triad
from tlkit.data.series.wearers import in_order
from tlkit.data.series.windowed import SplitBy, WindowedDomains
from tlkit.data.series.windows import Windowing
from tlkit.errors import DataError
from tlkit.types import Split

__all__ = ["SeriesDomains"]

_KEPT = 64 << 20  # bytes of samples of tables that are kept until their windows are made


class SeriesDomains(WindowedDomains):
    """Windows of the recordings in a table or in a folder of tables.

    A file is a table as :func:`~tlkit.data.files.tables.read_table` reads it (CSV, JSON lines, parquet), or ``.npz``:
    arrays of one length, each a column; an array ``acc`` of shape ``(T, 3)`` is the columns ``acc_0`` to ``acc_2``, a
    single value holds for all rows. Classes are the labels found in the domains of the run, in alphabetical order,
    numbers by value.

    Args:
        root: The table, or a folder whose tables are all read, those in its folders too; a relative one is looked for
            in the working folder, then in the folder that the environment variable TLKIT_DATA names (default
            ``~/.cache/tlkit``).
        columns: Which columns hold what.
        sources: Labelled domains, see :class:`~tlkit.data.series.windowed.WindowedDomains`.
        targets: Domains to adapt to.
        windows: How recordings are cut into windows.
        signals: What is made of the channels, and what is random in training.
        split_by: What is never divided between the splits.
        **kwargs: The arguments of :class:`~tlkit.data.base.DomainDataModule`.

    Raises:
        DataError: If a file is not there or is not what ``columns`` says, with the file and the line.
    """

    def __init__(
        self,
        root: str,
        columns: SeriesColumns,
        sources: list[str],
        targets: list[str] | None = None,
        windows: Windowing = Windowing(),
        signals: Signals = Signals(),
        split_by: SplitBy = "recording",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources=sources, targets=targets, windows=windows, signals=signals, split_by=split_by, **kwargs
        )
        self.root, self.columns = root, columns
        self.channels = list(columns.channels)
        places = {name: number for number, name in enumerate(self.channels)}
        self.triads: Sequence[Triad] = [
            (places[x], places[y], places[z]) for x, y, z in (*columns.triads, *columns.gyroscopes)
        ]
        self.gyroscopes = range(len(columns.triads), len(self.triads))
        self._tables: dict[Path, SeriesTable] = {}
        self._parts: list[tuple[Path, NDArray[np.int64] | slice, str | None]] = []
        self._found_classes: dict[str, list[str]] = {}

    @cached_property
    def classes(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a cached_property for read-only
        """The labels found in the domains of the run."""
        return in_order([name for domain in self.eval_domains for name in self.domain_classes(domain)])

    def domain_classes(self, domain: str) -> Sequence[str]:
        """Return the labels found in a domain."""
        if domain not in self._found_classes:
            names: set[str] = set()
            for number in self._chosen(domain):
                path, rows, label = self._parts[number]
                names.update(pd.unique(self._table(path, label).labels[rows]))
            if "" in names:
                self._check_missing(domain)
                self._unlabelled.add(domain)
            self._found_classes[domain] = in_order(sorted(names - {"", *self.columns.ignore}))
        return self._found_classes[domain]

    def has_labels(self, domain: str) -> bool:
        """Return whether the recordings of a domain have labels."""
        self.domain_classes(domain)
        return super().has_labels(domain)

    def where(self, what: str) -> str:
        """Return the files, and the columns or the parts of a path, that the domains or the classes are read from."""
        role = "label" if what == "classes" else "domain"
        if role in self.columns.named_groups:
            return f"the paths of the files of {self.root}, the group {role!r} of columns.path"
        column = getattr(self.columns, role)
        found = f"column {column!r}" if column else "the first folder of each path"
        return f"the files of {self.root}, {found}"

    def find(self) -> Sequence[Recording]:
        """Return the recordings in the files of ``root``; files are only read for it if columns tell them apart."""
        folder, paths = series_files(self.root)
        found: list[Recording] = []
        self._parts = []
        for path in paths:
            name = path.relative_to(folder).as_posix()
            said = path_parts(name, self.columns)
            label = said.get("label")
            inside = self._table(path, label).recordings() if self.columns.keys else [({}, None)]
            for more, some in inside:
                known, rows = said | more, slice(None) if some is None else some
                full = ":".join([name, *more.values()])
                read = partial(self._series, path, rows, label)
                found.append(Recording(full, known.get("person", ""), known.get("domain", ""), read))
                self._parts.append((path, rows, label))
        if not any(recording.person or recording.device for recording in found):
            raise DataError(
                f"nothing tells the recordings of {self.root} apart as domains: name columns.domain or columns.person, "
                "find them in the path by columns.path, or put the files into a folder a domain"
            )
        return found

    def dataset(self, domain: str, split: Split) -> Dataset[Any]:
        """Return the windows of one split of one domain; those to train on are augmented, if so chosen."""
        data = super().dataset(domain, split)
        if len(self._made) == len(self.eval_domains):
            self._tables.clear()  # the windows are made, so nothing reads the tables again
        return data

    def _table(self, path: Path, label: str | None) -> SeriesTable:
        if path not in self._tables:
            table = SeriesTable(path, self.columns, label)
            while self._tables and sum(each.values.nbytes for each in (table, *self._tables.values())) > _KEPT:
                del self._tables[next(iter(self._tables))]  # the first that was read is read again if it is needed
            self._tables[path] = table
        return self._tables[path]

    def _check_missing(self, domain: str) -> None:
        """Refuse a domain of which some samples have a label and some have none, or that needs a column of labels."""
        parts = []
        for number in self._chosen(domain):
            path, rows, label = self._parts[number]
            table = self._table(path, label)
            parts.append((table, np.arange(len(table))[rows]))
        missing = [table.labels[rows] == "" for table, rows in parts]
        table, rows, gone = next((*part, gone) for part, gone in zip(parts, missing, strict=True) if gone.any())
        first = f"{table.place(int(rows[gone.argmax()]))}, column {self.columns.label!r}"
        if self.needs_labels(domain):
            table.need_label_column()
        check_all_or_none(domain, np.concatenate(missing), self.needs_labels(domain), lambda row: first)

    def _series(self, path: Path, rows: NDArray[np.int64] | slice, label: str | None) -> Series:
        table = self._table(path, label)
        numbers = np.arange(len(table))[rows]

        def place(row: int) -> str:
            return table.place(int(numbers[row]))

        names = table.labels[rows]
        labels = None
        if (names != "").any():
            labels = class_numbers(names, self.classes, self.columns.label, place, self.columns.ignore)
        return Series(table.values[rows], labels, table.seconds(rows), place)
