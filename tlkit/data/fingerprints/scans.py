"""What every data module of WiFi fingerprints shares: scans, how they are represented, and what is asked of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Dataset, Subset

from tlkit.data.base import DomainDataModule
from tlkit.data.labels import label_numbers
from tlkit.data.rows import TensorRows
from tlkit.errors import ContractError, DataError, unknown
from tlkit.notes import say
from tlkit.types import Split

__all__ = ["PositionLabel", "Representation", "ScanDomains", "Scans", "check_metres", "represent"]

Representation = Literal["positive", "exponential", "powed"]
PositionLabel = Literal["position", "floor", "building", "building_floor"]

# Beyond this float32 no longer holds centimetres.
_FAR = 131_072.0
_NARROW = 1.0  # a degree is 111 km, so that a city spans less; no survey in metres does


@dataclass
class Scans:
    """The scans of one domain.

    Attributes:
        rssi: ``(N, A)`` dBm, NaN where an access point was not heard.
        position: ``(N, 2)`` metres; all are NaN if the domain has no labels.
        labels: Floors, buildings or other classes of each row by the name of the label; all are empty if the domain has
            none.
        groups: Scan series of each row, which a split does not divide; None if rows are on their own.
        names: What a user knows each row by.
        test: The published test rows as a mask; None if there are none.
        among: The rows that may be trained or validated on as a mask; None for all that are not ``test``.
    """

    rssi: NDArray[np.float32]
    position: NDArray[np.float64]
    labels: dict[str, Sequence[str]]
    groups: ArrayLike | None
    names: Sequence[str]
    test: ArrayLike | None = None
    among: ArrayLike | None = None


def represent(
    rssi: NDArray[Any], representation: Representation, weakest: float, exponent: float = math.e
) -> NDArray[np.float32]:
    r"""Map received signal strengths to [0, 1]: exactly 0 where nothing was heard, above 0 where something was.

    With :math:`u = (r - w) / (-w)` for ``r`` dBm and the weakest ``w``: ``"positive"`` is :math:`u`, ``"powed"`` is
    :math:`u^\beta` and ``"exponential"`` is :math:`\exp((r - w) / 24) / \exp(-w / 24) = \exp(r / 24)` (Torres-Sospedra
    et al., Expert Systems with Applications 2015, with its constants).

    Args:
        rssi: dBm above ``weakest`` and at most 0, NaN where an access point was not heard.
        representation: Which of the three.
        weakest: The strength in dBm that maps to 0, below the weakest that is ever heard.
        exponent: Beta; e in the paper.

    Example:
        >>> represent(np.array([-105.0 / 2, np.nan, 0.0]), "positive", -105.0).tolist()
        [0.5, 0.0, 1.0]
    """
    with np.errstate(invalid="ignore"):
        share = (rssi.astype(np.float64) - weakest) / -weakest
        if representation == "powed":
            share = share**exponent
        elif representation == "exponential":
            share = np.exp(rssi.astype(np.float64) / 24.0)
    return np.nan_to_num(share, nan=0.0).astype(np.float32)


class ScanDomains(DomainDataModule):
    """Scans in memory. A subclass defines :meth:`scans`; ``x`` is ``(A,)``, 0 where an access point was not heard.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        label: ``"position"`` is ``(x_m, y_m)``, for the task Regression; the others are classes.
        representation: How dBm become inputs, see :func:`represent`.
        exponent: Of the representation ``"powed"``, above 0.
        weakest: The strength in dBm that is as good as nothing; all that is heard must be above it.
        **kwargs: The arguments of :class:`DomainDataModule`.

    Raises:
        DataError: If an argument is out of its range.
    """

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        label: PositionLabel = "position",
        representation: Representation = "exponential",
        exponent: float = math.e,
        weakest: float = -105.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources=sources, targets=targets, **kwargs)
        for name, value, allowed in (
            ("label", label, get_args(PositionLabel)),
            ("representation", representation, get_args(Representation)),
        ):
            if value not in allowed:
                raise DataError(unknown(name, str(value), allowed))
        if not -200 <= weakest < 0:
            raise DataError(f"weakest is a signal strength in dBm from -200 up to below 0, got {weakest}")
        if not 0 < exponent < math.inf:
            raise DataError(f"exponent is above 0 and finite, got {exponent}")
        if exponent != math.e and representation != "powed":
            raise DataError(
                f"exponent is that of representation: powed, and representation is {representation!r}: "
                "set representation: powed, or leave exponent away"
            )
        self.label, self.representation, self.weakest, self.exponent = label, representation, weakest, exponent
        if label == "position":
            self.quantities = ("x_m", "y_m")
        self._scans: dict[str, tuple[Scans, TensorRows]] = {}
        self._heard: dict[str, NDArray[np.bool_]] = {}

    def scans(self, domain: str) -> Scans:
        """Read the scans of one domain."""
        raise ContractError(f"{type(self).__name__} must define scans(domain)")

    def dataset(self, domain: str, split: Split) -> Dataset[Any]:
        """Return one split of one domain."""
        _, rows = self._domain_scans(domain)
        return Subset(rows, self.splits[domain][split].tolist())

    def row_names(self, domain: str) -> Sequence[str]:
        """Return the file and the line of each row."""
        return self._domain_scans(domain)[0].names

    def divide(self, domain: str, y: NDArray[Any], scans: Scans) -> None:
        """Split the rows of a domain, so that they are in ``splits``."""
        self.split(domain, y, groups=scans.groups, test=scans.test, among=scans.among)

    def _domain_scans(self, domain: str) -> tuple[Scans, TensorRows]:
        if domain not in self._scans:
            scans = self.scans(domain)
            if self.label == "position":
                y: NDArray[Any] = scans.position.astype(np.float32)
            else:
                y = label_numbers(scans.labels[self.label], self.classes)
            self._check_heard(domain, scans)  # before the division, which may ask for the other domains
            self.divide(domain, y, scans)
            x = represent(scans.rssi, self.representation, self.weakest, self.exponent)
            scans.rssi = scans.rssi[:0]  # it is not needed any more
            self._scans[domain] = scans, TensorRows(torch.from_numpy(x), torch.from_numpy(y))
        return self._scans[domain]

    def _check_heard(self, domain: str, scans: Scans) -> None:
        """Refuse a domain that hears nothing, and say how many of its scans hear nothing that a source hears."""
        heard = ~np.isnan(scans.rssi)
        self._heard[domain] = np.asarray(heard.any(axis=0))
        if not self._heard[domain].any():
            raise DataError(
                f"domain {domain!r}: none of its {len(heard)} scans hears an access point ({scans.names[0]}, for one): "
                "check the columns of signal strengths, and the value that marks what was not heard"
            )
        if domain in self.sources or not self.sources or not set(self.sources) <= self._heard.keys():
            return
        known = np.stack([self._heard[source] for source in self.sources]).any(axis=0)
        deaf = int((~heard[:, known].any(axis=1)).sum())
        if deaf:
            say(
                f"domain {domain!r}: {deaf} of {len(heard)} scans hear no access point that a source hears, and all "
                "look the same to the network"
            )


def _named_as_degrees(columns: Sequence[str]) -> bool:
    return all(re.search(r"(?<![a-z])(lat|lon|lng|long|latitude|longitude)(?![a-z])", name.lower()) for name in columns)


def check_metres(position: NDArray[np.float64], where: str, columns: Sequence[str], origin: Sequence[float]) -> None:
    """Refuse coordinates that are not metres near the origin.

    Args:
        position: ``(N, 2)`` coordinates, ``origin`` taken away.
        where: The file, for the message.
        columns: Names of the two columns.
        origin: What was taken away.

    Raises:
        DataError: If they look like degrees by their range or their columns' names, or are so far from 0 that float32
            would cost centimetres.
    """
    names = " and ".join(map(repr, columns))
    as_given = position + np.asarray(origin)
    span = np.ptp(position, axis=0)
    why = ""
    if np.abs(as_given).max() <= 180 and span.max() > 0 and (span < _NARROW).all():
        why = f"within {span[0]:.5f} and {span[1]:.5f} of each other, and nothing surveyed is under a metre wide"
    elif np.abs(as_given).max() <= 180 and np.abs(as_given).max(axis=0).min() <= 90 and _named_as_degrees(columns):
        why = "the columns are called so"
    if why:
        raise DataError(
            f"{where}: {names} look like degrees. This is a guess: all values lie within 180, and {why}. Project them "
            "to metres first (UTM of your zone, or east and north of a corner of the building). If they are metres "
            f"after all, add 1000 to both columns and set origin to {[float(value) + 1000 for value in origin]}"
        )
    if np.abs(position).max() > _FAR:
        corner = [float(np.floor(value / 100) * 100) for value in as_given.min(axis=0)]
        raise DataError(
            f"{where}: {names} go up to {np.abs(position).max():.0f} m from the origin {list(map(float, origin))}, "
            f"where float32 no longer holds centimetres: set origin to a corner of the area, such as {corner}"
        )
