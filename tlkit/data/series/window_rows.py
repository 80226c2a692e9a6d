"""Windows that are cut out of recordings as they are read, and changed at random for training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tlkit.data.rows import row_draws
from tlkit.data.series.signals import Axis, Signals, Triad, rotations, stretched, without_zero

__all__ = ["WindowRows", "Windows"]

_AT_ONCE = 4096  # windows


class Windows:
    """Windows of signals. Where they overlap, what they share is kept once.

    Args:
        values: ``(S, C)`` samples, one stretch of a recording after the other; maybe mapped from disk.
        begin: ``(N,)`` the sample that each window begins with.
        length: Samples a window.

    Example:
        >>> windows = Windows(np.array([[0.0], [1], [2], [3]]), np.array([0, 1]), length=3)
        >>> windows.read(torch.tensor([1, 0])).tolist()
        [[[1.0, 2.0, 3.0]], [[0.0, 1.0, 2.0]]]
    """

    def __init__(self, values: NDArray[Any], begin: NDArray[np.int64], length: int) -> None:
        self._windows = torch.from_numpy(values).unfold(0, length, 1)  # (S - length + 1, C, length), a view
        self._begin = torch.from_numpy(begin)
        self._shift: Tensor | None = None
        self._scale: Tensor | None = None

    def __len__(self) -> int:
        return len(self._begin)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self._windows.shape[1]

    def read(self, rows: Tensor) -> Tensor:
        """Return ``(B, C, length)`` windows of ``(B,)`` numbers."""
        x = self._windows.index_select(0, self._begin[rows])
        return x if self._shift is None or self._scale is None else x.sub_(self._shift).div_(self._scale)

    def standardize(self, rows: NDArray[np.int64]) -> None:
        """Subtract the mean of each channel over some windows, and divide by its standard deviation, from now on."""
        parts = [torch.from_numpy(rows[start : start + _AT_ONCE]) for start in range(0, len(rows), _AT_ONCE)]
        count = len(rows) * self._windows.shape[2]
        mean = torch.stack([self.read(part).double().sum((0, 2)) for part in parts]).sum(0) / count
        squares = [(self.read(part).double() - mean[:, None]).square().sum((0, 2)) for part in parts]
        variance = torch.stack(squares).sum(0) / count
        deviation = torch.from_numpy(without_zero(variance.sqrt().numpy(), mean.numpy()))
        self._shift, self._scale = (each[:, None].to(self._windows.dtype) for each in (mean, deviation))


class WindowRows(Dataset[Any]):
    """Windows and their labels, a batch at a time; mirrored, turned, scaled and stretched at random, if so chosen.

    Args:
        windows: The windows.
        y: ``(N,)`` labels.
        signals: What is random; nothing if not given.
        triads: Channels of the three axes of each sensor.
        gyroscopes: The places in ``triads`` of the sensors that measure turning.
    """

    def __init__(
        self,
        windows: Windows,
        y: Tensor,
        signals: Signals | None = None,
        triads: Sequence[Triad] = (),
        gyroscopes: Collection[int] = (),
    ) -> None:
        self.windows, self.y, self.signals = windows, y, signals
        self._axes = torch.tensor(triads, dtype=torch.int64).reshape(-1)
        self._signs = torch.ones(windows.channels)
        if signals is not None and signals.mirror is not None:
            along = get_args(Axis).index(signals.mirror)
            for place, triad in enumerate(triads):
                # Turning is a pseudovector: a mirror keeps it along its axis and changes it along the two others.
                changed = [axis for n, axis in enumerate(triad) if (n == along) != (place in gyroscopes)]
                self._signs[changed] = -1

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        key = (int(torch.randint(2**62, ())),) if self.signals is not None else ()
        x, y = self.seeded_batch(torch.tensor([row]), key)
        return x[0], y[0]

    def seeded_batch(self, rows: Tensor, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return windows and labels of ``(B,)`` rows, changed by what ``key`` and each row's number draw."""
        x = self.windows.read(rows)
        if self.signals is not None:
            x = self._changed(x, self.signals, torch.from_numpy(row_draws(key, rows)).to(x.dtype))
        return x, self.y[rows]

    def _changed(self, x: Tensor, signals: Signals, draws: Tensor) -> Tensor:
        if signals.mirror is not None:
            x = torch.where(draws[:, 5, None, None] < 0.5, x * self._signs.to(x.dtype)[:, None], x)
        if signals.rotate:
            vectors = x.index_select(1, self._axes).reshape(len(x), -1, 3, x.shape[2])
            turned = torch.einsum("bij,bsjt->bsit", rotations(draws[:, :3]), vectors)
            x = x.index_copy(1, self._axes, turned.flatten(1, 2))
        if signals.scale:
            x = x * (1 + signals.scale * (2 * draws[:, 3, None, None] - 1))
        if signals.stretch:
            x = stretched(x, 1 + signals.stretch * (2 * draws[:, 4] - 1))
        return x
