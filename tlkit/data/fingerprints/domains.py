"""WiFi fingerprints in a table: received signal strengths, coordinates, floor, building, domain."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlkit.data.files.folders import data_folder
from tlkit.data.files.tables import check_column, read_table, row_places, table_columns
from tlkit.data.fingerprints.scans import PositionLabel, Representation, ScanDomains, Scans, check_metres
from tlkit.data.labels import as_word, check_all_or_none, unlabelled_rows
from tlkit.errors import DataError, near, unknown

__all__ = ["FingerprintDomains", "FingerprintTable"]


@dataclass(frozen=True)
class FingerprintTable:
    """A table of WiFi scans, one a row, and what its columns are called.

    Attributes:
        path: CSV, JSON lines or parquet (:func:`tlkit.data.files.tables.read_table`); a relative path is looked for in
            the working folder, then in the folder that the environment variable TLKIT_DATA names.
        rssi: The columns of received signal strengths in dBm: a pattern such as ``"WAP*"``, or a list of names and
            patterns. An access point a column.
        x: Column of the first coordinate in metres. The columns that the label is made of are empty in all rows of a
            target without labels.
        y: Column of the second coordinate in metres.
        domain: Column of the domain: phone, user, month, place; words or whole numbers.
        floor: Column of the floor; needed for the labels ``floor`` and ``building_floor``.
        building: Column of the building; needed for ``building`` and ``building_floor``.
        group: Column of the scan series: rows of one visit to one place, which a split must not divide. A name that
            several domains have is one series in all of them: where one tests on it, the others do not train on it.
        missing: The value where an access point was not heard; None if such cells are empty.
        origin: What is taken away from the coordinates. Positions are float32, which holds centimetres up to 131 km.
    """

    path: str
    rssi: str | list[str] = "WAP*"
    x: str = "x"
    y: str = "y"
    domain: str = "domain"
    floor: str | None = None
    building: str | None = None
    group: str | None = None
    missing: float | None = 100.0
    origin: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.x == self.y:
            raise DataError(f"table.x and table.y both name the column {self.x!r}: name the two coordinates")


class FingerprintDomains(ScanDomains):
    r"""WiFi fingerprints of your own: positions in metres, floors or buildings from received signal strengths.

    ``x`` is float32, one value in [0, 1] for each access point: exactly 0 where it was not heard, above 0 where it was.
    ``y`` is float32 ``(x_m, y_m)``, or a class. All columns are kept, so that every run has inputs of one width; an
    access point that is never heard in a training domain is 0 there, and :class:`tlkit.backbones.FingerprintNet`
    gives it almost no influence elsewhere. Classes are those that the domains of the run have; each must have all.

    Args:
        table: The file and its columns.
        sources: Labelled domains, as the column of domains names them.
        targets: Domains to adapt to.
        label: ``"position"`` for the task Regression; ``"floor"``, ``"building"`` or ``"building_floor"``, whose
            classes are called ``building/floor``, for Classification.
        representation: How dBm become inputs in [0, 1] (Torres-Sospedra et al., Expert Systems with Applications 2015):
            ``"positive"`` is linear, ``"powed"`` and ``"exponential"`` spread out the strong signals.
        exponent: Of the representation ``"powed"``, above 0: the larger, the less faint signals count; e in the paper.
        weakest: The strength in dBm that is as good as nothing, below the weakest in the table.
        **kwargs: The arguments of :class:`DomainDataModule`.

    Raises:
        DataError: If the table cannot be read, or a cell is not what its column must hold: with its line and column.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "office.csv"
        >>> rows = [f"{-40 - i % 9},100,{i % 7},{i % 5},{phone}" for phone in ("old", "new") for i in range(40)]
        >>> _ = file.write_text("\n".join(["AP1,AP2,x,y,phone", *rows]))
        >>> table = FingerprintTable(str(file), rssi="AP*", domain="phone")
        >>> data = FingerprintDomains(table, ["old"], ["new"], representation="positive", weakest=-100, batch_size=4)
        >>> x, y = data.dataset("old", "test")[0]
        >>> x.shape, y.shape, data.quantities
        (torch.Size([2]), torch.Size([2]), ('x_m', 'y_m'))
    """

    shared_groups = True

    def __init__(
        self,
        table: FingerprintTable,
        sources: list[str],
        targets: list[str] | None = None,
        label: PositionLabel = "position",
        representation: Representation = "exponential",
        exponent: float = math.e,
        weakest: float = -105.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources=sources,
            targets=targets,
            label=label,
            representation=representation,
            exponent=exponent,
            weakest=weakest,
            **kwargs,
        )
        self.table = table
        for needed in ("floor", "building"):
            if needed in label and getattr(table, needed) is None:
                raise DataError(f"label is {label!r}, but table.{needed} names no column: set it")

    @cached_property
    def path(self) -> Path:
        """The file of the table."""
        given = Path(self.table.path).expanduser()
        elsewhere = data_folder() / given
        return elsewhere if not given.exists() and elsewhere.exists() else given

    @cached_property
    def access_points(self) -> list[str]:
        """The columns of received signal strengths, in the order of the inputs."""
        there = table_columns(self.path)
        wanted = [self.table.rssi] if isinstance(self.table.rssi, str) else self.table.rssi
        found: list[str] = []
        for pattern in wanted:
            hits = [name for name in there if name == pattern or fnmatch.fnmatchcase(name, pattern)]
            if not hits:
                listed = ", ".join(near(pattern.strip("*?"), there) or there[:8])
                raise DataError(
                    f"table.rssi: {self.path} has no column {pattern!r}; write a name or a pattern such as 'AP*'. Near "
                    f"it or first are: {listed}"
                )
            found += hits
        found = list(dict.fromkeys(found))
        if both := sorted(set(found) & set(self._others)):
            raise DataError(
                f"table.rssi: {self.table.rssi!r} takes in {both[0]!r} too, which is no signal strength: narrow it"
            )
        return found

    @property
    def input_names(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a property for read-only
        """The access points."""
        return self.access_points

    @cached_property
    def domains(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a cached_property for read-only
        """The values in the column of domains."""
        return list(dict.fromkeys(self._column(self.table.domain)))

    @cached_property
    def classes(self) -> Sequence[str]:  # type: ignore[override]
        """The floors or buildings in the domains of this run; none for positions."""
        found = {name for domain in self.eval_domains for name in self.domain_classes(domain)}
        return sorted(found, key=_by_number)

    def domain_classes(self, domain: str) -> Sequence[str]:
        """Return the floors or buildings of one domain; none for positions."""
        if self.label == "position":
            return ()
        labels = self._class_names
        return sorted({labels[row] for row in self._rows(domain)} - {""}, key=_by_number)

    def has_labels(self, domain: str) -> bool:
        """Return whether the rows of a domain have labels."""
        return not self._missing[self._rows(domain)].all()

    def where(self, what: str) -> str:
        """Return the file and the columns that the domains or the classes are read from."""
        columns = [self.table.domain] if what == "domains" else self._label_columns
        return f"{self.path}, column {' and '.join(map(repr, columns))}"

    def scans(self, domain: str) -> Scans:
        """Take the rows of one domain out of the table."""
        rows = self._rows(domain)
        rssi, position = self._signals[rows], self._position[rows] if self.label == "position" else np.zeros((0, 2))
        groups = None if self.table.group is None else np.asarray(self._column(self.table.group))[rows]
        labels: dict[str, Sequence[str]]
        labels = {} if self.label == "position" else {self.label: [self._class_names[row] for row in rows]}
        return Scans(rssi, position, labels, groups, [self._places[row] for row in rows])

    def _rows(self, domain: str) -> NDArray[np.int64]:
        if domain not in self.domains:
            raise DataError(f"{self.path}, column {self.table.domain!r}: {unknown('domain', domain, self.domains)}")
        return self._by_domain[domain]

    @cached_property
    def _by_domain(self) -> dict[str, NDArray[np.int64]]:
        """The rows of each domain."""
        owners = np.asarray(self._column(self.table.domain))
        return {domain: np.flatnonzero(owners == domain) for domain in self.domains}

    @cached_property
    def _others(self) -> list[str]:
        """The columns besides the access points that this run reads."""
        table = self.table
        return [name for name in (table.domain, table.group, *self._label_columns) if name is not None]

    @property
    def _label_columns(self) -> list[str]:
        if self.label == "position":
            return [self.table.x, self.table.y]
        return [getattr(self.table, name) for name in ("building", "floor") if name in self.label]

    @cached_property
    def _missing(self) -> NDArray[np.bool_]:
        """Which rows have no label; the others are checked, and that those of a domain agree."""
        columns, number = self._label_columns, self.label == "position"
        missing = unlabelled_rows(self._frame, self.path, columns, "number" if number else "label")
        cell = f"column {columns[0]!r}" if len(columns) == 1 else f"columns {' and '.join(map(repr, columns))}"
        for domain, rows in self._by_domain.items():

            def place(row: int, rows: NDArray[np.int64] = rows) -> str:
                return f"{self.path.parent / self._places[rows[row]]}, {cell}"

            if domain in self.eval_domains:  # another one may be half labelled, as work goes on
                check_all_or_none(domain, missing[rows], self.needs_labels(domain), place)
        return missing

    @cached_property
    def _frame(self) -> Any:
        return read_table(self.path, [*self.access_points, *self._others])

    @cached_property
    def _places(self) -> list[str]:
        return [f"{self.path.name}, {place}" for place in row_places(self.path, len(self._frame))]

    def _column(self, name: str) -> list[str]:
        """Return a column of words or whole numbers as words; 3 and 3.0 are one."""
        check_column(self._frame, self.path, name, "label")
        return [as_word(value) for value in self._frame[name].tolist()]

    @cached_property
    def _class_names(self) -> list[str]:
        cells = zip(*(self._frame[name].tolist() for name in self._label_columns), strict=True)
        known = ~self._missing
        return ["/".join(map(as_word, parts)) if there else "" for parts, there in zip(cells, known, strict=True)]

    @cached_property
    def _position(self) -> NDArray[np.float64]:
        columns, known = self._label_columns, ~self._missing
        position = np.full((len(known), 2), np.nan)
        position[known] = self._frame.loc[known, columns].to_numpy(np.float64) - np.asarray(self.table.origin)
        for domain, rows in self._by_domain.items():  # each by itself: sites in two towns are a degree apart
            if domain in self.eval_domains and known[rows].any():
                where = f"{self.path}, domain {domain!r}"
                check_metres(position[rows][known[rows]], where, columns, self.table.origin)
        return position

    @cached_property
    def _signals(self) -> NDArray[np.float32]:
        frame, marker = self._frame, self.table.missing
        for name in self.access_points:
            cells = frame[[name]]
            if marker is None and cells[name].dtype.kind not in "iuf":
                cells = cells.astype(object).where(cells.notna(), 0)
            if marker is not None or cells[name].dtype.kind not in "iuf":
                check_column(cells, self.path, name, "number")
        values: NDArray[np.float64] = frame[self.access_points].to_numpy(np.float64, na_value=np.nan)
        heard = ~np.isnan(values) if marker is None else values != marker
        bad = heard & ~((values > self.weakest) & (values <= 0))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            what = "an empty cell" if marker is None else f"{marker:g} (table.missing)"
            raise DataError(
                f"{self._places[row]}, column {self.access_points[column]!r}: {values[row, column]:g} is no signal "
                f"strength: they lie above {self.weakest:g} dBm (weakest) and at most at 0, or are {what} where the "
                f"access point was not heard ({int(bad.sum())} cells are like this)"
            )
        self._look_for_another_marker(values, heard)
        return np.where(heard, values, np.nan).astype(np.float32)

    def _look_for_another_marker(self, values: NDArray[np.float64], heard: NDArray[np.bool_]) -> None:
        """Refuse a table with many zeros, or one without missing cells in which the weakest value fills most."""
        if self.table.missing != 0 and (share := float((values == 0).mean())) > 0.05:
            raise DataError(
                f"{self.path}: {share:.0%} of the cells are 0 dBm, far more than any receiver measures. This is a "
                "guess: 0 may be the mark of an access point that was not heard; set table.missing to 0"
            )
        if self.table.missing is None or not heard.all():
            return
        weakest = values.min()
        share = float((values == weakest).mean())
        if share > 0.5 and weakest < values.max():
            raise DataError(
                f"{self.path}: no cell is {self.table.missing} (table.missing), the mark of an access point that was "
                f"not heard, and {share:.0%} of the cells are {weakest:g}. This is a guess: {weakest:g} may be the "
                "mark; set table.missing to it. If it was measured, set table.missing to null"
            )


def _by_number(name: str) -> tuple[Any, ...]:
    """Sort floors -1, 0, 2, 10 by number, and words after them."""
    parts = []
    for part in name.split("/"):
        try:
            parts.append((0, float(part), part))
        except ValueError:
            parts.append((1, 0.0, part))
    return tuple(parts)
