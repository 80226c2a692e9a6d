"""What all data modules of recordings share: domains of persons and devices, windows, splits that keep them apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Subset

from tlkit.data.base import DomainDataModule
from tlkit.data.files.spool import Spool
from tlkit.data.series.recording import Recording, check_series
from tlkit.data.series.signals import Signals, Triad, channel_names, scaling, to_channels
from tlkit.data.series.wearers import in_order, persons_and_devices
from tlkit.data.series.window_rows import WindowRows, Windows
from tlkit.data.series.windows import Windowing, check_stamps, majority, merge_equal, resample, starts, stretches
from tlkit.errors import ContractError, DataError
from tlkit.notes import say
from tlkit.types import Split

__all__ = ["SplitBy", "WindowedDomains"]

SplitBy = Literal["recording", "person", "time"]
_GRAVITY_SECONDS = 2.0  # whose mean acceleration is taken for gravity


@dataclass
class _Windows:
    """All windows of a domain.

    Attributes:
        x: The windows themselves, float32.
        y: ``(N,)`` class numbers; -1 if the domain has no labels.
        recording: ``(N,)`` number of the recording.
        piece: ``(N,)`` number of the piece of it.
        start: ``(N,)`` seconds from the recording's start.
        test: ``(N,)`` whether it belongs to the test split; None if that is to be drawn.
    """

    x: Windows
    y: Tensor
    recording: NDArray[np.int64]
    piece: NDArray[np.int64]
    start: NDArray[np.float64]
    test: NDArray[np.bool_] | None


class WindowedDomains(DomainDataModule):
    """Windows of recordings, float32 ``(channels, length)``, with the label that most of a window's samples have.

    A subclass gives ``channels``, ``triads``, ``classes`` and :meth:`find`.

    Args:
        sources: Labelled domains: a device (``watch``), a person (``s03``), persons (``s01-s07``), or both
            (``s03/watch``, ``s01-s07/watch``).
        targets: Domains to adapt to.
        windows: How recordings are cut into windows.
        signals: What is made of the channels, and what is random in training.
        split_by: What is never divided between training, validation and test: a recording, or all recordings of a
            person, in all domains of the run: who is tested on with one device is not trained on with another.
            ``"time"`` tests on the last ``hold_out.test_fraction`` of every recording instead, and divides
            training and validation by recording.
        **kwargs: The arguments of :class:`~tlkit.data.base.DomainDataModule`.

    Attributes:
        channels: Names of the recorded channels.
        triads: The channels that are the three axes of one sensor.
        gravity: The place in ``triads`` of the accelerometer that measures gravity too.
        gyroscopes: The places in ``triads`` of the sensors that measure turning.
        left_out: Recordings that are shorter than a window, by domain.

    Raises:
        DataError: If a recording cannot be used, or two domains of the run share recordings.
    """

    channels: Sequence[str]
    triads: Sequence[Triad] = ()
    gravity: int = 0
    gyroscopes: Sequence[int] = ()

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        windows: Windowing = Windowing(),
        signals: Signals = Signals(),
        split_by: SplitBy = "recording",
        **kwargs: Any,
    ) -> None:
        super().__init__(sources=sources, targets=targets, **kwargs)
        if split_by not in ("recording", "person", "time"):
            raise DataError(f"split_by must be 'recording', 'person' or 'time', got {split_by!r}")
        if split_by == "time" and windows.longest is not None:
            raise DataError("split_by: time divides every recording once; leave windows.longest out")
        self.windows, self.signals, self.split_by = windows, signals, split_by
        self.shared_groups = split_by == "person"
        self.left_out: dict[str, list[str]] = {}
        self._made: dict[str, _Windows] = {}

    def find(self) -> Sequence[Recording]:
        """Return what recordings there are; a subclass defines it."""
        raise ContractError(f"{type(self).__name__} must define find()")

    @cached_property
    def recordings(self) -> Sequence[Recording]:
        """All recordings, whether the run uses them or not."""
        found = self.find()
        if self.signals.needs_triads:
            self._check_triads()
        if self.split_by == "time" and any(recording.test is not None for recording in found):
            raise DataError("split_by: time takes no test windows of its own here, as the test split is a given one")
        if self.split_by == "person" and not all(recording.person for recording in found):
            raise DataError("split_by: person needs to know whose each recording is, and this data does not say")
        return found

    def _check_triads(self) -> None:
        if not self.triads:
            raise DataError(
                f"signals.channels {self.signals.channels!r}, rotate and mirror need to know which channels are the "
                f"three axes of one sensor, and no triads are named among {', '.join(self.channels)}"
            )
        if self.signals.channels == "vertical" and self.gravity in self.gyroscopes:
            raise DataError(
                "signals.channels 'vertical' takes the direction of gravity from an accelerometer, and only gyroscopes "
                "are named: name the accelerometer's axes in columns.triads, or choose 'magnitude'"
            )

    @cached_property
    def domains(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a cached_property for read-only
        """The devices, the persons, and what the run composes of them."""
        plain = [*self._devices, *self._persons]
        named = {"sources": self.sources, "targets": self.targets, "also_test": self.also_test}
        composed = []
        for role, names in named.items():
            for name in names:
                try:
                    known = name in plain or self._chosen(name)
                except DataError as error:
                    raise DataError(f"{role}: {error}") from error
                composed += [name] if known and name not in plain else []
        return [*plain, *composed]

    @cached_property
    def _devices(self) -> list[str]:
        return [name for name in in_order([recording.device for recording in self.recordings]) if name]

    @cached_property
    def _persons(self) -> list[str]:
        return [name for name in in_order([recording.person for recording in self.recordings]) if name]

    def _chosen(self, domain: str) -> list[int]:
        """Return the numbers of a domain's recordings; none if the name means nothing."""
        # A recording without a person or a device counts to the domains that name neither.
        chosen = persons_and_devices(domain, [*self._persons, ""], [*self._devices, ""])
        if chosen is None:
            return []
        persons, devices = chosen
        return [n for n, each in enumerate(self.recordings) if each.person in persons and each.device in devices]

    def setup(self, stage: str | None = None) -> None:
        """Check that no two domains share recordings, then as :meth:`DomainDataModule.setup`."""
        members = {domain: set(self._chosen(domain)) for domain in self.eval_domains if domain in self.domains}
        for first, second in combinations(members, 2):
            if both := sorted(members[first] & members[second]):
                raise DataError(
                    f"domains {first!r} and {second!r} of this run overlap in {len(both)} recordings, "
                    f"{self.recordings[both[0]].name} among them: what is trained on would be tested on; name domains "
                    "that have no recording in common"
                )
        super().setup(stage)

    def dataset(self, domain: str, split: Split) -> Dataset[Any]:
        """Return the windows of one split of one domain; those to train on are augmented, if so chosen."""
        made = self._windows(domain)
        rows = self.splits[domain][split]
        random = self.signals if split == "train" and self.signals.augments else None
        every = WindowRows(made.x, made.y, random, self.triads, self.gyroscopes)
        return Subset(every, rows)  # type: ignore[arg-type]  # an array, not a list: an eighth of it

    def row_names(self, domain: str) -> Sequence[str]:
        """Return the recording of each window and the second that it starts at."""
        made = self._windows(domain)
        return [
            f"{self.recordings[number].name}@{start:.2f}s"
            for number, start in zip(made.recording, made.start, strict=True)
        ]

    @property
    def channel_names(self) -> list[str]:
        """Names of the channels of a window, as ``signals.channels`` makes them."""
        return channel_names(self.channels, self.triads, self.signals.channels)

    @property
    def input_names(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a property for read-only
        """The channels."""
        return self.channel_names

    def _windows(self, domain: str) -> _Windows:
        if domain not in self._made:
            made = self._make(domain)
            groups: NDArray[Any] = made.piece
            if self.split_by == "person":
                groups = np.array([self.recordings[number].person for number in made.recording])
            splits = self.split(domain, made.y.numpy(), groups=groups, test=made.test)
            if self.signals.standardize == "domain":
                every = np.arange(len(made.y))
                known = np.setdiff1d(every, splits["test"])
                made.x.standardize(known if len(known) else every)  # without labels all may be there to predict
            self._made[domain] = made
        return self._made[domain]

    def _make(self, domain: str) -> _Windows:
        length, stride, rate = self.windows.length, self.windows.stride, self.windows.rate
        spool = Spool(np.float32, (len(self.channel_names),))
        first, y, recording, piece, start, test = [], [], [], [], [], []
        left_out: list[str] = []
        pieces, samples = 0, 0
        for number in self._chosen(domain):
            count, longest = 0, 0
            for values, labels, second, late in self._pieces(self.recordings[number]):
                begin = starts(len(values), length, stride)
                longest = max(longest, len(values))
                if len(begin):
                    spool.add(values)
                    first.append(samples + begin)
                    samples += len(values)
                y.append(majority(labels, len(self.classes), length, stride))
                recording.append(np.full(len(begin), number))
                piece.append(np.full(len(begin), pieces if self.windows.longest is not None else number))
                start.append(second + begin / rate)
                test.append(np.full(len(begin), bool(late)))
                count, pieces = count + len(begin), pieces + 1
            if not count:
                left_out.append(self._short(self.recordings[number].name, longest))
        if not sum(map(len, y)):
            raise DataError(f"domain {domain!r} has no recording as long as a window of {length} samples")
        if left_out:
            self.left_out[domain] = left_out
            say(
                f"domain {domain!r}: {len(left_out)} of {len(self._chosen(domain))} recordings are shorter than a "
                f"window and left out, {left_out[0]} among them"
            )
        given = self.split_by == "time" or self.recordings[self._chosen(domain)[0]].test is not None
        return _Windows(
            Windows(spool.array(), np.concatenate(first), length),
            torch.from_numpy(np.concatenate(y)),
            np.concatenate(recording),
            np.concatenate(piece),
            np.concatenate(start),
            np.concatenate(test) if given else None,
        )

    def _short(self, name: str, samples: int) -> str:
        length, rate = self.windows.length, self.windows.rate
        if self.windows.short == "refuse":
            raise DataError(
                f"{name} gives no window: its longest stretch without a gap is {samples} samples at {rate:g} Hz, "
                f"{samples / rate:.2f} s, and a window has {length}, {length / rate:.2f} s. Give a smaller "
                "windows.length, remove the recording, or set windows.short to leave_out; if it is longer than that, "
                "its time stamps have another unit"
            )
        return name

    def _pieces(self, recording: Recording) -> Iterator[tuple[NDArray[Any], NDArray[Any], float, bool | None]]:
        """Yield values, labels, the second of the start and the test flag of each piece of a recording."""
        series = recording.read()
        check_series(recording.name, series, self.channels)
        values, times = series.values, series.times
        labels = np.full(len(values), -1) if series.labels is None else series.labels
        if times is not None:
            samples = len(times)
            times, values, labels = merge_equal(times, values, labels)
            check_stamps(recording.name, times, samples, self.windows.rate)
        whole: list[tuple[NDArray[Any], NDArray[Any], float]] = []
        for part in stretches(times, (labels >= 0) | (series.labels is None), self.windows.longest_gap):
            second = part.start / self.windows.rate if times is None else times[part.start] - times[0]
            here, named = values[part], labels[part]
            if times is not None:
                here, named = resample(times[part], here, named, self.windows.rate)
            around = int(_GRAVITY_SECONDS * self.windows.rate) // 2 * 2 + 1
            whole.append((to_channels(here, self.triads, self.signals.channels, self.gravity, around), named, second))
        pieces: list[tuple[NDArray[Any], NDArray[Any], float, bool | None]] = []
        total, before = sum(len(here) for here, *_ in whole), 0
        for here, named, second in whole:
            for low, high, late in self._cuts(len(here), recording.test, total, before):
                pieces.append((here[low:high], named[low:high], second + low / self.windows.rate, late))
            before += len(here)
        if self.signals.standardize == "recording":
            # What may come to lie in different splits is standardised apart: the early and late part, or each piece.
            units = [late if self.windows.longest is None else number for number, (*_, late) in enumerate(pieces)]
            for unit in set(units):
                mean, deviation = scaling(
                    np.concatenate([here for (here, *_), own in zip(pieces, units, strict=True) if own == unit])
                )
                pieces = [
                    ((here - mean) / deviation if own == unit else here, named, second, late)
                    for (here, named, second, late), own in zip(pieces, units, strict=True)
                ]
        for here, *rest in pieces:
            yield here.astype(np.float32), *rest  # type: ignore[misc]  # mypy does not count a starred list

    def _cuts(self, size: int, test: bool | None, total: int, before: int) -> list[tuple[int, int, bool | None]]:
        """Return the first and last sample of the pieces of a stretch, and whether they are tested on.

        Args:
            size: Samples of the stretch.
            test: Whether the recording is of a published test split.
            total: Samples of the recording, without its gaps.
            before: Samples of the recording before the stretch.
        """
        if self.split_by == "time":
            middle = min(max(total - round(total * self.hold_out.test_fraction) - before, 0), size)
            return [(low, high, late) for low, high, late in ((0, middle, False), (middle, size, True)) if low < high]
        step = size if self.windows.longest is None else round(self.windows.longest * self.windows.rate)
        return [(low, min(low + step, size), test) for low in range(0, size, step)]
