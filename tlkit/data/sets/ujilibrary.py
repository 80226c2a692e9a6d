"""The UJI library set: one library, the same places, every month for 25 months."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tlkit.data.files.fetch import Published, fetch, unpack
from tlkit.data.files.folders import data_folder, find_folder
from tlkit.data.fingerprints.scans import PositionLabel, Representation, ScanDomains, Scans, check_metres
from tlkit.errors import DataError, brief, unknown

__all__ = ["UJILibrary"]

_ARCHIVE = Published(
    "UJI_LIB_DB_v2.2.zip",
    "https://zenodo.org/records/3748719/files/UJI_LIB_DB_v2.2.zip",
    sha256="0a74d814be48359dc4b9f7aee26cf8905574d4999db722aa477cfd571a2ce505",
    by_hand="It is the record 10.5281/zenodo.3748719; every version is under 10.5281/zenodo.1066041",
)
_MONTHS = range(1, 26)
_FLOORS = ("3", "5")
_NOT_HEARD = 100
_WEAKEST = -105.0
# Survey files and test campaigns of the second phone, which are in the last month alone.
_SECOND = {"trn": {2}, "tst": {6, 7, 8, 9, 10}}
_SECOND_NAME = "month-25/galaxy-a5"
_FILE = re.compile(r"(trn|tst)(\d\d)rss\.csv")


class UJILibrary(ScanDomains):
    """WiFi in a library over 25 months (Mendoza-Silva et al., Data 2018, 3(1), 3), floors 3 and 5, 620 access points.

    A domain is a month, ``month-01`` (June 2016) to ``month-25``: one survey of 576 scans, 15 of them in the first
    month, and five test campaigns of 576 or 816. All are by one phone, a Galaxy S3; those that month 25 repeats with
    another one are the domain ``month-25/galaxy-a5``.

    The protocol is tlkit's, there is no agreed one: the test rows of a month are its campaigns 3 to 5 (of the second
    phone 8 to 10). A source is trained and validated on its surveys, a target, unlabelled, on its survey and campaigns
    1 and 2: it is inductive. Campaign 5 is at the places of the survey, 3 and 4 are between them.

    ``(x_m, y_m)`` are metres in the library's own coordinates, about 4 to 17 and 17 to 30; both floors lie over each
    other. Six scans of the first month carry floor 0, which the library does not have; they are left out. A scan
    series, the six scans in succession at one place in one direction, is never divided.

    Licence: data CC BY 4.0; cite the paper.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        root: Folder that holds ``db/<month>/*.csv``; by default ``UJI_LIB_DB_v2`` in that of all data sets. If it lacks
            a month of the run, the set is downloaded to it; files that are there stay as they are.
        label: ``"position"``, or ``"floor"``.
        representation: How dBm become inputs, see :class:`FingerprintDomains`.
        exponent: Of the representation ``"powed"``, above 0: the larger, the less faint signals count; e in the paper.
        learn_from: ``"survey"``, or ``"survey_and_campaigns"``: then a source learns from campaigns 1 and 2 too, so
            that an oracle has the labels of what an adapted run sees without.
        **kwargs: The arguments of :class:`DomainDataModule`.

    Raises:
        DataError: If a file cannot be had or is not what its name says.
    """

    domains = (*(f"month-{month:02d}" for month in _MONTHS), _SECOND_NAME)

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        root: str | None = None,
        label: PositionLabel = "position",
        representation: Representation = "exponential",
        exponent: float = math.e,
        learn_from: Literal["survey", "survey_and_campaigns"] = "survey",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources=sources,
            targets=targets,
            label=label,
            representation=representation,
            exponent=exponent,
            weakest=_WEAKEST,
            **kwargs,
        )
        if label in ("building", "building_floor"):
            raise DataError(f"label is 'position' or 'floor', the library is one building, got {label!r}")
        if learn_from not in ("survey", "survey_and_campaigns"):
            raise DataError(unknown("learn_from", str(learn_from), ["survey", "survey_and_campaigns"]))
        self.root, self.learn_from = root, learn_from
        if label == "floor":
            self.classes = _FLOORS

    @cached_property
    def folder(self) -> Path:
        """The folder of the months, ``db``; the set is fetched if a month of this run is missing."""
        folder = find_folder(self.root) if self.root else data_folder() / "UJI_LIB_DB_v2"
        needed = sorted({domain[6:8] for domain in self.eval_domains if domain in self.domains})
        if not (found := _months(folder, needed)):
            there = ", ".join(sorted({path.name for place in _months(folder) for path in place.glob("[0-9][0-9]")}))
            lacks = f"{folder} lacks a month of {', '.join(needed)}; it has {there or 'none'}"
            try:
                unpack(fetch(_ARCHIVE, folder), folder, replace=False)
            except DataError as error:
                raise DataError(f"{lacks}. {error}") from error
            if not (found := _months(folder, needed)):
                raise DataError(f"{lacks}, and {_ARCHIVE.name} does not hold it: give the folder of all months as root")
        return found[0]

    def scans(self, domain: str) -> Scans:
        """Read the files of one month and phone."""
        if domain not in self.domains:
            raise DataError(unknown("domain", domain, self.domains))
        month = domain[6:8]
        folder = self.folder / month
        if not folder.is_dir():
            raise DataError(f"{domain}: there is no folder {folder}, as it is no domain of this run")
        signals, coordinates, identifiers, names, campaign = [], [], [], [], []
        for kind, number, path in _sets(folder, second=domain == _SECOND_NAME):
            parts = [_matrix(path.with_name(f"{path.name[:5]}{part}.csv")) for part in ("rss", "crd", "ids")]
            _check_set(path, parts)
            signals.append(parts[0])
            coordinates.append(parts[1])
            identifiers.append(parts[2][:, 0].astype(np.int64))
            names += [f"{month}/{path.name}, line {line}" for line in range(1, len(parts[0]) + 1)]
            # The campaigns of the second phone count on from those of the first.
            campaign.append(np.full(len(parts[0]), 0 if kind == "trn" else (number - 1) % 5 + 1))
        if not signals:
            raise DataError(f"{domain}: {folder} holds no file trnNNrss.csv or tstNNrss.csv of its phone")
        if len(widths := {part.shape[1] for part in signals}) > 1:
            raise DataError(f"{folder}: the rss files have {' and '.join(map(str, sorted(widths)))} access points")
        parts = [np.concatenate(each) for each in (signals, coordinates, identifiers, campaign)]
        return self._chosen(domain, parts, names)

    def _chosen(self, domain: str, parts: list[NDArray[Any]], names: list[str]) -> Scans:
        signals, coordinates, identifiers, campaign = parts
        kept = np.flatnonzero(np.isin(coordinates[:, 2], [float(floor) for floor in _FLOORS]))
        signals, coordinates, campaign = signals[kept], coordinates[kept], campaign[kept]
        check_metres(coordinates[:, :2], str(self.folder / domain[6:8]), ("x", "y"), (0.0, 0.0))
        learned = 2 if domain not in self.sources or self.learn_from == "survey_and_campaigns" else 0
        return Scans(
            np.where(signals == _NOT_HEARD, np.nan, signals),
            coordinates[:, :2],
            {"floor": [str(int(floor)) for floor in coordinates[:, 2]]},
            identifiers[kept] // 100,  # month, set, kind and place; the last two digits count the scans of a series
            [names[row] for row in kept],
            test=campaign >= 3,
            among=campaign <= learned,
        )


def _months(folder: Path, needed: Sequence[str] = ()) -> list[Path]:
    """Return the folders of months, all those needed among them: in ``folder``, one folder deeper, or itself."""
    places = (folder, folder / "db", *sorted(folder.glob("[!._]*/db")))
    found = [place for place in places if any(place.glob("[0-9][0-9]/*rss.csv"))]
    return [place for place in found if all(any((place / month).glob("*rss.csv")) for month in needed)]


def _sets(folder: Path, second: bool) -> list[tuple[str, int, Path]]:
    """Return kind, number and rss file of each set that one of the two phones recorded."""
    found = []
    for path in sorted(folder.iterdir()):
        if match := _FILE.fullmatch(path.name):
            kind, number = match[1], int(match[2])
            if (folder.name == "25" and number in _SECOND[kind]) == second:
                found.append((kind, number, path))
    return found


def _matrix(path: Path) -> NDArray[np.float64]:
    """Read a CSV file of numbers without a header."""
    import pandas as pd

    try:
        frame = pd.read_csv(path, header=None, dtype=np.float64)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: every set has the files rss, crd and ids") from error
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path} must hold the same number of numbers in every line: {brief(error)}") from error
    values: NDArray[np.float64] = frame.to_numpy()
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise DataError(f"{path}, line {row + 1}: value {column + 1} is missing or not finite")
    return values


def _check_set(path: Path, parts: list[NDArray[np.float64]]) -> None:
    signals, coordinates, identifiers = parts
    if not len(signals) == len(coordinates) == len(identifiers):
        raise DataError(
            f"{path} has {len(signals)} scans, its crd and ids files have {len(coordinates)} and {len(identifiers)} "
            "lines"
        )
    if coordinates.shape[1] != 3:
        raise DataError(f"{path.with_name(f'{path.name[:5]}crd.csv')} must hold x, y and floor in every line")
    bad = (signals != _NOT_HEARD) & ~((signals > _WEAKEST) & (signals <= 0))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"{path}, line {row + 1}, access point {column + 1}: {signals[row, column]:g} is neither a signal strength "
            f"above {_WEAKEST:g} and up to 0 dBm nor {_NOT_HEARD}"
        )
