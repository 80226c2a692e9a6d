"""Dividing the rows of one domain into training, validation and test rows."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlkit.errors import DataError

__all__ = ["Rows", "generator", "hold_out"]

Rows = NDArray[np.int64]


def generator(seed: int, domain: str) -> np.random.Generator:
    """Return the generator that splits ``domain``: it depends on its name and the seed, not on the other domains."""
    return np.random.default_rng([seed, zlib.crc32(domain.encode())])


def hold_out(
    rows: Rows, count: int, y: ArrayLike, groups: ArrayLike | None, random: np.random.Generator
) -> tuple[Rows, Rows]:
    """Divide ``rows`` into those kept and about ``count`` held out, with the share of each label in both.

    Without groups exactly ``count`` rows are held out, and each label's number is within one row of its share. Whole
    groups are held out as long as they bring the number of each label closer to its share.

    Args:
        rows: Row numbers to divide.
        count: How many to hold out.
        y: Labels of all rows of the domain; anything but a column of integers is not stratified.
        groups: Group of each row of the domain (a patient, a user); rows of a group stay together.
        random: Where chance comes from.

    Returns:
        The rows kept and the rows held out, both ascending.

    Raises:
        DataError: If one of the two would be empty.

    Example:
        >>> rows, y = np.arange(10), np.repeat([0, 1], [8, 2])
        >>> kept, held = hold_out(rows, 5, y, None, np.random.default_rng(0))
        >>> np.bincount(y[held]).tolist()
        [4, 1]
    """
    labels = np.asarray(y)
    stratify = labels.ndim == 1 and labels.dtype.kind in "iub"
    codes = np.unique(labels[rows], return_inverse=True)[1] if stratify else np.zeros(len(rows), np.int64)
    quota = count * np.bincount(codes) / max(len(rows), 1)
    chosen = _by_row(codes, quota, count, random)
    if groups is not None:
        chosen = _by_group(codes, quota, np.asarray(groups)[rows], random)
    held = np.zeros(len(rows), bool)
    held[chosen] = True
    if held.all() or not held.any():
        unit = "rows" if groups is None else "groups"
        number = len(rows) if groups is None else len(np.unique(np.asarray(groups)[rows]))
        raise DataError(f"{number} {unit} are too few to hold out {count} of {len(rows)} rows and keep the others")
    return rows[~held], rows[held]


def _by_row(codes: Rows, quota: NDArray[np.float64], count: int, random: np.random.Generator) -> Rows:
    """Choose exactly ``count`` rows: each label's whole share, then the largest remainders, ties by chance."""
    take = np.floor(quota + 1e-9).astype(np.int64)
    largest_first = np.lexsort((random.random(len(take)), take - quota))
    take[largest_first[: count - take.sum()]] += 1
    order = random.permutation(len(codes))
    return np.concatenate([order[codes[order] == code][:number] for code, number in enumerate(take)])


def _by_group(
    codes: Rows, quota: NDArray[np.float64], groups: NDArray[np.generic], random: np.random.Generator
) -> Rows:
    """Choose whole groups, in a random order, each if it brings the labels' counts closer to their quota."""
    names, member = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), len(quota)))
    np.add.at(counts, (member, codes), 1)
    chosen: list[int] = []
    total = np.zeros(len(quota))
    for group in random.permutation(len(names)):
        if np.sum((total + counts[group] - quota) ** 2) < np.sum((total - quota) ** 2):
            chosen.append(int(group))
            total += counts[group]
    if not chosen:  # every group is more than twice the quota: the one that overshoots least
        chosen = [int(np.argmin(np.sum((counts - quota) ** 2, axis=1)))]
    return np.flatnonzero(np.isin(member, chosen))
