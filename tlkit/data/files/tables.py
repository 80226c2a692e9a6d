"""Tables that people have their data in: CSV, JSON lines and parquet, read by column and checked by cell."""

from __future__ import annotations

import csv
import io
import json
import warnings
import zlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import numpy as np
import pandas as pd

from tlkit.data.files.compressed import check_expansion, open_compressed
from tlkit.errors import DataError, brief, near

__all__ = ["ENDINGS", "check_column", "read_table", "row_places", "table_columns", "with_rows"]

_CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_JSON = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".ndjson")
_PARQUET = (".parquet", ".pq")
ENDINGS = (*_CSV, *_JSON, *_PARQUET)

# "None", "NA" and "null" are words and labels; only these are a missing value.
_MISSING = ["", "NaN", "nan"]
csv.field_size_limit(2**31 - 1)  # a whole report in one cell is longer than the default, 131,072
_FAULTS = (
    OSError,
    EOFError,
    MemoryError,
    OverflowError,
    UnicodeDecodeError,
    zlib.error,
    csv.Error,
    pd.errors.ParserError,
    pd.errors.ParserWarning,
    pd.errors.EmptyDataError,
)


def table_columns(path: Path) -> list[str]:
    """Return the names of a table's columns, in its order.

    Args:
        path: A file with one of the ``ENDINGS``.

    Raises:
        DataError: If the file is missing, of another kind, empty, or cannot be read.
    """
    kind = _kind(path)
    try:
        if kind == "parquet":
            names = list(_parquet_schema(path).names)
        elif kind == "csv":
            with _open(path) as file:
                names = next((row for row in csv.reader(file, delimiter=_delimiter(path)) if row), [])
        else:
            names = list(dict.fromkeys(key for record in _records(path) for key in record))
    except _FAULTS as error:
        raise _unreadable(path, error) from error
    if not names:
        raise _empty(path)
    return names


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Any:
    """Read columns of a table into a pandas DataFrame, rows and columns in order.

    CSV (``.csv``, ``.tsv``, also with ``.gz``) has a header and is read as UTF-8; an empty cell and ``NaN`` are
    missing, words such as ``NA`` and ``None`` are themselves. JSON lines (``.jsonl``, ``.json``, ``.ndjson``, also with
    ``.gz``) hold one object a line. Parquet needs the extra ``parquet``.

    Args:
        path: The file.
        columns: Names of the columns to read.
        optional: Those among them that are of missing cells alone where the file lacks them.

    Raises:
        DataError: If the file is missing, has no rows or cannot be read; if a row of a CSV file has another number of
            cells than the header, with its line; or if a column is lacking, with near names and all of them.
    """
    kind, wanted = _kind(path), list(dict.fromkeys(columns))
    records = _json_records(path) if kind == "json" else []
    there = list(dict.fromkeys(key for record in records for key in record)) if records else table_columns(path)
    found = [name for name in wanted if name in there or name not in optional]
    _check_header(path, found, there)
    if kind == "json":
        return pd.DataFrame({name: [record.get(name) for record in records] for name in wanted})
    if kind == "parquet":
        return with_rows(path, _parquet_columns(path, found).reindex(columns=wanted))
    try:
        _check_widths(path, len(there))
        with warnings.catch_warnings():
            # Should pandas find more cells in a row than were counted, it would cut them off in silence.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=_delimiter(path),
                keep_default_na=False,
                na_values=_MISSING,
                index_col=False,
                low_memory=False,
                encoding="utf-8",
            )
    except _FAULTS as error:
        raise _unreadable(path, error) from error
    return with_rows(path, frame.reindex(columns=wanted))


def with_rows(path: Path, frame: Any) -> Any:
    """Return what was read from a file.

    Raises:
        DataError: If it has no rows.
    """
    if not len(frame):
        raise DataError(f"{path} is empty: it has no rows; get it again, or remove it")
    return frame


def check_column(
    frame: Any,
    path: Path,
    column: str,
    kind: Literal["text", "number", "label"],
    places: Sequence[str] | None = None,
) -> None:
    """Refuse a column with a cell that is missing, empty or of another kind.

    Args:
        frame: What :func:`read_table` returned.
        path: The file it was read from, for the message.
        column: The column.
        kind: ``"text"`` for words, ``"number"`` for finite numbers, ``"label"`` for words or whole numbers.
        places: Where each row stands, if the frame is not as :func:`read_table` returned it.

    Raises:
        DataError: With file, line, column and value of the first such cell, and how many there are.
    """
    values = frame[column]
    missing = values.isna().to_numpy(bool)
    if values.dtype.kind in {"text": "", "number": "iuf", "label": "iub"}[kind]:
        bad = missing if kind == "label" else ~np.isfinite(values.to_numpy(np.float64, na_value=np.nan))
    else:
        fits = {"text": _is_text, "number": _is_number, "label": _is_label}[kind]
        bad = missing | np.fromiter((not fits(value) for value in values), bool, len(values))
    rows = np.flatnonzero(bad)
    if not len(rows):
        return
    # One word among numbers makes a column of words: it is the word that is at fault.
    first = next((row for row in rows if missing[row] or not _reads_as_number(values.iloc[row])), rows[0])
    wanted = {"text": "text", "number": "a number", "label": "a label (a word or a whole number)"}[kind]
    came = "nothing" if missing[first] else _described(values.iloc[first])
    many = len(rows) if kind == "text" or first == rows[0] else 1
    more = f" ({many} of {len(values)} rows are like this)" if many > 1 else ""
    place = (places or row_places(path, len(values)))[int(first)]
    raise DataError(
        f"{path}, {place}, column {column!r}: expected {wanted}, got {came}{more}; correct the cell or remove the row"
    )


def row_places(path: Path, count: int) -> list[str]:
    """Return where each of the first ``count`` rows of a table stands: ``line 2``, or ``row 1`` of a parquet file.

    Args:
        path: The file.
        count: How many rows.
    """
    kind = _kind(path)
    if kind == "parquet":
        return [f"row {number}" for number in range(1, count + 1)]
    with _open(path) as file:
        if kind == "json":
            lines = [number for number, line in enumerate(file, 1) if line.strip()]
        else:
            # Not row + 2: a quoted cell may go over several lines, and blank lines are passed over.
            reader, lines, start = csv.reader(file, delimiter=_delimiter(path)), [], 1
            for row in reader:
                if len(row) > 1 or (row and row[0].strip()):
                    lines.append(start)
                start = reader.line_num + 1
            lines = lines[1:]
    return [f"line {number}" for number in lines[:count]]


def _kind(path: Path) -> Literal["csv", "json", "parquet"]:
    if not path.exists():
        names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        hits = near(path.name, names)
        hint = f"; did you mean {' or '.join(hits)}?" if hits else ""
        raise DataError(f"there is no file {path}{hint}")
    if path.is_file() and not path.stat().st_size:
        raise _empty(path)
    name = path.name.lower()
    for kind, endings in (("csv", _CSV), ("json", _JSON), ("parquet", _PARQUET)):
        if name.endswith(endings) and path.is_file():
            return cast(Literal["csv", "json", "parquet"], kind)
    what = "is a folder" if path.is_dir() else "has another ending"
    raise DataError(f"{path} {what}: a table is a file that ends in {', '.join(ENDINGS)}")


def _empty(path: Path) -> DataError:
    return DataError(f"{path} is empty: it has no columns and no rows; get it again, or remove it")


def _delimiter(path: Path) -> str:
    return "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","


def _open(path: Path) -> TextIO:
    return io.TextIOWrapper(open_compressed(path), encoding="utf-8-sig", newline="")


def _parquet_schema(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError('a parquet file needs pyarrow, which is not installed: pip install "tlkit[parquet]"') from error
    try:
        return parquet.read_schema(path)
    except (*_FAULTS, ValueError, pyarrow.ArrowException) as error:  # ValueError: the JSON that pandas leaves in a file
        raise _unreadable(path, error) from error


def _parquet_columns(path: Path, columns: list[str]) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        check_expansion(path, parquet.read_metadata(path).num_rows * len(columns) * 8)
        return parquet.read_table(path, columns=columns).to_pandas(ignore_metadata=True)[columns]
    except DataError:
        raise
    except (*_FAULTS, ValueError, pyarrow.ArrowException) as error:
        raise _unreadable(path, error) from error


def _json_records(path: Path) -> list[dict[str, Any]]:
    try:
        return _records(path)
    except _FAULTS as error:
        raise _unreadable(path, error) from error


def _records(path: Path) -> list[dict[str, Any]]:
    records = []
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: not JSON ({error}); each line must hold one object, such as "
                    '{"text": "...", "label": "..."}'
                ) from error
            if not isinstance(record, dict):
                raise DataError(f"{path}, line {number}: each line must hold one JSON object, got a {_noun(record)}")
            if "\\ud" in line.lower():
                _check_surrogates(path, number, record)
            records.append(record)
    return records


def _check_surrogates(path: Path, number: int, record: dict[str, Any]) -> None:
    """Refuse half of a character, which JSON can hold and nothing else: what is left of a text cut in an emoji."""
    for name, value in record.items():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{path}, line {number}, column {name!a}: half of a character, {error.object[error.start]!a} "
                "without its other half, as where a text was cut in the middle of an emoji; take it out"
            ) from error


def _check_widths(path: Path, width: int) -> None:
    """Refuse a CSV row with fewer or more cells than the header: one that lacks a cell is shifted from there on."""
    delimiter = _delimiter(path)
    blanks = " \r\n" if delimiter == "\t" else " \t\r\n"
    number = 0
    with _open(path) as file:
        for line in file:
            start, number = number + 1, number + 1
            if '"' in line:  # seldom, and some fifty times as slow as to count
                reader = csv.reader(chain([line], file), delimiter=delimiter)
                found = len(next(reader))
                number = start + reader.line_num - 1
            else:
                found = line.count(delimiter) + 1
            if found != width and line.strip(blanks):
                over = f" up to line {number}, where its quotes end" if number > start else ""
                raise DataError(
                    f"{path}, line {start}: expected {width} cells as in the header, got {found}{over}; correct the "
                    f"row: an empty cell keeps its separator {delimiter!r}, and a text that holds one stands in quotes"
                )


def _check_header(path: Path, wanted: Sequence[str], there: Sequence[str]) -> None:
    for name in wanted:
        if name not in there:
            if len(there) == 1 and (other := next((sign for sign in ";\t|" if sign in there[0]), None)):
                raise DataError(
                    f"{path} seems to have {other!r} between its cells: the header is {there[0][:200]!r}. A .csv file "
                    "has commas, a .tsv file tabs: save it so"
                )
            hits = near(name, there)
            hint = f": did you mean {' or '.join(map(repr, hits))}?" if hits else "."
            listed = ", ".join(there[:40]) + (f" and {len(there) - 40} more" if len(there) > 40 else "")
            raise DataError(f"{path} has no column {name!r}{hint} Its columns: {listed}")
        if list(there).count(name) > 1:
            raise DataError(f"{path} has {list(there).count(name)} columns named {name!r}: rename or remove the others")


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, UnicodeDecodeError):
        with open_compressed(path) as file:
            line = next((number for number, text in enumerate(file, 1) if not _is_utf8(text)), 1)
        return DataError(f"{path}, line {line}: not UTF-8 ({error.reason}); save the file again as UTF-8")
    reason = brief(error)
    if isinstance(error, pd.errors.ParserWarning) or "Expected " in reason:
        reason = f"a row has more cells than the header ({reason}); put a text that holds the separator into quotes"
    return DataError(f"cannot read the table {path}: {reason}")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not _blank(value)


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return number and _reads_as_number(value)  # a whole number may be too large for numpy


def _is_label(value: Any) -> bool:
    whole = isinstance(value, (int, np.integer, np.bool_)) or (isinstance(value, float) and value.is_integer())
    return whole or _is_text(value)


def _reads_as_number(value: Any) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except (TypeError, ValueError, OverflowError):
        return False


def _blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _described(value: Any) -> str:
    if _blank(value):
        return f"only blanks, {value!r}"
    value = value.item() if isinstance(value, np.generic) else value
    text = repr(value)
    return f"the {_noun(value)} {text if len(text) < 60 else text[:57] + '...'}"


def _noun(value: Any) -> str:
    names = {str: "text", bool: "truth value", int: "number", float: "number", list: "list", dict: "object"}
    return names.get(type(value), type(value).__name__)
