"""Walking, climbing stairs, sitting, standing and lying with a phone on the waist (UCI HAR)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlkit.data.files.fetch import Published
from tlkit.data.series.recording import Recording, Series
from tlkit.data.series.signals import Signals
from tlkit.data.series.windowed import SplitBy, WindowedDomains
from tlkit.data.series.windows import Windowing
from tlkit.data.sets.uci import uci_folder
from tlkit.errors import DataError, brief

__all__ = ["UCIHAR"]

_BY_HAND = "It is UCI's data set 240, Human Activity Recognition Using Smartphones, https://doi.org/10.24432/C54S4K"
_OUTER = Published(
    "human+activity+recognition+using+smartphones.zip",
    "https://archive.ics.uci.edu/static/public/240/human+activity+recognition+using+smartphones.zip",
    sha256="c00b803081a5c797cd5e4b83700a9810b38d53d9d84e01917e090e1fdbc81031",
    by_hand=_BY_HAND,
)
_INNER = Published(
    "UCI HAR Dataset.zip",
    "https://archive.ics.uci.edu/ml/machine-learning-databases/00240/UCI%20HAR%20Dataset.zip",
    by_hand=_BY_HAND,
)
_LENGTH, _STEP = 128, 64  # of the published windows
_RATE = 50.0


class UCIHAR(WindowedDomains):
    """Six activities of 30 persons with a smartphone on the waist, nine channels at 50 Hz.

    Anguita et al., "A public domain dataset for human activity recognition using smartphones", ESANN 2013. Licence: CC
    BY 4.0 at UCI; the README inside forbids commercial use.

    Body acceleration (without gravity), rotation, and total acceleration, in g and rad/s. Domains are the persons
    ``s01`` to ``s30`` and persons from one to the other (``s01-s15``).

    Published are windows of 128 samples that overlap by half. Windows that continue each other, sample by sample, are
    joined again, so the default windows are the published ones, other lengths and strides can be had, and no two
    splits share a sample: recordings are divided into pieces of 15.36 s, 11 windows, and one of 12 windows, which would
    lie in two pieces, is not used.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        windows: How recordings are cut into windows; by default as published.
        signals: What is made of the channels, and what is random in training.
        split_by: What is never divided between the splits.
        root: Folder that holds ``train/Inertial Signals/body_acc_x_train.txt`` and so on, or ``UCI HAR Dataset`` with
            it; else ``uci-har`` in the folder that the environment variable TLKIT_DATA names (default
            ``~/.cache/tlkit``), downloaded if it is not there (61 MB).
        **kwargs: The arguments of :class:`~tlkit.data.base.DomainDataModule`.

    Raises:
        DataError: If a file is missing or is not what its name says.
    """

    channels = tuple(f"{name}_{axis}" for name in ("body_acc", "body_gyro", "total_acc") for axis in "xyz")
    triads = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    gravity = 2
    gyroscopes = (1,)
    classes = ("WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING")

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        windows: Windowing = Windowing(longest=15.36, short="leave_out"),
        signals: Signals = Signals(),
        split_by: SplitBy = "recording",
        root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources=sources, targets=targets, windows=windows, signals=signals, split_by=split_by, **kwargs
        )
        self.root = root

    def find(self) -> Sequence[Recording]:
        """Return the recordings that the published windows are joined to."""
        folder = uci_folder(self.root, "uci-har", "train/y_train.txt", _OUTER, _INNER)
        found = []
        for part in ("train", "test"):
            windows, labels, persons = self._read_part(folder, part)
            # Gravity is in the total acceleration, which makes a chance match of two halves impossible.
            same = np.isclose(windows[:-1, 6:, _STEP:], windows[1:, 6:, :_STEP], rtol=1e-4, atol=1e-6).all(axis=(1, 2))
            breaks = np.flatnonzero(~(same & (persons[1:] == persons[:-1]))) + 1
            for low, high in zip([0, *breaks.tolist()], [*breaks.tolist(), len(windows)], strict=True):
                name = f"{part} windows {low + 1} to {high}"
                read = partial(_joined, windows[low:high], labels[low:high], f"{folder / part}, {name}")
                found.append(Recording(name, f"s{persons[low]:02}", "", read))
        return found

    def _read_part(self, folder: Path, part: str) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
        signals = [
            _numbers(folder / part / "Inertial Signals" / f"{name}_{part}.txt", _LENGTH) for name in self.channels
        ]
        columns = [_numbers(folder / part / f"{name}_{part}.txt", 1) for name in ("y", "subject")]
        counts = {len(each) for each in signals + columns}
        if len(counts) != 1:
            raise DataError(
                f"the files of {folder / part} must all have as many lines, got {sorted(counts)}: get them again"
            )
        labels, persons = (column[:, 0].astype(np.int64) for column in columns)
        bad = np.flatnonzero((labels < 1) | (labels > len(self.classes)))
        if len(bad):
            raise DataError(
                f"{folder / part / f'y_{part}.txt'}, line {bad[0] + 1}: labels are 1 to {len(self.classes)}, got "
                f"{labels[bad[0]]}; get the file again"
            )
        return np.stack(signals, axis=1), labels - 1, persons


def _joined(windows: NDArray[Any], labels: NDArray[np.int64], name: str) -> Series:
    """Join windows whose second half is the first half of the next."""
    values = np.concatenate([*windows[:, :, :_STEP], windows[-1, :, _STEP:]], axis=1).T
    # A half belongs to two windows; given the label of the later, the majority of a window is its published label,
    # since of two labels that are as frequent the one met first is taken.
    halves = np.append(labels, labels[-1])
    times = np.arange(len(values)) / _RATE
    return Series(values, np.repeat(halves, _STEP), times, lambda row: f"{name}, sample {row}")


def _numbers(path: Path, width: int) -> NDArray[np.float32]:
    """Read lines of ``width`` numbers."""
    if not path.is_file():
        raise DataError(f"{path} is missing. {_BY_HAND}")
    try:
        table = pd.read_csv(path, sep=r"\s+", header=None, dtype=np.float32)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must hold lines of {width} numbers: {brief(error)}; get it again") from error
    numbers: NDArray[np.float32] = table.to_numpy()
    if numbers.shape[1] != width or not np.isfinite(numbers).all():
        raise DataError(f"{path} must hold lines of {width} numbers, got {numbers.shape[1]} or none; get it again")
    return numbers
