"""One recording: whose it is, what it holds, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlkit.errors import DataError, unknown

__all__ = ["Recording", "Series", "check_series", "class_numbers"]


@dataclass(frozen=True)
class Series:
    """What one recording holds.

    Attributes:
        values: ``(T, C)`` samples of the channels.
        labels: ``(T,)`` class numbers; -1 breaks the recording, the sample is not used. None if it has no labels.
        times: ``(T,)`` seconds; None if the samples follow each other at ``windows.rate``.
        place: What a user knows the sample of a number by: a file and its line.
    """

    values: NDArray[Any]
    labels: NDArray[np.int64] | None
    times: NDArray[np.float64] | None
    place: Callable[[int], str]


@dataclass(frozen=True)
class Recording:
    """One recording, not yet read.

    Attributes:
        name: What a user knows it by.
        person: Who wore the device; empty if it is not known.
        device: The device, or another thing that tells domains apart; empty if there is one only.
        read: Reads it.
        test: Whether it belongs to the published test split; None if there is none.
    """

    name: str
    person: str
    device: str
    read: Callable[[], Series]
    test: bool | None = None


def check_series(name: str, series: Series, channels: Sequence[str]) -> None:
    """Refuse a recording without samples, with one that is no number, or with time stamps that go backwards.

    Args:
        name: What a user knows the recording by.
        series: What it holds.
        channels: Names of the channels.

    Raises:
        DataError: With the file, the line and what was expected.
    """
    if not len(series.values):
        raise DataError(f"{name} is empty: it holds no samples; remove it")
    bad = np.argwhere(~np.isfinite(series.values))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"{series.place(row)}: channel {channels[column]!r} is {series.values[row, column]}, expected a "
            "number; correct it or remove the sample"
        )
    if series.times is None:
        return
    back = np.flatnonzero(~(np.diff(series.times) >= 0))
    if len(back):
        before, after = series.times[back[0]], series.times[back[0] + 1]
        raise DataError(
            f"{series.place(int(back[0]) + 1)}: the time stamp goes backwards, by {before - after:g} s, at "
            f"{len(back)} places of the recording; sort its rows by time, or give each recording a name of its own"
        )


def class_numbers(
    labels: Any,
    classes: Sequence[str],
    column: str,
    place: Callable[[int], str],
    ignore: Sequence[str] = (),
) -> NDArray[np.int64]:
    """Return the number of each label in ``classes``, and -1 for those to ignore.

    Args:
        labels: ``(T,)`` names.
        classes: Names of the classes.
        column: The column that the labels stand in, for the message.
        place: What a user knows the row of a number by.
        ignore: Labels whose samples are not used.

    Raises:
        DataError: If a label is neither.
    """
    numbers: NDArray[np.int64] = pd.Index(classes, dtype=object).get_indexer(labels)
    strange = np.flatnonzero(numbers < 0)
    if len(strange) and not set(labels[strange]) <= set(ignore):
        row = next(int(row) for row in strange if labels[row] not in ignore)
        raise DataError(f"{place(row)}, column {column!r}: {unknown('label', str(labels[row]), classes)}")
    return numbers
