"""Channels of a recording that do not depend on how a sensor is worn, and what is random in its windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlkit.errors import DataError

__all__ = [
    "Axis",
    "Signals",
    "Triad",
    "channel_names",
    "rotations",
    "scaling",
    "stretched",
    "to_channels",
    "without_zero",
]

Triad = tuple[int, int, int]
Channels = Literal["raw", "magnitude", "raw+magnitude", "vertical"]
Standardize = Literal["none", "recording", "domain"]
Axis = Literal["x", "y", "z"]


@dataclass(frozen=True)
class Signals:
    """What a network sees of the channels. A triad is the three axes of one sensor.

    Attributes:
        channels: What is made of the recorded channels:

            - ``"raw"``: they are taken as they are.
            - ``"magnitude"``: the length of each triad's vector, which is the same however the sensor is turned.
            - ``"raw+magnitude"``: the recorded channels, then the lengths.
            - ``"vertical"``: of each triad the component along gravity and the length of what is across it. Gravity is
              the mean acceleration of the second before and the second after. Equal for every way to wear the sensor,
              but it keeps up and down apart.

            A channel that belongs to no triad is taken as it is, in front.
        standardize: Subtract the mean of each channel and divide by its standard deviation:

            - ``"none"``: not at all.
            - ``"recording"``: by those of its recording (where a recording is cut into a part to train and one to test
              on, by those of the part). What differs between recordings only by an offset or a scale is gone, posture
              in recordings of one activity included.
            - ``"domain"``: by those of the domain's windows outside its test split; of all its windows if it has no
              others, as a domain without labels that is only predicted.

            No label is used. Constant channels become 0.
        rotate: Turn the triads of every training window by a random rotation, uniform over all of them and the same for
            all sensors, after standardisation.
        mirror: Reflect every other training window, drawn at random, along this axis of the sensors, the first
            (``"x"``), second or third of each triad: the movement of a mirrored body, a left arm's as a right arm's.
            Acceleration changes its sign along the axis, turning (``gyroscopes``) along the two others. A watch that
            is worn on either wrist with its screen outward is mirrored along the axis that follows the forearm, in most
            watches x.
        scale: Multiply every training window by a random factor in [1 - scale, 1 + scale].
        stretch: Play every training window around its middle faster or slower by a random factor in [1 - stretch,
            1 + stretch]; where it ends early, the last value is held.

    Raises:
        DataError: If an argument is out of its range, or ``rotate`` or ``mirror`` would change nothing.
    """

    channels: Channels = "raw"
    standardize: Standardize = "none"
    rotate: bool = False
    mirror: Axis | None = None
    scale: float = 0.0
    stretch: float = 0.0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("channels", self.channels, get_args(Channels)),
            ("standardize", self.standardize, get_args(Standardize)),
        ):
            if value not in allowed:
                raise DataError(f"signals.{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
        for name, share in (("scale", self.scale), ("stretch", self.stretch)):
            if not 0 <= share < 1:
                raise DataError(f"signals.{name} must be in [0, 1), got {share}")
        if self.mirror is not None and self.mirror not in get_args(Axis):
            raise DataError(f"signals.mirror must be an axis, 'x', 'y' or 'z', or null, got {self.mirror!r}")
        for name in ("rotate", "mirror"):
            if getattr(self, name) and "raw" not in self.channels:
                raise DataError(
                    f"signals.{name} changes nothing where channels is {self.channels!r}, which no turn and no mirror "
                    f"changes: leave {name} out, or set channels to 'raw' or 'raw+magnitude'"
                )

    @property
    def augments(self) -> bool:
        """Whether training windows are changed at random."""
        return self.rotate or self.mirror is not None or self.scale > 0 or self.stretch > 0

    @property
    def needs_triads(self) -> bool:
        """Whether it must be known which channels are the axes of one sensor."""
        return self.channels != "raw" or self.rotate or self.mirror is not None


def channel_names(names: Sequence[str], triads: Sequence[Triad], channels: Channels) -> list[str]:
    """Return the names of the channels that :func:`to_channels` makes.

    Example:
        >>> channel_names(["t", "x", "y", "z"], [(1, 2, 3)], "magnitude")
        ['t', '|x,y,z|']
    """
    sensors = [",".join(names[axis] for axis in triad) for triad in triads]
    if channels == "raw":
        return list(names)
    if channels == "raw+magnitude":
        return [*names, *(f"|{sensor}|" for sensor in sensors)]
    loose = [names[column] for column in _loose(len(names), triads)]
    if channels == "magnitude":
        return [*loose, *(f"|{sensor}|" for sensor in sensors)]
    return [*loose, *(f"{part}({sensor})" for sensor in sensors for part in ("vertical", "horizontal"))]


def to_channels(
    values: NDArray[Any], triads: Sequence[Triad], channels: Channels, gravity: int = 0, around: int = 101
) -> NDArray[Any]:
    """Make the channels of :class:`Signals` from ``(T, C)`` values.

    Args:
        values: The recorded channels.
        triads: The columns of the three axes of each sensor.
        channels: As in :class:`Signals`.
        gravity: The place in ``triads`` of the accelerometer that measures gravity too.
        around: Samples whose mean acceleration is taken for gravity, half before and half after; fewer at the ends.

    Example:
        >>> to_channels(np.array([[3.0, 4, 0], [0, 0, 2]]), [(0, 1, 2)], "magnitude").ravel().tolist()
        [5.0, 2.0]
        >>> to_channels(np.array([[0.0, 0, 9.8]] * 3), [(0, 1, 2)], "vertical")[0].tolist()
        [9.8, 0.0]
    """
    if channels == "raw":
        return values
    vectors = np.stack([values[:, list(triad)] for triad in triads], axis=1)
    if channels == "raw+magnitude":
        return np.concatenate([values, np.linalg.norm(vectors, axis=2)], axis=1)
    loose = values[:, _loose(values.shape[1], triads)]
    if channels == "magnitude":
        return np.concatenate([loose, np.linalg.norm(vectors, axis=2)], axis=1)
    mean = _moving_mean(vectors[:, gravity], around)
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    down = np.divide(mean, length, out=np.zeros_like(mean), where=length > 0)[:, None]
    along = (vectors * down).sum(axis=2)
    across = np.linalg.norm(vectors - along[:, :, None] * down, axis=2)
    return np.concatenate([loose, np.stack([along, across], axis=2).reshape(len(values), -1)], axis=1)


def _loose(count: int, triads: Sequence[Triad]) -> list[int]:
    """Return the columns that belong to no triad."""
    taken = {column for triad in triads for column in triad}
    return [column for column in range(count) if column not in taken]


def _moving_mean(values: NDArray[Any], width: int) -> NDArray[np.float64]:
    """Return the mean of the samples around each, ``width`` of them, fewer at the ends."""
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])
    here = np.arange(len(values))
    low, high = np.maximum(here - width // 2, 0), np.minimum(here + width // 2 + 1, len(values))
    mean: NDArray[np.float64] = (total[high] - total[low]) / (high - low)[:, None]
    return mean


def scaling(values: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of the columns of ``(T, C)``; 1 for the deviation of a constant column."""
    mean = values.mean(axis=0, dtype=np.float64)
    return mean, without_zero(values.std(axis=0, dtype=np.float64), mean)


def without_zero(deviation: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return standard deviations with 1 for those of constant columns, which in float32 are of rounding alone."""
    return np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-30), deviation, 1.0)


def rotations(draws: Tensor) -> Tensor:
    """Return ``(B, 3, 3)`` rotations, uniform over all rotations if the draws are uniform in [0, 1).

    By unit quaternions; Shoemake, "Uniform random rotations", Graphics Gems III, 1992.

    Args:
        draws: ``(B, 3)``.

    Example:
        >>> rotations(torch.tensor([[0.5, 0.25, 0.0]]))[0].round().int()
        tensor([[ 1,  0,  0],
                [ 0,  0, -1],
                [ 0,  1,  0]], dtype=torch.int32)
    """
    first, second = (2 * torch.pi * draws[:, i] for i in (1, 2))
    short, long = (1 - draws[:, 0]).sqrt(), draws[:, 0].sqrt()
    x, y, z, w = short * first.sin(), short * first.cos(), long * second.sin(), long * second.cos()
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def stretched(x: Tensor, factors: Tensor) -> Tensor:
    """Read ``(B, C, T)`` windows ``factors`` times as fast, around their middle, by linear interpolation.

    Where the end is reached early, the last value is held.

    Example:
        >>> stretched(torch.tensor([[[0.0, 1, 2, 3, 4]]]), torch.tensor([0.5]))
        tensor([[[1.0000, 1.5000, 2.0000, 2.5000, 3.0000]]])
    """
    last = x.shape[2] - 1
    steps = torch.arange(last + 1, dtype=x.dtype) - last / 2
    place = (last / 2 + factors[:, None] * steps).clamp(0, last)
    left = place.floor().clamp(max=last - 1)
    share = (place - left)[:, None]
    index = left.long()[:, None].expand_as(x)
    return x.gather(2, index) * (1 - share) + x.gather(2, index + 1) * share
