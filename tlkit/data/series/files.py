"""Files of recordings: which of their columns is what, and what a file holds."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlkit.data.files.compressed import check_zip
from tlkit.data.files.folders import data_folder
from tlkit.data.files.tables import ENDINGS, check_column, read_table, row_places, with_rows
from tlkit.data.series.wearers import in_order
from tlkit.errors import DataError, brief, near, unknown

__all__ = ["SeriesColumns", "SeriesTable", "path_parts", "series_files"]

Unit = Literal["s", "ms", "us", "ns", "date"]
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_IN_PATH = ("recording", "person", "domain", "label")


@dataclass(frozen=True)
class SeriesColumns:
    r"""Which columns of a table hold what.

    Attributes:
        channels: The signals, in the order that the network sees them.
        label: The class of each sample, a word or a whole number. In all rows of a target without labels it is empty,
            or their files lack it.
        time: The time stamp of each sample; None if samples follow each other at ``windows.rate``. Equal time stamps
            are allowed, such samples become their mean.
        unit: Unit of the time stamps: ``"s"``, ``"ms"``, ``"us"``, ``"ns"``, or ``"date"`` for dates, as text or as
            parquet's own.
        recording: Which recording a row belongs to; None if each file is one recording (or each person and domain in
            it).
        person: Who was recorded; None if it is not known or the path says so.
        domain: The device, place or other thing that tells domains apart; None if the path says so.
        triads: For each sensor the three channels that are its axes, the accelerometer first.
        gyroscopes: The same for the sensors that measure turning: a mirror changes their signs in another way.
        path: A regular expression that finds what the columns do not say in a file's path below ``root``, by groups
            named ``recording``, ``person``, ``domain`` or ``label``: ``(?P<person>s\d+)_(?P<domain>phone|watch)``. If
            neither it nor a column says the domain, it is the first folder of the path.
        ignore: Labels whose samples are not used; a recording breaks there.

    Raises:
        DataError: If the columns contradict each other.
    """

    channels: list[str]
    label: str = "label"
    time: str | None = None
    unit: Unit = "s"
    recording: str | None = None
    person: str | None = None
    domain: str | None = None
    triads: Sequence[Sequence[str]] = ()
    gyroscopes: Sequence[Sequence[str]] = ()
    path: str | None = None
    ignore: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.channels or len(set(self.channels)) < len(self.channels):
            raise DataError(f"columns.channels names at least one signal, each once, got {list(self.channels)}")
        roles = {
            "label": None if "label" in self.named_groups else self.label,
            "time": self.time,
            "domain": self.domain,
            "person": self.person,
            "recording": self.recording,
        }
        said: dict[str, str] = {}
        for role, column in roles.items():
            if column is None:
                continue
            if column in self.channels:
                raise DataError(
                    f"columns.channels and columns.{role} both name {column!r}: the network would see it; leave it out "
                    "of the channels"
                )
            if (other := said.setdefault(column, role)) != role:
                raise DataError(
                    f"columns.{other} and columns.{role} name the same column {column!r}: a column says one thing"
                )
        if self.unit not in get_args(Unit):
            raise DataError(f"columns.unit must be one of {', '.join(map(repr, get_args(Unit)))}, got {self.unit!r}")
        taken: set[str] = set()
        for name, triads in (("triads", self.triads), ("gyroscopes", self.gyroscopes)):
            for triad in triads:
                for axis in triad:
                    if axis not in self.channels:
                        raise DataError(f"columns.{name}: {unknown('channel', axis, self.channels)}")
                if len(set(triad)) != 3:
                    raise DataError(
                        f"columns.{name}: a triad is three channels, the axes of a sensor, got {list(triad)}"
                    )
                if both := sorted(taken & set(triad)):
                    raise DataError(f"columns.{name}: {both[0]!r} is an axis of two sensors; name a sensor once")
                taken |= set(triad)
        for role in _IN_PATH:
            if role in self.named_groups and role != "label" and getattr(self, role) is not None:
                raise DataError(f"columns.path and columns.{role} both say what the {role} is: leave one out")

    @property
    def named_groups(self) -> list[str]:
        """The groups of ``path``.

        Raises:
            DataError: If it is no regular expression, or a group has another name.
        """
        if self.path is None:
            return []
        try:
            groups = list(re.compile(self.path).groupindex)
        except re.error as error:
            raise DataError(f"columns.path {self.path!r} is no regular expression: {error}") from error
        for group in groups:
            if group not in _IN_PATH:
                raise DataError(f"columns.path: {unknown('group', group, _IN_PATH)}")
        if not groups:
            raise DataError(f"columns.path {self.path!r} has no named group such as (?P<person>s\\d+)")
        return groups

    @property
    def keys(self) -> list[str]:
        """The columns that say which recording a row belongs to."""
        return [column for column in (self.domain, self.person, self.recording) if column is not None]

    @property
    def needed(self) -> list[str]:
        """All columns that a table must have."""
        label = [] if "label" in self.named_groups else [self.label]
        return [*self.channels, *label, *([self.time] if self.time else []), *self.keys]


def series_files(root: str) -> tuple[Path, list[Path]]:
    """Return the folder of the recordings and the tables in it, or of one table the folder that it is in and itself.

    Args:
        root: The folder or the table; a relative one is looked for in the working folder, then in
            :func:`~tlkit.data.files.folders.data_folder`.

    Raises:
        DataError: If it is in neither, or the folder holds no table.
    """
    places = list(dict.fromkeys([Path(root).expanduser(), data_folder() / Path(root).expanduser()]))
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise DataError(f"root: there is no file or folder {' or '.join(map(str, places))}")
    if found.is_file():
        return found.parent, [found]
    endings = (*ENDINGS, ".npz")
    names = [path.relative_to(found).as_posix() for path in found.rglob("*") if path.name.lower().endswith(endings)]
    shown = [name for name in in_order(names) if not any(part.startswith(".") for part in name.split("/"))]
    if not shown:
        raise DataError(f"root: {found} holds no tables; they are files that end in {', '.join(endings)}")
    return found, [found / name for name in shown]


def path_parts(name: str, columns: SeriesColumns) -> dict[str, str]:
    r"""Return what a file's path below ``root`` says of its recording.

    Raises:
        DataError: If ``columns.path`` does not match it.

    Example:
        >>> path_parts("phone/p3_walk.csv", SeriesColumns(["x"], path=r"(?P<person>p\d+)_(?P<label>[a-z]+)"))
        {'domain': 'phone', 'person': 'p3', 'label': 'walk'}
    """
    first = name.split("/")[0] if "/" in name and columns.domain is None else ""
    parts = {"domain": first} if first else {}
    if columns.path is not None:
        match = re.search(columns.path, name)
        if match is None:
            raise DataError(f"columns.path {columns.path!r} does not match {name!r}: move the file away or change it")
        parts |= {group: value for group, value in match.groupdict().items() if value is not None}
    return parts


class SeriesTable:
    """The columns of one file, checked.

    Args:
        path: The file.
        columns: Which columns hold what.
        label: The label of all rows, if the path says it.

    Attributes:
        values: ``(T, C)`` samples of the channels.
        labels: ``(T,)`` names of the classes; empty where there is none.

    Raises:
        DataError: If a column is missing, or a cell is not what its column holds: with the file and the line.
    """

    def __init__(self, path: Path, columns: SeriesColumns, label: str | None = None) -> None:
        self.path, self.columns = path, columns
        self._places: list[str] = []
        archive = path.name.lower().endswith(".npz")
        self._read = _read_arrays if archive else read_table
        frame = self._read(path, columns.needed, optional=[columns.label])
        self._check_unit(frame)
        check = partial(_check_array if archive else _check_table, path)
        numbers = [*columns.channels, *([columns.time] if columns.time is not None and columns.unit != "date" else [])]
        if not _all_finite(frame[numbers]):
            for column in numbers:
                check(frame, column, "number")
        if columns.time is not None and columns.unit == "date" and frame[columns.time].dtype.kind != "M":
            check(frame, columns.time, "text")
        self.values = frame[columns.channels].to_numpy(np.float32)
        self.labels: NDArray[Any] = np.full(len(frame), label or "", object)
        if label is None and columns.label in frame:
            self.labels = _names(frame, columns.label, check, missing=True)
        self._keys = {column: _names(frame, column, check) for column in columns.keys}
        self._times = None if columns.time is None else self._stamps(frame[columns.time])

    def __len__(self) -> int:
        return len(self.labels)

    def need_label_column(self) -> None:
        """Refuse a file without a column of labels; near names and all others are said."""
        self._read(self.path, self.columns.needed)

    def recordings(self) -> list[tuple[dict[str, str], NDArray[np.int64] | None]]:
        """Return, for each recording in the file, what its columns say of it, and its rows (None: all)."""
        if not self._keys:
            return [({}, None)]
        numbers = pd.DataFrame(self._keys).groupby(list(self._keys), sort=False).indices
        roles = {self.columns.domain: "domain", self.columns.person: "person", self.columns.recording: "recording"}
        found = []
        for key, rows in numbers.items():
            values = key if isinstance(key, tuple) else (key,)
            found.append(({roles[column]: str(value) for column, value in zip(self._keys, values, strict=True)}, rows))
        return found

    def seconds(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float64] | None:
        """Return the time stamps of some rows, in seconds after the first of them."""
        if self._times is None:
            return None
        stamps = self._times[rows]
        scale = _SECONDS.get(self.columns.unit, 1e-9)
        return np.asarray(
            (stamps - stamps[0]) * scale, np.float64
        )  # subtracted first: nanoseconds need all their digits

    def place(self, row: int) -> str:
        """Return the file and the line of a row."""
        if not self._places:
            archive = self.path.name.lower().endswith(".npz")
            count = len(self)
            self._places = [f"row {n}" for n in range(1, count + 1)] if archive else row_places(self.path, count)
        return f"{self.path}, {self._places[row]}"

    def _check_unit(self, frame: Any) -> None:
        """Refuse dates where ``columns.unit`` says numbers, and numbers where it says dates."""
        name, unit = self.columns.time, self.columns.unit
        if name is None:
            return
        column, first = frame[name], frame[name].iloc[0]
        if unit == "date" and column.dtype.kind in "iuf":
            raise DataError(
                f"{self.path}, column {name!r}: columns.unit is 'date', and the time stamps are numbers such as "
                f"{first}: set columns.unit to theirs, one of {', '.join(map(repr, _SECONDS))}"
            )
        text = isinstance(first, str) and "-" in first.strip()[1:]
        if unit != "date" and (column.dtype.kind == "M" or (text and not pd.isna(_dates(first)))):
            raise DataError(
                f"{self.path}, column {name!r}: columns.unit is {unit!r}, and the time stamps are dates such as "
                f"{str(first)!r}: set columns.unit to 'date'"
            )

    def _stamps(self, column: Any) -> NDArray[Any]:
        if self.columns.unit != "date":
            return np.asarray(column.to_numpy())
        # Parquet has dates of its own.
        stamps = pd.to_datetime(column, utc=True) if column.dtype.kind == "M" else _dates(column)
        bad = np.flatnonzero(stamps.isna())
        if len(bad):
            raise DataError(
                f"{self.place(int(bad[0]))}, column {self.columns.time!r}: expected a date such as "
                f"2024-05-31T12:00:00.250, got {column.iloc[bad[0]]!r}"
            )
        return np.asarray(stamps.to_numpy("datetime64[ns]").astype(np.int64))


Kind = Literal["text", "number", "label"]


def _dates(text: Any) -> Any:
    """Return the dates that a text or a column of texts says; not a time where it says none."""
    return pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")


def _check_table(path: Path, frame: Any, column: str, kind: Kind) -> None:
    places = None
    if (count := frame.index[-1] + 1) > len(frame):  # of some of the rows
        everywhere = row_places(path, count)
        places = [everywhere[row] for row in frame.index]
    check_column(frame, path, column, kind, places)


def _check_array(path: Path, frame: Any, column: str, kind: Kind) -> None:
    values = frame[column]
    numeric = values.dtype.kind in "iufb"
    if kind == "number":
        bad = ~np.isfinite(values.to_numpy(np.float64)) if numeric else np.ones(len(values), bool)
    elif kind == "label" and numeric:
        bad = values.to_numpy(np.float64) % 1 != 0
    else:
        bad = np.array([not isinstance(value, str) or not value.strip() for value in values])
    rows = np.flatnonzero(bad)
    if len(rows):
        wanted = {"text": "text", "number": "a number", "label": "a label (a word or a whole number)"}[kind]
        raise DataError(
            f"{path}, row {frame.index[rows[0]] + 1}, array {column!r}: expected {wanted}, got "
            f"{values.iloc[rows[0]]!r} ({len(rows)} of {len(values)} rows are like this); correct it or remove the row"
        )


def _read_arrays(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> Any:
    """Read the arrays of an npz file as the columns of a table; see :func:`~tlkit.data.files.tables.read_table`."""
    if not path.stat().st_size:
        raise DataError(f"{path} is empty: it holds no arrays; get it again, or remove it")
    try:
        with zipfile.ZipFile(path) as archive:  # numpy takes other files for other formats, and leaves a bad one open
            check_zip(path, archive)
            archive.testzip()
        with np.load(path, allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in arrays.files}
    except DataError:
        raise
    except Exception as error:  # what zipfile, zlib and numpy raise on damaged files is written down nowhere
        raise DataError(
            f"cannot read {path}: {brief(error)}; an .npz file holds arrays of numbers or of text (not of objects)"
        ) from error
    columns: dict[str, NDArray[Any]] = {}
    for name, array in content.items():
        if not isinstance(array, np.ndarray):
            raise DataError(f"{path}: {name!r} is no array; an .npz file holds arrays of numbers or of text")
        if array.ndim > 2:
            raise DataError(f"{path}: array {name!r} has the shape {array.shape}; expected (T,) or (T, channels)")
        columns |= {name: array} if array.ndim < 2 else {f"{name}_{i}": array[:, i] for i in range(array.shape[1])}
    found = [name for name in needed if name in columns or name not in optional]
    for name in found:
        if name not in columns:
            hits = near(name, columns)
            hint = f": did you mean {' or '.join(map(repr, hits))}?" if hits else "."
            raise DataError(f"{path} has no array {name!r}{hint} Its columns: {', '.join(columns) or 'none'}")
    lengths = {name: len(columns[name]) for name in found if columns[name].ndim}
    if len(set(lengths.values())) != 1:
        raise DataError(f"{path}: the arrays must have one length, got {lengths}")
    count = next(iter(lengths.values()))
    frame = pd.DataFrame({name: np.broadcast_to(columns[name], count) for name in found})
    return with_rows(path, frame.reindex(columns=list(needed)))


def _all_finite(frame: Any) -> bool:
    numeric = all(kind.kind in "iuf" for kind in frame.dtypes)
    return numeric and bool(np.isfinite(frame.to_numpy(np.float64, na_value=np.nan)).all())


def _names(frame: Any, column: str, check: Callable[[Any, str, Kind], None], missing: bool = False) -> NDArray[Any]:
    """Return labels or names as text, whole numbers without a decimal point; a bad one is refused by ``check``.

    A cell that is empty or blank is no bad one if it may be ``missing``, and becomes an empty text.
    """
    codes, found = pd.factorize(frame[column])  # an empty cell has the code -1, the last of those below
    names: NDArray[Any] = np.array([*(_name(value) for value in found), ""], object)[codes]
    allowed = np.array([*(isinstance(value, str) and not value.strip() for value in found), True])[codes] & missing
    if ((names == "") & ~allowed).any():
        check(frame[~allowed], column, "label")
    return names


def _name(value: Any) -> str:
    """Return a label as text; nothing if it is none."""
    if isinstance(value, (bool, np.bool_, int, np.integer)) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return value.strip() if isinstance(value, str) else ""
