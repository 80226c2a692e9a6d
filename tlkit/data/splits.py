"""Dividing the rows of one domain into training, validation and test rows."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlkit.errors import DataError, unknown
from tlkit.notes import say
from tlkit.types import Split

__all__ = [
    "HoldOut",
    "Rows",
    "as_mask",
    "choose_labelled",
    "divide",
    "generator",
    "hold_out_test",
    "label_budgets",
    "rows_in_use",
    "tell_absent",
]

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class HoldOut:
    """How the rows of a domain are divided.

    Attributes:
        val_fraction: Share of a source's rows outside the test split that are held out to validate on.
        test_fraction: Share of a domain's rows held out to test on, where no test split is published.
        seed: Seed of the splits. It is not the seed of the run, so that runs with other seeds are comparable.

    Raises:
        DataError: If a fraction does not lie between 0 and 1, or the seed is negative.
    """

    val_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fraction in (("val_fraction", self.val_fraction), ("test_fraction", self.test_fraction)):
            if not 0 < fraction < 1:
                raise DataError(f"hold_out.{name} must lie between 0 and 1, both excluded, got {fraction}")
        if self.seed < 0:
            raise DataError(f"hold_out.seed must be a whole number from 0 up, got {self.seed}")


def label_budgets(
    sources: Sequence[str],
    targets: Sequence[str],
    labels_per_class: int | Mapping[str, int] | None,
    label_fraction: float | Mapping[str, float] | None,
) -> dict[str, int | float]:
    """Return how many labels each domain may use: a whole number is a class's, a float a share of the training rows.

    Raises:
        DataError: If a domain is unknown to the run or has two budgets, or a number is out of its range.

    Example:
        >>> label_budgets(["photo"], ["art"], {"art": 3}, 0.5)
        {'art': 3, 'photo': 0.5}
    """
    budgets: dict[str, int | float] = {}
    for name, given in (("labels_per_class", labels_per_class), ("label_fraction", label_fraction)):
        if given is None:
            continue
        for domain, value in (given if isinstance(given, Mapping) else dict.fromkeys(sources, given)).items():
            if domain not in (*sources, *targets):
                raise DataError(f"{name}: {unknown('domain of this run', domain, [*sources, *targets])}")
            if domain in budgets:
                raise DataError(f"{domain!r} has both labels_per_class and label_fraction: leave one out")
            if name == "labels_per_class" and (value < 1 or int(value) != value):
                raise DataError(f"labels_per_class is a whole number from 1 up, got {value} for {domain!r}")
            if name == "label_fraction" and not 0 < value <= 1:
                raise DataError(f"label_fraction lies above 0 and at most at 1, got {value} for {domain!r}")
            budgets[domain] = int(value) if name == "labels_per_class" else float(value)
    return budgets


def choose_labelled(
    rows: Rows, budget: int | float, y: ArrayLike, groups: ArrayLike | None, random: np.random.Generator
) -> Rows:
    """Choose the rows whose labels may be used.

    Args:
        rows: The training rows.
        budget: A whole number of rows of each class, taken from as many groups as there are; or a float, the share of
            the rows, in whole groups and with the share of each class.
        y: Labels of all rows of the domain.
        groups: Group of each row of the domain.
        random: Where chance comes from.

    Raises:
        DataError: If a class has too few rows, or the labels are no classes and ``budget`` is a number of each.

    Example:
        >>> rows, y = np.arange(10), np.repeat([0, 1], 5)
        >>> np.bincount(y[choose_labelled(rows, 2, y, None, np.random.default_rng(0))]).tolist()
        [2, 2]
    """
    labels = np.asarray(y)
    if isinstance(budget, float):
        if budget == 1.0:
            return rows
        return divide(rows, max(round(budget * len(rows)), 1), labels, groups, random, keep_labels=False)[1]
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError("labels_per_class needs labels that are classes: use label_fraction")
    member = rows if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].ravel()[rows]
    chosen: list[Rows] = []
    order = random.permutation(len(rows))
    for label in np.unique(labels[rows]):
        mine = order[labels[rows][order] == label]
        if len(mine) < budget:
            raise DataError(
                f"labels_per_class is {budget}, but class number {label} has {len(mine)} training rows: give at most "
                f"{np.unique(labels[rows], return_counts=True)[1].min()}"
            )
        seen: dict[int, int] = {}  # a group's second row comes after the first row of every other group
        turn = []
        for group in member[mine].tolist():
            turn.append(seen.get(group, 0))
            seen[group] = turn[-1] + 1
        chosen.append(mine[np.argsort(turn, kind="stable")[:budget]])
    return rows[np.sort(np.concatenate(chosen))]


def generator(seed: int, domain: str) -> np.random.Generator:
    """Return the generator that splits ``domain``: it depends on its name and the seed, not on the other domains."""
    return np.random.default_rng([seed, zlib.crc32(domain.encode())])


def divide(
    rows: Rows,
    count: int,
    y: ArrayLike,
    groups: ArrayLike | None,
    random: np.random.Generator,
    keep_labels: bool = True,
    named_by: int | None = None,
) -> tuple[Rows, Rows]:
    """Divide ``rows`` into those kept and about ``count`` held out, with the share of each label in both.

    Without groups exactly ``count`` rows are held out, and each label's number is within one row of its share. Whole
    groups are held out as long as they bring the number of each label closer to its share. If that holds out
    all groups of a label, so that nothing could be learned of it, the last group of each label is passed over.

    Args:
        rows: Row numbers to divide.
        count: How many to hold out.
        y: Labels of all rows of the domain; anything but a column of integers is not stratified.
        groups: Group of each row of the domain (a patient, a user); rows of a group stay together.
        random: Where chance comes from.
        keep_labels: Whether a group of each label is kept, if possible. False where those held out are learned from.
        named_by: A seed: groups are drawn by it and their names, not by ``random``, so that a person whom one domain
            holds out is mostly held out by the others too.

    Returns:
        The rows kept and the rows held out, both ascending.

    Raises:
        DataError: If one of the two would be empty.

    Example:
        >>> rows, y = np.arange(10), np.repeat([0, 1], [8, 2])
        >>> kept, held = divide(rows, 5, y, None, np.random.default_rng(0))
        >>> np.bincount(y[held]).tolist()
        [4, 1]
    """
    labels = np.asarray(y)
    stratify = labels.ndim == 1 and labels.dtype.kind in "iub"
    codes = np.unique(labels[rows], return_inverse=True)[1] if stratify else np.zeros(len(rows), np.int64)
    quota = count * np.bincount(codes) / max(len(rows), 1)
    chosen = _by_row(codes, quota, count, random)
    if groups is not None:
        names, member = np.unique(np.asarray(groups)[rows], return_inverse=True)
        order = random.permutation(len(names)) if named_by is None else _named_order(names, named_by)
        chosen = _by_group(codes, quota, member, order, keep_labels)
    held = np.zeros(len(rows), bool)
    held[chosen] = True
    if held.all() or not held.any():
        if groups is None:
            raise DataError(f"{len(rows)} rows are too few to hold out {count} of {len(rows)} rows and keep the others")
        there = [str(name) for name in np.unique(np.asarray(groups)[rows])]
        listed = f"{', '.join(there[:3])}{', ...' if len(there) > 3 else ''}"
        raise DataError(
            f"{count} of the {len(rows)} rows left cannot be held out and the others kept: they are of "
            f"{len(there)} group{'s' * (len(there) != 1)} ({listed}), and a group (a person, a recording, a visit) is "
            "not divided. What is trained, validated and tested on needs a group each: add some, or group otherwise"
        )
    return rows[~held], rows[held]


def hold_out_test(
    hold_out: HoldOut,
    y: ArrayLike,
    groups: ArrayLike | None,
    test: ArrayLike | None,
    among: ArrayLike | None,
    random: np.random.Generator,
    shared: bool = False,
) -> tuple[Rows, Rows]:
    """Divide the rows of a domain into those that may be trained or validated on and those to test on.

    Args:
        hold_out: The share to test on where ``test`` does not say.
        y: Labels of all rows.
        groups: Group of each row; rows of a group stay together.
        test: A published test split as row numbers or as a mask, or the number of rows to hold out; or None.
        among: Row numbers or a mask of the rows that may be trained or validated on; all but the test rows if None.
        random: Where chance comes from.
        shared: Whether groups are drawn by their names, as those that other domains have too must be.

    Returns:
        Both as ascending row numbers.

    Raises:
        DataError: If one of the two would be empty and the test split is not published.
    """
    rows = np.arange(len(np.asarray(y)))
    if test is None or np.ndim(test) == 0:
        allowed = rows if among is None else rows[as_mask(among, len(rows))]
        share = hold_out.test_fraction * len(allowed)
        count = round(share) if test is None else int(test)  # type: ignore[arg-type]
        named_by = hold_out.seed if shared else None
        return divide(allowed, max(count, 1), y, groups, random, named_by=named_by)
    held = as_mask(test, len(rows))
    return rows[~held if among is None else as_mask(among, len(rows)) & ~held], rows[held]


def rows_in_use(size: int, test: ArrayLike | None, among: ArrayLike | None) -> NDArray[np.bool_]:
    """Return which rows of a domain :func:`hold_out_test` divides, as a mask.

    Args:
        size: Number of its rows.
        test: As for :func:`hold_out_test`.
        among: As for :func:`hold_out_test`.

    Example:
        >>> rows_in_use(4, test=[3], among=[0, 1]).tolist()
        [True, True, False, True]
    """
    used = np.ones(size, bool) if among is None else as_mask(among, size)
    return used if test is None or np.ndim(test) == 0 else used | as_mask(test, size)


def as_mask(rows: ArrayLike, size: int) -> NDArray[np.bool_]:
    """Return row numbers or a mask as a mask.

    Example:
        >>> as_mask([2, 0], size=3).tolist()
        [True, False, True]
    """
    mask, given = np.zeros(size, bool), np.asarray(rows)
    if given.size:  # an empty list is one of floats
        mask[given] = True
    return mask


def _by_row(codes: Rows, quota: NDArray[np.float64], count: int, random: np.random.Generator) -> Rows:
    """Choose exactly ``count`` rows: each label's whole share, then the largest remainders, ties by chance."""
    take = np.floor(quota + 1e-9).astype(np.int64)
    largest_first = np.lexsort((random.random(len(take)), take - quota))
    take[largest_first[: count - take.sum()]] += 1
    order = random.permutation(len(codes))
    return np.concatenate([order[:0], *(order[codes[order] == code][:number] for code, number in enumerate(take))])


def _by_group(
    codes: Rows,
    quota: NDArray[np.float64],
    member: Rows,
    order: Rows,
    keep_labels: bool,
) -> Rows:
    """Choose whole groups, in the given order, each if it brings the labels' counts closer to their quota."""
    counts = np.zeros((len(order), len(quota)))
    np.add.at(counts, (member, codes), 1)
    chosen = _nearest(counts, quota, order)
    kept = np.setdiff1d(order, chosen)
    if keep_labels and (counts[kept].sum(axis=0) == 0).any():
        chosen = _nearest(counts, quota, order, keep_labels=True) or chosen
    return np.flatnonzero(np.isin(member, chosen))


def _named_order(names: NDArray[np.generic], seed: int) -> Rows:
    """Return the numbers of groups in an order that is a matter of each one's name alone, and of the seed."""
    keys = [hashlib.sha256(f"{seed}/{name}".encode()).digest() for name in names]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def _nearest(
    counts: NDArray[np.float64], quota: NDArray[np.float64], order: Rows, keep_labels: bool = False
) -> list[int]:
    """Choose groups in an order, each if it brings the labels' counts closer to their quota; one at the least.

    Args:
        counts: ``(groups, labels)`` rows.
        quota: ``(labels,)`` rows to choose.
        order: Numbers of the groups.
        keep_labels: Pass over a group that has the last rows of a label; there may be none left to choose.
    """
    chosen: list[int] = []
    total, everything = np.zeros(len(quota)), counts.sum(axis=0)

    def able(group: int) -> bool:
        return not keep_labels or bool((total + counts[group] < everything).all())

    for group in order:
        if able(group) and np.sum((total + counts[group] - quota) ** 2) < np.sum((total - quota) ** 2):
            chosen.append(int(group))
            total += counts[group]
    if not chosen:  # every group is more than twice the quota: the one that overshoots least
        distance = np.sum((counts - quota) ** 2, axis=1)
        chosen = sorted((group for group in range(len(counts)) if able(group)), key=distance.__getitem__)[:1]
    return chosen


def tell_absent(
    domain: str, classes: Sequence[str], y: ArrayLike, splits: Mapping[Split, Rows], labelled: Rows | None = None
) -> None:
    """Say which classes of a domain have no row in a split: nothing is learned of them then, or nothing is scored.

    Args:
        domain: Name of the domain.
        classes: Names of its classes.
        y: Labels of all its rows; nothing is said of anything but a column of integers.
        splits: Row numbers of each split; nothing is said of an empty one, which is a fault of its own.
        labelled: The training rows of a target whose labels are used.
    """
    labels = np.asarray(y)
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        return
    train, val, test = (splits[split] for split in ("train", "val", "test"))
    named = {"training": train, "validation": val, "labelled training": labelled, "test": test}
    if np.array_equal(train, val):  # of a target
        del named["validation"]
    there = {name: set(labels[rows].tolist()) for name, rows in named.items() if rows is not None and len(rows)}
    parts = []
    for name, found in there.items():
        if absent := sorted(set().union(*there.values()) - found):
            words = [repr(classes[label]) if 0 <= label < len(classes) else str(label) for label in absent]
            more = f" and {len(words) - 5} more" if len(words) > 5 else ""
            parts.append(f"{', '.join(words[:5])}{more} in its {name} rows")
    if parts:
        say(
            f"domain {domain!r} has no row of {', none of '.join(parts)}: too few rows or groups (patients, "
            "recordings) are of it. Where they are divided by chance, another hold_out.seed or fraction may be better"
        )
