"""What a model may know of the labels that it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlkit.types import DataSpec

__all__ = ["label_statistics"]

_MOST_POINTS = 4096
_NAMES = ("class_counts", "centre", "scale", "points")


def label_statistics(
    labelled: Sequence[NDArray[Any]], measured: bool, num_classes: int, learned: DataSpec | None = None
) -> dict[str, Any]:
    """Return the attributes of :class:`~tlkit.types.DataSpec` that come from labels.

    Args:
        labelled: ``(N,)`` or ``(N, K)`` labels of each domain's labelled training rows.
        measured: Whether they are measured values.
        num_classes: Number of classes; 0 when labels are not classes.
        learned: What the model has learned from before: it holds where no row is labelled.

    Returns:
        ``centre``, ``scale`` and ``points`` of measured values, ``class_counts`` of a column of integers.

    Example:
        >>> import numpy as np
        >>> label_statistics([np.array([0, 2]), np.array([2])], measured=False, num_classes=3)
        {'class_counts': (1, 0, 2)}
    """
    if not labelled:
        return {} if learned is None else {name: getattr(learned, name) for name in _NAMES}
    y = np.concatenate(labelled)
    if measured:
        values = y.reshape(len(y), -1).astype(np.float64)
        deviation = values.std(axis=0)
        points = np.unique(values, axis=0)
        return {
            "centre": tuple(values.mean(axis=0).tolist()),
            "scale": tuple(np.where(deviation > 0, deviation, 1.0).tolist()),
            "points": tuple(map(tuple, points.tolist())) if len(points) <= _MOST_POINTS else (),
        }
    if y.ndim == 1 and y.dtype.kind in "iu":
        return {"class_counts": tuple(np.bincount(y, minlength=num_classes).tolist())}
    return {}
