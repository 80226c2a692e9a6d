"""Dividing the domains of a run: each by itself, but a group that several have (a person) is on one side in all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlkit.data.splits import HoldOut, Rows, as_mask, choose_labelled, divide, generator, hold_out_test, rows_in_use
from tlkit.errors import DataError
from tlkit.notes import say
from tlkit.types import Split

__all__ = ["Division"]


@dataclass
class Division:
    """How the rows of one domain are divided.

    Attributes:
        domain: Name of the domain.
        hold_out: The shares to test and to validate on, and the seed.
        y: Labels of all rows.
        groups: Group of each row, never divided by chance; None if rows are on their own.
        test: A published test split or the number of rows to test on, see :func:`~tlkit.data.splits.hold_out_test`.
        among: The rows that may be trained or validated on; all but the test rows if None.
        val: A published validation split; None if it is to be drawn.
        scored: Whether the domain is tested, which takes labels.
        source: Whether the domain is a source, whose validation rows are not trained on.
        budget: How many labels may be used, see :func:`~tlkit.data.splits.choose_labelled`; None for all of a source's.
        shared: Whether a group of the same name is the same in every domain.
        learns: Whether anything is learned from the domain; else it is only tested or predicted.
        late: Whether the domain was no part of the run whose model is evaluated: what was learned from stays as it was,
            and the groups among it are left out of this domain's test.

    Example:
        >>> def ward(name):
        ...     patients = np.arange(40) // 4 + (5 if name == "south" else 0)  # 5 to 9 are in both
        ...     source = name == "north"
        ...     return Division(name, HoldOut(), patients % 2, patients, None, None, None, True, source, None, True)
        >>> north, south = ward("north"), ward("south")
        >>> splits, _ = north.split([north, south])
        >>> trained = set(north.groups[np.union1d(splits["train"], splits["val"])])
        >>> trained & set(south.groups[south.split([north, south])[0]["test"]])
        set()
    """

    domain: str
    hold_out: HoldOut
    y: NDArray[np.generic]
    groups: ArrayLike | None
    test: ArrayLike | None
    among: ArrayLike | None
    val: ArrayLike | None
    scored: bool
    source: bool
    budget: int | float | None
    shared: bool
    learns: bool = True
    late: bool = False

    def __post_init__(self) -> None:
        self._random = generator(self.hold_out.seed, self.domain)
        self._parts: tuple[Rows, Rows] | None = None

    def split(self, run: Sequence[Division]) -> tuple[dict[Split, Rows], Rows | None]:
        """Return the rows of each split, and those whose labels are trained on if the domain is a target with a budget.

        Args:
            run: The divisions of all domains that may share groups with this one; it may be among them itself.

        Raises:
            DataError: If there are too few rows or groups, or the others test and validate on all of them.
        """
        run = [each for each in run if not each.late]
        train, val = self._learned(run)
        labelled = None
        if self.source or self.budget is not None:
            known = self._unused(train, {each.domain: each._validated(run) for each in run}, "validated on")
            if self.budget is not None:
                random = generator(self.hold_out.seed, f"{self.domain}, labelled")
                with self._named():
                    known = choose_labelled(known, self.budget, self.y, self.groups, random)
            if self.source:
                train = known
            else:
                labelled = known
        reference = np.union1d(train, val) if self.source else train
        test = self._halves[1]
        if self.late and self.scored:
            learned = {each.domain: each._named_in(*each._learned(run)) for each in run if each.learns}
            scored = self._without(np.union1d(train, test), learned, "was to be scored on", "learned from")
            train, val, test = (np.intersect1d(rows, scored) for rows in (train, val, test))
        if not self.scored:  # what is left out of training is at least predicted
            test = np.union1d(test, np.setdiff1d(self._halves[0], reference))
        return {"train": train, "val": val, "test": test, "reference": reference}, labelled

    @cached_property
    def _halves(self) -> tuple[Rows, Rows]:
        """The rows to learn from and the rows to test on; neither depends on the other domains or on the role.

        Without labels there may be nothing to divide: a domain that is not learned from is to be predicted, all of it,
        and one that is a single group (a recording, a person) is learned from and predicted, all of it.
        """
        if not self.scored and (not self.learns or self._undivided):
            rows = np.flatnonzero(rows_in_use(len(self.y), self.test, self.among))
            return (rows, rows) if self.learns else (rows[:0], rows)
        with self._named():
            return hold_out_test(self.hold_out, self.y, self.groups, self.test, self.among, self._random, self.shared)

    @property
    def _undivided(self) -> bool:
        """Whether the domain is to be divided by chance and is one group, or one row."""
        if self.test is not None and np.ndim(self.test):
            return False
        rows = rows_in_use(len(self.y), self.test, self.among)
        return len(np.unique(np.flatnonzero(rows) if self.groups is None else np.asarray(self.groups)[rows])) == 1

    def _learned(self, run: Sequence[Division]) -> tuple[Rows, Rows]:
        """Return training and validation rows, without the groups that another domain tests on."""
        if self._parts is None:
            rows = self._unused(self._halves[0], {each.domain: each._tested() for each in run}, "tested on")
            self._parts = rows, rows
            if self.source and self.val is not None:
                held = as_mask(self.val, len(self.y))[rows]
                self._parts = rows[~held], rows[held]
            elif self.source:
                count = max(round(self.hold_out.val_fraction * len(rows)), 1)
                seed = self.hold_out.seed if self.shared else None
                with self._named():
                    self._parts = divide(rows, count, self.y, self.groups, self._random, named_by=seed)
        return self._parts

    def _tested(self) -> set[str]:
        return self._whole(self._halves[1], self._halves[0]) if self.scored else set()

    def _validated(self, run: Sequence[Division]) -> set[str]:
        train, val = self._learned(run)
        return self._whole(val, train) if self.source else set()

    def _whole(self, rows: Rows, others: Rows) -> set[str]:
        """Return the groups in some rows; those that a published split divides keep no other domain from anything."""
        return self._named_in(rows) - self._named_in(others)

    def _named_in(self, *rows: Rows) -> set[str]:
        """Return the groups of some rows; none where a name means nothing in another domain."""
        return set(self._names[np.concatenate(rows)].tolist()) if self.shared else set()

    @cached_property
    def _names(self) -> NDArray[np.str_]:
        return np.asarray(self.groups).astype(str)

    def _unused(self, rows: Rows, taken: Mapping[str, set[str]], what: str) -> Rows:
        """Return the rows to learn from whose groups no other domain has taken."""
        return self._without(rows, taken, "could learn from", what) if self.learns else rows

    def _without(self, rows: Rows, taken: Mapping[str, set[str]], use: str, what: str) -> Rows:
        """Return the rows whose groups no other domain has taken, and say which were."""
        if not self.shared:
            return rows
        elsewhere = {domain: names for domain, names in taken.items() if domain != self.domain}
        left_out = np.isin(self._names[rows], sorted(set().union(*elsewhere.values())))
        if not left_out.any():
            return rows
        names = sorted(set(self._names[rows][left_out].tolist()))
        where = ", ".join(repr(domain) for domain, taken in elsewhere.items() if not taken.isdisjoint(names))
        listed = f"{', '.join(map(repr, names[:3]))}{', ...' if len(names) > 3 else ''}"
        count = f"{left_out.sum()} of {len(rows)} rows that domain {self.domain!r} {use}"
        if left_out.all():
            raise DataError(
                f"{count} are of {len(names)} groups ({listed}) that are {what} in {where}: nothing is left. Name "
                "another domain, or give the groups of each domain names of their own if they are not the same"
            )
        say(f"{count} are left out: their {len(names)} groups ({listed}) are {what} in {where}")
        return rows[~left_out]

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            raise DataError(f"domain {self.domain!r} cannot be split: {error}") from error
