"""Shoulder exercises with a watch on the left and on the right wrist."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from tlkit.data.series.recording import Recording, Series
from tlkit.data.series.signals import Signals
from tlkit.data.series.windowed import SplitBy, WindowedDomains
from tlkit.data.series.windows import Windowing
from tlkit.data.splits import HoldOut
from tlkit.errors import DataError

__all__ = ["SeglearnWatch"]

_RATE = 50.0


class SeglearnWatch(WindowedDomains):
    """Twenty repetitions of seven shoulder exercises by ten persons with a watch on either side: 140 recordings.

    Burns et al., "Shoulder physiotherapy exercise recognition: machine learning the inertial signals from a
    smartwatch", Physiological Measurement 2018 (arXiv 1802.01489). It comes with the package seglearn, under its BSD
    3-clause licence, and needs the extra ``sensors``: ``pip install "tlkit[sensors]"``.

    Acceleration and rotation along three axes at 50 Hz. Domains are ``side0`` (left) and ``side1`` (right), the persons
    ``s01`` to ``s10``, persons from one to the other (``s01-s07``), and persons with a side (``s03/side0``).

    By default the second half of every recording is the test split. For new persons, ``s01-s07`` and ``s08-s10``, that
    adapts to the first half of each of their recordings and tests on the second.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        windows: How recordings are cut into windows; by default 128 samples (2.56 s) every 64.
        signals: What is made of the channels, and what is random in training.
        split_by: ``"time"``, ``"recording"`` or ``"person"``, see :class:`~tlkit.data.series.windowed.WindowedDomains`.
        hold_out: How the recordings are divided; by default half of each is tested on.
        **kwargs: The other arguments of :class:`~tlkit.data.base.DomainDataModule`.

    Raises:
        DataError: If seglearn is not installed.

    Example:
        >>> data = SeglearnWatch(sources=["side0"], targets=["side1"])
        >>> data.setup()
        >>> next(iter(data.train_dataloader())).target.x.shape
        torch.Size([32, 6, 128])
    """

    channels = ("ax", "ay", "az", "wx", "wy", "wz")
    triads = ((0, 1, 2), (3, 4, 5))
    gyroscopes = (1,)
    classes = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        windows: Windowing = Windowing(),
        signals: Signals = Signals(),
        split_by: SplitBy = "time",
        hold_out: HoldOut = HoldOut(test_fraction=0.5),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources=sources,
            targets=targets,
            windows=windows,
            signals=signals,
            split_by=split_by,
            hold_out=hold_out,
            **kwargs,
        )

    def find(self) -> Sequence[Recording]:
        """Return the recordings of the package."""
        try:
            from seglearn.datasets import load_watch
        except ImportError as error:
            raise DataError(
                'SeglearnWatch needs seglearn, which is not installed: pip install "tlkit[sensors]"'
            ) from error
        watch = load_watch()
        found = []
        for number, (values, label) in enumerate(zip(watch["X"], watch["y"], strict=True)):
            person, side = f"s{int(watch['subject'][number]):02}", f"side{int(watch['side'][number])}"
            name = f"{number}:{person}/{side}/{self.classes[int(label)]}"
            found.append(Recording(name, person, side, partial(_series, values, int(label), name)))
        return found


def _series(values: Any, label: int, name: str) -> Series:
    return Series(
        values, np.full(len(values), label), np.arange(len(values)) / _RATE, lambda row: f"{name}, sample {row}"
    )
