"""Labels: as words and in order, how a missing one is told from others, what is refused, and what is said."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tlkit.data.files.tables import check_column, row_places
from tlkit.errors import DataError
from tlkit.notes import say

__all__ = [
    "as_word",
    "check_all_or_none",
    "class_order",
    "find_labels",
    "label_numbers",
    "missing_labels",
    "refuse_unlabelled",
    "tell_unlabelled",
    "unlabelled_rows",
]


def as_word(value: Any) -> str:
    """Return a cell that names something as a word, without the blanks around it; 3 and 3.0 are one.

    Example:
        >>> as_word(3.0), as_word(" left ")
        ('3', 'left')
    """
    return str(int(value)) if isinstance(value, float) else str(value).strip()


def class_order(names: Iterable[str]) -> list[str]:
    """Return names of classes, each once: by value if all are whole numbers, else by the alphabet.

    Example:
        >>> class_order(["10", "-1", "9"]), class_order(["b", "9"])
        (['-1', '9', '10'], ['9', 'b'])
    """
    distinct = sorted(set(names))
    whole = all(re.fullmatch(r"-?[0-9]+", name) for name in distinct)
    return sorted(distinct, key=int) if whole else distinct


def missing_labels(y: ArrayLike, classes: Sequence[str]) -> NDArray[np.bool_]:
    """Return which rows have no label: -1 where labels are classes, NaN where they are measured values.

    Args:
        y: ``(N,)`` or ``(N, K)`` labels.
        classes: Names of the classes; empty if labels are not classes, and then -1 is a value like others.

    Example:
        >>> missing_labels([1, -1], ["cat", "dog"]).tolist(), missing_labels([[1, np.nan], [np.nan] * 2], []).tolist()
        ([False, True], [False, True])
    """
    labels = np.asarray(y)
    columns = tuple(range(1, labels.ndim))
    if labels.dtype.kind == "f":
        return np.asarray(np.isnan(labels).all(axis=columns))
    if labels.dtype.kind == "i" and len(classes):
        return np.asarray((labels == -1).all(axis=columns))
    return np.zeros(len(labels), bool)


def label_numbers(labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each label in ``classes``, -1 for ``""``, which is no label.

    Example:
        >>> label_numbers(["dog", ""], ["cat", "dog"]).tolist()
        [1, -1]
    """
    numbers = {name: number for number, name in enumerate(classes)} | {"": -1}
    return np.array([numbers[label] for label in labels], np.int64)


def unlabelled_rows(
    frame: Any,
    path: Path,
    columns: Sequence[str],
    kind: Literal["number", "label"] = "label",
    places: Sequence[str] | None = None,
) -> NDArray[np.bool_]:
    """Return which rows of a table have no label: all its cells are missing or blank. The others are checked.

    Args:
        frame: What :func:`~tlkit.data.files.tables.read_table` returned.
        path: The file it was read from, for the message.
        columns: The columns that make the label.
        kind: What they hold, as for :func:`~tlkit.data.files.tables.check_column`.
        places: Where each row stands, if the frame is not as ``read_table`` returned it.

    Raises:
        DataError: If a cell of another row is missing or of another kind, with its line and column.
    """
    missing: NDArray[np.bool_] = np.logical_and.reduce([_empty(frame[column]) for column in columns])
    if missing.all():
        return missing
    if missing.any():  # the lines of the others are not counted on without the table
        places = [
            place for place, gone in zip(places or row_places(path, len(frame)), missing, strict=True) if not gone
        ]
        frame = frame[~missing]
    for column in columns:
        if kind == "number" and frame[column].dtype.kind == "O":  # one blank makes words of a whole column of numbers
            numbers = pd.to_numeric(frame[column], errors="coerce")
            frame = frame.assign(**{column: numbers}) if numbers.notna().all() else frame
        check_column(frame, path, column, kind, places)
    return missing


def _empty(column: Any) -> NDArray[np.bool_]:
    """Return which cells hold nothing, or blanks."""
    missing: NDArray[np.bool_] = column.isna().to_numpy(bool)
    if column.dtype.kind in "iufb":
        return missing
    blank = np.fromiter((isinstance(cell, str) and not cell.strip() for cell in column), bool, len(column))
    either: NDArray[np.bool_] = missing | blank
    return either


def check_all_or_none(domain: str, missing: NDArray[np.bool_], needed: bool, place: Callable[[int], str]) -> None:
    """Refuse a domain some of whose rows have a label and some none.

    Args:
        domain: Name of the domain.
        missing: ``(N,)`` which of its rows have none.
        needed: Whether it is trained on with labels, so that having none at all is no way out.
        place: What a user knows the row of a number by: a file, its line and column.

    Raises:
        DataError: With the first row that has no label, how many have none, and what to do.
    """
    rows = np.flatnonzero(missing)
    if len(rows) in (0, len(missing)):
        return
    ways = "label them, or remove them" if needed else "label all of them, or none: a target may have no labels at all"
    raise DataError(
        f"{place(int(rows[0]))}: expected a label, got nothing ({len(rows)} of the {len(missing)} rows of domain "
        f"{domain!r} {'has' if len(rows) == 1 else 'have'} none); {ways}"
    )


def find_labels(domain: str, y: NDArray[Any], used: NDArray[np.bool_], classes: Sequence[str], needed: bool) -> bool:
    """Return whether a domain has labels.

    Args:
        domain: Name of the domain.
        y: ``(N,)`` or ``(N, K)`` labels of all its rows.
        used: ``(N,)`` the rows that are trained, validated or tested on.
        classes: Names of the classes; empty if labels are not classes.
        needed: Whether it is trained on with labels.

    Raises:
        DataError: If some of the rows have a label and some have none.
    """
    rows, missing = np.flatnonzero(used), missing_labels(y, classes)[used]
    check_all_or_none(domain, missing, needed, lambda row: f"row {rows[row]} of domain {domain!r}")
    return not len(rows) or not missing.all()


def refuse_unlabelled(domains: Sequence[str], sources: Container[str], budgets: Container[str]) -> None:
    """Refuse domains without labels where labels are trained on.

    Args:
        domains: The domains that have none.
        sources: The domains that are trained on with labels.
        budgets: The domains that ``labels_per_class`` or ``label_fraction`` name.

    Raises:
        DataError: If one is among these, in words that say what to do.
    """
    for domain in domains:
        if domain in sources:
            raise DataError(
                f"sources: domain {domain!r} has no labels, and a source is trained on with its labels (an oracle is "
                "too): label its rows, or name it in targets"
            )
        if domain in budgets:
            raise DataError(
                f"labels_per_class or label_fraction names domain {domain!r}, which has no labels: leave it out there "
                "to adapt to it without any, or label its rows"
            )


def tell_unlabelled(domains: Sequence[str], told: set[str]) -> None:
    """Say what a run leaves out for domains without labels, once each.

    Args:
        domains: The domains that have none.
        told: Those of which it has been said; they are added to it.
    """
    for domain in domains:
        if domain not in told:
            say(
                f"domain {domain!r} has no labels: it is not tested and has no oracle/ scores; tlkit predict writes "
                "the predictions of all its rows"
            )
    told.update(domains)
