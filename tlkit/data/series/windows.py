"""Windows of long recordings, as pure functions of arrays: stretches, resampling, windows and their labels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tlkit.errors import DataError

__all__ = ["Windowing", "check_stamps", "majority", "merge_equal", "resample", "starts", "stretches"]


@dataclass(frozen=True)
class Windowing:
    """How recordings are cut into windows.

    Attributes:
        rate: Samples a second that recordings are resampled to, by linear interpolation between time stamps. Where a
            recording has no time stamps, the rate that it was recorded at.
        length: Samples a window.
        stride: Samples from the start of one window to the next.
        longest_gap: Seconds between two samples; where there are more, the recording is cut and nothing is
            interpolated.
        longest: Cut recordings into pieces of this many seconds, and split as if each were a recording of its own: for
            sets whose recordings are few and long. No window lies in two pieces.
        short: A recording that is shorter than a window is an error (``"refuse"``) or left out and counted
            (``"leave_out"``).

    Raises:
        DataError: If a number is out of its range.
    """

    rate: float = 50.0
    length: int = 128
    stride: int = 64
    longest_gap: float = 1.0
    longest: float | None = None
    short: Literal["refuse", "leave_out"] = "refuse"

    def __post_init__(self) -> None:
        for name, samples, least in (("length", self.length, 2), ("stride", self.stride, 1)):
            if samples < least:
                raise DataError(f"windows.{name} is a number of samples from {least} up, got {samples}")
        for name, value in (("rate", self.rate), ("longest_gap", self.longest_gap)):
            if not value > 0:
                raise DataError(f"windows.{name} must be above 0, got {value}")
        if self.longest is not None and self.longest < self.length / self.rate:
            raise DataError(
                f"windows.longest is {self.longest} s, shorter than a window of {self.length} samples at {self.rate:g} "
                f"Hz, {self.length / self.rate:g} s: raise it or leave it out"
            )
        if self.short not in ("refuse", "leave_out"):
            raise DataError(f"windows.short must be 'refuse' or 'leave_out', got {self.short!r}")


def stretches(times: NDArray[np.float64] | None, keep: NDArray[np.bool_], longest_gap: float) -> list[slice]:
    """Return where a recording goes on without a break.

    Args:
        times: ``(T,)`` seconds, ascending; None if the samples have no time stamps, and then no gap is seen.
        keep: ``(T,)`` which samples are used; the others break the recording.
        longest_gap: Seconds between two samples that are no break yet.

    Example:
        >>> stretches(np.array([0, 0.1, 0.2, 5, 5.1]), np.array([True, True, True, True, True]), 1.0)
        [slice(0, 3, None), slice(3, 5, None)]
    """
    breaks = keep[1:] != keep[:-1]
    if times is not None:
        breaks |= np.diff(times) > longest_gap
    edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(keep)]
    return [slice(start, stop) for start, stop in pairwise(edges) if stop > start and keep[start]]


def merge_equal(
    times: NDArray[np.float64], values: NDArray[Any], labels: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[Any]]:
    """Make one sample of those with the same time stamp: the mean of their values and the label of the first.

    Example:
        >>> _, values, labels = merge_equal(np.array([0.0, 1, 1]), np.array([[5.0], [2], [4]]), np.array([0, 1, 0]))
        >>> values.ravel().tolist(), labels.tolist()
        ([5.0, 3.0], [0, 1])
    """
    first = np.flatnonzero(np.diff(times, prepend=-np.inf) > 0)
    if len(first) == len(times):
        return times, values, labels
    sums = np.add.reduceat(values.astype(np.float64), first)
    counts = np.diff(first, append=len(times))
    return times[first], sums / counts[:, None], labels[first]


def check_stamps(name: str, times: NDArray[np.float64], samples: int, rate: float) -> None:
    """Refuse time stamps that are coarser than the samples: the signal between them would be lost.

    A recorder that hands over its samples by the packet gives those of one packet the same stamp, and their mean is
    nearly as good where packets are short.

    Args:
        name: What a user knows the recording by.
        times: ``(T,)`` seconds, ascending, each once.
        samples: How many samples had them.
        rate: Samples a second to be resampled to.

    Raises:
        DataError: If all samples have one stamp; or if most share theirs with another one, and more than two of those
            asked for would lie between two stamps.
    """
    if samples > 1 and len(times) == 1:
        raise DataError(
            f"{name}: all its {samples} samples have the same time stamp. Give finer time stamps (float32 does not "
            "hold the seconds of an epoch), or leave columns.time out if the samples follow each other evenly"
        )
    if len(times) < 2 or samples <= 2 * len(times):
        return
    step = float(np.median(np.diff(times)))
    if step * rate > 3:
        raise DataError(
            f"{name}: its {samples} samples have {len(times)} different time stamps, {step:g} s apart, and "
            f"windows.rate asks for {rate:g} samples a second: most of the signal would be lost in means. Give finer "
            "time stamps, leave columns.time out if the samples follow each other evenly, or lower windows.rate"
        )


def resample(
    times: NDArray[np.float64], values: NDArray[Any], labels: NDArray[Any], rate: float
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Interpolate linearly at ``rate`` samples a second, from the first time stamp up to the last.

    A label is that of the nearest sample, of two that are equally near that of the earlier.

    Args:
        times: ``(T,)`` seconds, each above the one before.
        values: ``(T, C)``.
        labels: ``(T,)``.
        rate: Samples a second.

    Returns:
        ``(N, C)`` values and ``(N,)`` labels.

    Example:
        >>> values, labels = resample(np.array([0, 0.3, 1.0]), np.array([[0.0], [3], [3]]), np.array([4, 4, 7]), 5)
        >>> values.ravel().round(6).tolist(), labels.tolist()
        ([0.0, 2.0, 3.0, 3.0, 3.0, 3.0], [4, 4, 4, 4, 7, 7])
    """
    if len(times) == 1:
        return values.astype(np.float64), labels
    # 1e-6 of a step: a last time stamp that misses its place on the grid by rounding counts as on it.
    count = int(np.floor((times[-1] - times[0]) * rate + 1e-6)) + 1
    grid = np.minimum(times[0] + np.arange(count) / rate, times[-1])
    left = np.clip(np.searchsorted(times, grid, side="right") - 1, 0, len(times) - 2)
    share = (grid - times[left]) / (times[left + 1] - times[left])
    between = values[left] * (1 - share)[:, None] + values[left + 1] * share[:, None]
    return between, labels[left + (share > 0.5)]


def starts(size: int, length: int, stride: int) -> NDArray[np.int64]:
    """Return the first sample of every window of ``length`` that fits into ``size`` samples.

    Example:
        >>> starts(10, length=4, stride=3)
        array([0, 3, 6])
    """
    return np.arange(0, size - length + 1, stride)


def majority(labels: NDArray[Any], num_classes: int, length: int, stride: int) -> NDArray[np.int64]:
    """Return the label that most samples of each window have; of several that have as many, the one met first.

    Args:
        labels: ``(T,)`` class numbers; -1 in all samples of a recording without labels, and then in all windows.
        num_classes: Number of classes.
        length: Samples a window.
        stride: Samples from window to window.

    Example:
        >>> majority(np.array([2, 2, 0, 0, 0, 1]), num_classes=3, length=4, stride=1)
        array([2, 0, 0])
    """
    begin = starts(len(labels), length, stride)
    if not len(begin) or (labels < 0).all():
        return np.full(len(begin), -1, np.int64)
    is_class = labels[:, None] == np.arange(num_classes)
    so_far = np.concatenate([np.zeros((1, num_classes), np.int64), is_class.cumsum(axis=0)])
    counts = so_far[begin + length] - so_far[begin]
    # Where each class comes next, seen from each sample: a minimum from the end.
    place = np.where(is_class, np.arange(len(labels))[:, None], len(labels))
    following = np.minimum.accumulate(place[::-1], axis=0)[::-1][begin]
    tied = counts == counts.max(axis=1, keepdims=True)
    first: NDArray[np.int64] = np.where(tied, following, len(labels) + 1).argmin(axis=1)
    return first
