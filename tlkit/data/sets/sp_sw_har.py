"""Sitting down, standing up, walking and turning, with a phone in the pocket and a watch on the wrist."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from tlkit.data.files.fetch import Published, published_folder
from tlkit.data.files.folders import data_folder, find_folder
from tlkit.data.series.files import SeriesColumns, SeriesTable
from tlkit.data.series.recording import Recording, Series, class_numbers
from tlkit.data.series.signals import Signals
from tlkit.data.series.windowed import SplitBy, WindowedDomains
from tlkit.data.series.windows import Windowing
from tlkit.errors import DataError
from tlkit.types import Split

__all__ = ["SPSWHAR"]

_COMMIT = "1408d85a512a53861de7bc4729dee283fff2ea9d"
_ARCHIVE = Published(
    f"sp-sw-har-dataset-{_COMMIT}.zip",
    f"https://github.com/GeoTecINIT/sp-sw-har-dataset/archive/{_COMMIT}.zip",
    by_hand="It is also at https://doi.org/10.5281/zenodo.8398688: unpack it so that the folder DATA lies in sp-sw-har",
)
_PLACES = ("DATA", f"sp-sw-har-dataset-{_COMMIT}/DATA")
_FIRST_TESTED = 8
_DEVICES = {"sp": "phone", "sw": "watch"}


class SPSWHAR(WindowedDomains):
    """Inertial signals of a smartphone in the pocket and a smartwatch on the wrist, of 23 persons at the same time.

    Matey-Sanz, Casteleyn and Granell, "Dataset of inertial measurements of smartphones and smartwatches for human
    activity recognition", Data in Brief 2023. Licence: CC BY 4.0. No checksum is published.

    Acceleration in m/s2 (gravity included) and rotation in rad/s along three axes, about 100 samples a second at
    irregular time stamps, five activities. Domains are ``phone`` and ``watch``, persons (``s03``), persons from one to
    the other (``s01-s07``), and persons with a device (``s03/watch``, ``s01-s07/phone``).

    The protocol is tlkit's: recordings 8 and up of every person are the test split, whatever the role of the domain.
    Person ``s01`` has six recordings, so that it is trained on, among others, and not tested.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        windows: How recordings are cut into windows; by default 128 samples at 50 Hz (2.56 s) every 32.
        signals: What is made of the channels, and what is random in training.
        split_by: What is never divided between training and validation: a recording, or all those of a person.
        root: Folder that holds ``DATA/s01/s01_01_sp.csv`` and so on; else ``sp-sw-har`` in the folder that the
            environment variable TLKIT_DATA names (default ``~/.cache/tlkit``), downloaded if it is not there.
        **kwargs: The arguments of :class:`~tlkit.data.base.DomainDataModule`.

    Raises:
        DataError: If a file is missing or is not what its name says, or no recording of a domain is tested on.
    """

    channels = ("x_acc", "y_acc", "z_acc", "x_gyro", "y_gyro", "z_gyro")
    triads = ((0, 1, 2), (3, 4, 5))
    gyroscopes = (1,)
    classes = ("SEATED", "STANDING_UP", "WALKING", "TURNING", "SITTING_DOWN")

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        windows: Windowing = Windowing(stride=32),
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
        """Return the recordings; a file is read when a domain needs it."""
        folder = self._folder()
        found = []
        for path in sorted(folder.glob("s*/*.csv")):
            match = re.fullmatch(r"(s\d+)_(\d+)_(sp|sw)\.csv", path.name)
            if match is None:
                raise DataError(f"{path} is not named as sXX_YY_sp.csv or sXX_YY_sw.csv: move it away")
            person, number, device = match.groups()
            test = int(number) >= _FIRST_TESTED
            found.append(Recording(path.name, person, _DEVICES[device], partial(self._read_file, path), test))
        if not found:
            raise DataError(f"{folder} holds no files s01/s01_01_sp.csv and so on. {_ARCHIVE.by_hand}")
        return found

    def dataset(self, domain: str, split: Split) -> Dataset[Any]:
        """Return the windows of one split of one domain."""
        recordings = [self.recordings[number] for number in self._chosen(domain)]
        if split == "test" and recordings and not any(recording.test for recording in recordings):
            persons = ", ".join(sorted({recording.person for recording in recordings}))
            last = max(int(recording.name.split("_")[1]) for recording in recordings)
            device = f"/{domain.partition('/')[2]}" if "/" in domain else ""
            raise DataError(
                f"domain {domain!r} cannot be tested: recordings {_FIRST_TESTED} and up of each person are the test "
                f"split, and the last of {persons} is number {last}. Every domain of a run is tested: name it together "
                f"with persons who have more, such as 's01-s07{device}'"
            )
        return super().dataset(domain, split)

    def _folder(self) -> Path:
        base = find_folder(self.root) if self.root else data_folder() / "sp-sw-har"
        for place in _PLACES:
            if (base / place).is_dir():
                return base / place
        return published_folder(self.root, "sp-sw-har", _PLACES[1:], [_ARCHIVE]) / _PLACES[1]

    def _read_file(self, path: Path) -> Series:
        columns = SeriesColumns(list(self.channels), time="timestamp", unit="ms")
        table = SeriesTable(path, columns)
        labels = class_numbers(table.labels, self.classes, columns.label, table.place)
        return Series(table.values, labels, table.seconds(slice(None)), table.place)
