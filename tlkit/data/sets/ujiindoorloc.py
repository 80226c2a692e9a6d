"""UJIIndoorLoc: three buildings, two surveys four months apart, 25 phones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tlkit.data.files.fetch import Published, published_folder
from tlkit.data.files.folders import find_folder
from tlkit.data.files.tables import check_column, read_table
from tlkit.data.fingerprints.scans import PositionLabel, Representation, ScanDomains, Scans, check_metres
from tlkit.data.splits import HoldOut
from tlkit.errors import DataError, unknown

__all__ = ["UJIIndoorLoc"]

_ARCHIVE = Published(
    "ujiindoorloc.zip",
    "https://archive.ics.uci.edu/static/public/310/ujiindoorloc.zip",
    sha256="893512b82dfd7a7c345d84195b1c8019fbca0fa0d7820ce491ce5aa45ec3782f",
    by_hand="It is data set 310 of the UCI Machine Learning Repository",
)
_INSIDE = "UJIndoorLoc"  # spelt so in the archive
_PERIODS = ("training", "validation")
_ACCESS_POINTS = [f"WAP{number:03d}" for number in range(1, 521)]
_OTHERS = ("LONGITUDE", "LATITUDE", "FLOOR", "BUILDINGID", "USERID", "PHONEID", "TIMESTAMP")
_ORIGIN = (-7700.0, 4864700.0)
_FLOORS = (4, 4, 5)  # of each building
_NOT_HEARD = 100
_WEAKEST = -105.0  # -104 dBm is the weakest in the files
_PAUSE = 60  # seconds without a scan that end a walk


class UJIIndoorLoc(ScanDomains):
    """UJIIndoorLoc (Torres-Sospedra et al., IPIN 2014): 19,937 scans and, four months later, 1,111 others.

    Three buildings of Universitat Jaume I with four or five floors, 520 access points, 18 users. Domains:

    - ``training`` and ``validation``, the two files. The later one is from other phones at other places;
    - ``phone-13``, ``user-02``, ``building-1``: scans of one phone, user or building from both files. User 0 is who
      ever made the later survey;
    - ``training/phone-13``, ``validation/building-1``: those of one file.

    Coordinates are metres of a projected system; ``(x_m, y_m)`` are counted from (-7700, 4864700), 0 to 400 east and 45
    to 320 north. Access points of value 100 were not heard. A scan series is what one user and phone scanned at one
    place in ``training``, and one walk, scans less than a minute apart, in ``validation``; no split divides a series.

    Licence: CC BY 4.0; cite the paper.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        root: Folder that holds ``UJIndoorLoc/trainingData.csv``, or the folder ``UJIndoorLoc`` itself; by default that
            of all data sets, where it is downloaded to.
        label: ``"position"``, or ``"floor"`` (0 to 4), ``"building"`` (0 to 2) or ``"building_floor"`` (13 classes).
        representation: How dBm become inputs, see :class:`FingerprintDomains`.
        exponent: Of the representation ``"powed"``, above 0: the larger, the less faint signals count; e in the paper.
        protocol: ``"transductive"`` is comparable with the literature: all scans of a target are its test rows and,
            unlabelled, its training rows. ``"inductive"`` tests ``validation`` on half of its walks, which are never
            trained on, and other domains on ``hold_out.test_fraction`` of their series: use it for an oracle.
        hold_out: As in :class:`DomainDataModule`. If not given, 5% of a source validates, and 5% (transductive) or 20%
            (inductive) of a domain that has no test rows of its own tests.
        **kwargs: The arguments of :class:`DomainDataModule`.

    Raises:
        DataError: If a file cannot be had or is not what its name says, or two domains of a run share scans.
    """

    input_names = _ACCESS_POINTS

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        root: str | None = None,
        label: PositionLabel = "position",
        representation: Representation = "exponential",
        exponent: float = math.e,
        protocol: Literal["transductive", "inductive"] = "transductive",
        hold_out: HoldOut | None = None,
        **kwargs: Any,
    ) -> None:
        if protocol not in ("transductive", "inductive"):
            raise DataError(unknown("protocol", str(protocol), ["transductive", "inductive"]))
        transductive = protocol == "transductive"
        super().__init__(
            sources=sources,
            targets=targets,
            label=label,
            representation=representation,
            exponent=exponent,
            weakest=_WEAKEST,
            hold_out=hold_out or HoldOut(val_fraction=0.05, test_fraction=0.05 if transductive else 0.2),
            **kwargs,
        )
        if transductive and (trained := [n for n in self.targets if n in self.budgets] or _within(self.sources)):
            raise DataError(
                f"labels of {trained[0]!r} are to be trained on, and protocol: transductive tests on all its scans: "
                "set protocol: inductive, which holds test rows out"
            )
        self.root, self.protocol = root, protocol
        if label == "floor":
            self.classes = tuple("01234")
        elif label == "building":
            self.classes = tuple("012")
        elif label == "building_floor":
            self.classes = tuple(f"{building}/{floor}" for building in range(3) for floor in range(_FLOORS[building]))

    @cached_property
    def folder(self) -> Path:
        """The folder of the two files."""
        files = [f"{period}Data.csv" for period in _PERIODS]
        if self.root and find_folder(self.root).name == _INSIDE:
            return published_folder(self.root, "", files)
        return published_folder(self.root, ".", [f"{_INSIDE}/{file}" for file in files], [_ARCHIVE]) / _INSIDE

    @cached_property
    def domains(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a cached_property for read-only
        """The two files, then phones, users and buildings of both and of each."""
        everywhere = [name for part in self._parts for name in np.unique(part).tolist()]
        each = [f"{period}/{name}" for period in _PERIODS for name in everywhere if len(self._select(period, name))]
        return [*_PERIODS, *everywhere, *each]

    def setup(self, stage: str | None = None) -> None:
        """Read and check the data as every data module; domains that share scans are refused."""
        taken: dict[int, str] = {}
        for domain in self.eval_domains:
            for row in self._rows(domain) if domain in self.domains else ():
                if row in taken:
                    raise DataError(
                        f"the domains {taken[row]!r} and {domain!r} share scans ({self._names[row]}, for one): a scan "
                        "has one role in a run; take them from one file each, such as 'training/phone-13'"
                    )
                taken[row] = domain
        super().setup(stage)

    def scans(self, domain: str) -> Scans:
        """Take the scans of one domain out of the files."""
        if domain not in self.domains:
            raise DataError(unknown("domain", domain, self.domains))
        rows, table = self._rows(domain), self._table
        signals = table[_ACCESS_POINTS].to_numpy(np.float32)[rows]
        floors, buildings = (table[name].astype(str).to_numpy()[rows].tolist() for name in ("FLOOR", "BUILDINGID"))
        both = [f"{building}/{floor}" for building, floor in zip(buildings, floors, strict=True)]
        return Scans(
            np.where(signals == _NOT_HEARD, np.nan, signals),
            self._position[rows],
            {"floor": floors, "building": buildings, "building_floor": both},
            self._series[rows],
            [self._names[row] for row in rows],
        )

    def divide(self, domain: str, y: NDArray[Any], scans: Scans) -> None:
        """Split the scans as the protocol says."""
        if self.protocol == "transductive" and domain not in self.sources:
            everything = np.arange(len(y))
            self.splits[domain] = dict.fromkeys(("train", "val", "test", "reference"), everything)
        else:
            half = len(y) // 2 if domain == "validation" else None
            self.split(domain, y, groups=scans.groups, test=half)

    def _rows(self, domain: str) -> NDArray[np.int64]:
        first, _, second = domain.partition("/")
        return self._select(first, second) if first in _PERIODS else self._select("", first)

    def _select(self, period: str, name: str) -> NDArray[np.int64]:
        """Return the rows of a file (``""`` for both) and of a phone, user or building (``""`` for all)."""
        chosen = np.isin(self._period, [period] if period else _PERIODS)
        if name:
            chosen &= np.any([part == name for part in self._parts], axis=0)
        return np.flatnonzero(chosen)

    @cached_property
    def _parts(self) -> list[NDArray[Any]]:
        """The names of the phone, the user and the building of each row."""
        kinds = (("PHONEID", "phone-{:02d}"), ("USERID", "user-{:02d}"), ("BUILDINGID", "building-{}"))
        return [np.array([name.format(value) for value in self._table[column].tolist()]) for column, name in kinds]

    @cached_property
    def _period(self) -> NDArray[Any]:
        return np.array([period for period, _ in self._table.index])

    @cached_property
    def _names(self) -> list[str]:
        return [f"{period}Data.csv, line {row + 2}" for period, row in self._table.index]

    @cached_property
    def _table(self) -> Any:
        """Both files, one after the other, indexed by file and row."""
        import pandas as pd

        parts = []
        for period in _PERIODS:
            path = self.folder / f"{period}Data.csv"
            frame = read_table(path, [*_ACCESS_POINTS, *_OTHERS])
            for column in frame.columns:
                check_column(frame, path, column, "number")
            values = frame[_ACCESS_POINTS].to_numpy(np.float64)
            bad = (values != _NOT_HEARD) & ~((values > _WEAKEST) & (values <= 0))
            if bad.any():
                row, column = np.argwhere(bad)[0]
                raise DataError(
                    f"{path}, line {row + 2}, column {_ACCESS_POINTS[column]!r}: {values[row, column]:g} is neither a "
                    f"signal strength from -104 to 0 dBm nor {_NOT_HEARD}; get the file again from {_ARCHIVE.url}"
                )
            parts.append(frame)
        return pd.concat(parts, keys=_PERIODS)

    @cached_property
    def _position(self) -> NDArray[np.float64]:
        names = ("LONGITUDE", "LATITUDE")
        position: NDArray[np.float64] = self._table[list(names)].to_numpy(np.float64) - np.asarray(_ORIGIN)
        check_metres(position, str(self.folder), names, _ORIGIN)
        return position

    @cached_property
    def _series(self) -> NDArray[np.int64]:
        """Number the scan series."""
        table = self._table
        visit = ["USERID", "PHONEID", "BUILDINGID", "FLOOR", "LONGITUDE", "LATITUDE"]
        place: NDArray[np.int64] = table.groupby(visit, sort=False).ngroup().to_numpy()
        phone, time = (table[name].to_numpy() for name in ("PHONEID", "TIMESTAMP"))
        order = np.lexsort((time, phone, self._period))
        begins = (np.diff(phone[order], prepend=-1) != 0) | (np.diff(time[order], prepend=0) >= _PAUSE)
        walk = np.empty_like(place)
        walk[order] = np.cumsum(begins)
        # A walk begins anew where the file changes: months lie between them.
        return np.where(self._period == "training", place, place.max() + 1 + walk)


def _within(sources: Sequence[str]) -> list[str]:
    """Return the sources that are the later survey or a part of it."""
    return [name for name in sources if name.split("/")[0] == "validation"]
