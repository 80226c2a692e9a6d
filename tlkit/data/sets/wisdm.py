"""Walking, jogging, climbing stairs, sitting and standing with a phone in the pocket (WISDM v1.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlkit.data.files.fetch import Published, published_folder
from tlkit.data.files.folders import data_folder, find_folder
from tlkit.data.series.recording import Recording, Series
from tlkit.data.series.signals import Signals
from tlkit.data.series.windowed import SplitBy, WindowedDomains
from tlkit.data.series.windows import Windowing
from tlkit.errors import DataError, brief
from tlkit.notes import say

__all__ = ["WISDM"]

_ARCHIVE = Published(
    "WISDM_ar_latest.tar.gz",
    "https://www.cis.fordham.edu/wisdm/includes/datasets/latest/WISDM_ar_latest.tar.gz",
    by_hand="It is the activity prediction data set of https://www.cis.fordham.edu/wisdm/dataset.php (v1.1)",
)
_FILE = "WISDM_ar_v1.1_raw.txt"
_FOLDER = "WISDM_ar_v1.1"
_RATE = 20.0
_NUMBER = r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
# user,activity,timestamp,x,y,z and here and there one comma too many
_ENTRY = re.compile(r"\s*(\d+)\s*,\s*([A-Za-z]+)\s*,\s*(\d+)" + rf"\s*,\s*({_NUMBER})" * 3 + r"\s*,?\s*")


class WISDM(WindowedDomains):
    """Acceleration of a phone in the trouser pocket, six activities of 36 persons, three channels at 20 Hz.

    Kwapisz, Weiss and Moore, "Activity recognition using cell phone accelerometers", SensorKDD 2010; version 1.1.
    Licence: none is given; the authors ask to be cited, and that the readme stays with the data. No checksum is
    published.

    Domains are the persons ``s01`` to ``s36`` and persons from one to the other (``s01-s15``).

    The file has lines with several samples, with a value or the end missing, and samples without a time stamp (0, with
    all values 0). What is no whole sample is left out and counted (``broken``). Time stamps are nanoseconds; stretches
    of them stand still, so samples are taken to follow each other at the nominal rate, and the time stamps only tell
    where a recording ends: where they go backwards or by more than ``windows.longest_gap``. It also ends where the
    person or the activity changes. Recordings are divided into pieces of 32 s, as there are few of each activity.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        windows: How recordings are cut into windows; by default 128 samples (6.4 s) every 64.
        signals: What is made of the channels, and what is random in training.
        split_by: What is never divided between the splits.
        root: Folder that holds ``WISDM_ar_v1.1_raw.txt``, or ``WISDM_ar_v1.1`` with it; else ``wisdm`` in the folder
            that the environment variable TLKIT_DATA names (default ``~/.cache/tlkit``), downloaded if it is not there.
        **kwargs: The arguments of :class:`~tlkit.data.base.DomainDataModule`.

    Attributes:
        broken: How many entries of the file are no whole sample.

    Raises:
        DataError: If the file is missing or is not what its name says.
    """

    channels = ("x", "y", "z")
    triads = ((0, 1, 2),)
    classes = ("Walking", "Jogging", "Sitting", "Standing", "Upstairs", "Downstairs")

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        windows: Windowing = Windowing(rate=_RATE, longest=32.0, short="leave_out"),
        signals: Signals = Signals(),
        split_by: SplitBy = "recording",
        root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources=sources, targets=targets, windows=windows, signals=signals, split_by=split_by, **kwargs
        )
        self.root, self.broken = root, 0

    def find(self) -> Sequence[Recording]:
        """Return the recordings in the file."""
        path = self._folder() / _FILE
        try:
            entries = [entry for entry in re.split(r"[;\n]", path.read_text(encoding="ascii")) if entry.strip(" \t\r,")]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {path}: {brief(error)}; get it again. {_ARCHIVE.by_hand}") from error
        matches = [match for entry in entries if (match := _ENTRY.fullmatch(entry)) and match[3] != "0"]
        self.broken = len(entries) - len(matches)
        if not matches:
            raise DataError(f"{path} holds no entry user,activity,timestamp,x,y,z; get it again. {_ARCHIVE.by_hand}")
        if self.broken:
            say(f"{path}: {self.broken} of {len(entries)} entries are no whole sample and are left out")
        names = {name: number for number, name in enumerate(self.classes)}
        strange = {match[2] for match in matches} - set(names)
        if strange:
            raise DataError(f"{path}: activities are {', '.join(self.classes)}, got {', '.join(sorted(strange))}")
        columns = list(zip(*(match.groups() for match in matches), strict=True))
        persons, times = np.array(columns[0], np.int64), np.array(columns[2], np.int64)
        labels = np.array([names[name] for name in columns[1]])
        values = np.array(columns[3:], np.float64).T
        step = np.diff(times)
        ends = (np.diff(persons) != 0) | (np.diff(labels) != 0) | (step < 0) | (step > self.windows.longest_gap * 1e9)
        breaks = (np.flatnonzero(ends) + 1).tolist()
        found = []
        for number, (low, high) in enumerate(zip([0, *breaks], [*breaks, len(values)], strict=True)):
            name = f"recording {number}, person {persons[low]}, {self.classes[labels[low]]}"
            read = partial(_series, values[low:high], labels[low:high], f"{path}, {name}")
            found.append(Recording(name, f"s{persons[low]:02}", "", read))
        return found

    def _folder(self) -> Path:
        base = find_folder(self.root) if self.root else data_folder() / "wisdm"
        if (base / _FILE).is_file():
            return base
        return published_folder(self.root, "wisdm", [f"{_FOLDER}/{_FILE}"], [_ARCHIVE]) / _FOLDER


def _series(values: NDArray[Any], labels: NDArray[np.int64], name: str) -> Series:
    return Series(values, labels, np.arange(len(values)) / _RATE, lambda row: f"{name}, sample {row}")
