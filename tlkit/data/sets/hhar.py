"""Biking, sitting, standing, walking and climbing stairs with many phones and watches at once (HHAR)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlkit.data.files.fetch import Published
from tlkit.data.files.tables import table_columns
from tlkit.data.series.recording import Recording, Series
from tlkit.data.series.signals import Signals
from tlkit.data.series.windowed import SplitBy, WindowedDomains
from tlkit.data.series.windows import Windowing
from tlkit.data.sets.uci import uci_folder
from tlkit.errors import DataError, brief

__all__ = ["HHAR"]

_BY_HAND = "It is UCI's data set 344, Heterogeneity Activity Recognition, https://doi.org/10.24432/C5689X"
_OUTER = Published(
    "heterogeneity+activity+recognition.zip",
    "https://archive.ics.uci.edu/static/public/344/heterogeneity+activity+recognition.zip",
    by_hand=_BY_HAND,
)
_INNER = Published(
    "Activity recognition exp.zip",
    "https://archive.ics.uci.edu/ml/machine-learning-databases/00344/Activity%20recognition%20exp.zip",
    sha256="d4c0c53b195b523859bf71f5a349d164c7a604a321ff6b0972fbed6e03b46582",
    by_hand=_BY_HAND,
)
_PHONES, _WATCHES = "Phones_accelerometer.csv", "Watch_accelerometer.csv"
_FILES: dict[str, list[str]] = {"phones": [_PHONES], "watches": [_WATCHES], "both": [_PHONES, _WATCHES]}
_TYPES: dict[str, Any] = {
    "Arrival_Time": np.int64,
    **dict.fromkeys("xyz", np.float32),
    **dict.fromkeys(("User", "Device", "gt"), "category"),
}


class HHAR(WindowedDomains):
    """Acceleration of 8 phones and 4 watches of 6 models, six activities of 9 persons, three channels.

    Stisen et al., "Smart devices are different: assessing and mitigating mobile sensing heterogeneities for activity
    recognition", SenSys 2015. Licence: CC BY 4.0.

    Domains are the models ``nexus4``, ``s3``, ``s3mini`` and ``samsungold`` (phones), ``gear`` and ``lgwatch``
    (watches), the persons ``a`` to ``i``, persons from one to the other (``a-d``), and persons with a model
    (``a/nexus4``). Each device samples as fast as it can, 50 to 200 times a second, so everything is resampled.

    A recording is what one device recorded of one person, in the order of the arrival time (milliseconds). Samples of
    the class ``null`` are left out and break it. Recordings are divided into pieces of 30 s, as they are few and long.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        windows: How recordings are cut into windows; by default 128 samples at 50 Hz (2.56 s) every 64.
        signals: What is made of the channels, and what is random in training.
        split_by: What is never divided between the splits.
        devices: Which devices are read: ``"phones"``, ``"watches"`` or ``"both"``; the domains of persons are theirs.
        root: Folder that holds ``Phones_accelerometer.csv`` and ``Watch_accelerometer.csv``, or ``Activity recognition
            exp`` with them; else ``hhar`` in the folder that the environment variable TLKIT_DATA names (default
            ``~/.cache/tlkit``), downloaded if it is not there (740 MB).
        **kwargs: The arguments of :class:`~tlkit.data.base.DomainDataModule`.

    Raises:
        DataError: If a file is missing or is not what its name says.
    """

    channels = ("x", "y", "z")
    triads = ((0, 1, 2),)
    classes = ("bike", "sit", "stand", "walk", "stairsup", "stairsdown")

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        windows: Windowing = Windowing(longest=30.0, short="leave_out"),
        signals: Signals = Signals(),
        split_by: SplitBy = "recording",
        devices: Literal["phones", "watches", "both"] = "phones",
        root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources=sources, targets=targets, windows=windows, signals=signals, split_by=split_by, **kwargs
        )
        if devices not in _FILES:
            raise DataError(f"devices must be 'phones', 'watches' or 'both', got {devices!r}")
        self.devices, self.root = devices, root

    def find(self) -> Sequence[Recording]:
        """Return the recordings in the files."""
        folder = uci_folder(self.root, "hhar", _FILES[self.devices][0], _OUTER, _INNER)
        return [recording for name in _FILES[self.devices] for recording in self._in_file(folder / name)]

    def _in_file(self, path: Path) -> list[Recording]:
        frame = _read(path)
        known = pd.Index([*self.classes, "null"], dtype=object)
        labels = known.get_indexer(frame["gt"].cat.categories)[frame["gt"].cat.codes]
        if (labels < 0).any():
            row = int(np.flatnonzero(labels < 0)[0])
            raise DataError(
                f"{path}, line {row + 2}, column 'gt': activities are {', '.join(self.classes)} and null, got "
                f"{frame['gt'].iloc[row]!r}"
            )
        users, models = frame["User"].cat, frame["Device"].cat
        owner = users.codes.to_numpy(np.int64) * len(models.categories) + models.codes.to_numpy(np.int64)
        times, values = frame["Arrival_Time"].to_numpy(), frame[list(self.channels)].to_numpy()
        classes = np.where(labels < len(self.classes), labels, -1).astype(np.int64)
        order = np.lexsort((times, owner))
        edges = np.flatnonzero(np.diff(owner[order], prepend=-1, append=-1))
        found = []
        for low, high in pairwise(edges):
            rows = order[low:high]
            user, device = divmod(int(owner[rows[0]]), len(models.categories))
            person, thing = str(users.categories[user]), str(models.categories[device])
            read = partial(_series, values, classes, times, rows, path)
            found.append(Recording(f"{path.name}:{person}/{thing}", person, thing.rpartition("_")[0] or thing, read))
        return found


def _read(path: Path) -> Any:
    lacking = [name for name in _TYPES if name not in table_columns(path)]
    if lacking:
        raise DataError(f"{path} lacks the columns {', '.join(lacking)}; get it again. {_BY_HAND}")
    try:  # "null" is a class here and not a missing value
        frame = pd.read_csv(path, usecols=list(_TYPES), dtype=_TYPES, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {brief(error)}; get it again. {_BY_HAND}") from error
    if not len(frame):
        raise DataError(f"{path} is empty: it has no rows; get it again. {_BY_HAND}")
    return frame


def _series(
    values: NDArray[Any], classes: NDArray[np.int64], times: NDArray[np.int64], rows: NDArray[np.int64], path: Path
) -> Series:
    seconds = (times[rows] - times[rows[0]]) / 1000
    return Series(values[rows], classes[rows], seconds, lambda row: f"{path}, line {rows[row] + 2}")
