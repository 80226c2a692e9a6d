"""Loaders: one over both sides for training, one a domain for evaluation."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from tlkit.data.rows import Draw, SideRows, mix
from tlkit.distributed import EvalRows, TrainBatches, several_ranks
from tlkit.errors import DataError
from tlkit.types import DomainBatch, Samples

__all__ = ["RowLoader", "TrainLoader", "eval_loader"]

_MOMENT = 0.02  # seconds, thousands of times what it takes


class RowLoader(DataLoader[Any]):
    """A DataLoader over :class:`SideRows` that raises what a worker found wrong with its message unchanged.

    A worker is a fork of this process. The threads that exchange what ranks tell each other let go of an exchange just
    after it is over, for which Python locks its list of threads. A fork at that very moment has the lock and no thread
    to open it, and Python 3.11 waits for it: the run would hang. So the threads are given a moment first.
    """

    def __iter__(self) -> Iterator[Samples]:  # type: ignore[override]
        """Yield batches."""
        forks = self.num_workers > 0 and self._iterator is None  # workers that persist are there after the first pass
        if forks and sys.version_info < (3, 12) and several_ranks():
            time.sleep(_MOMENT)
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise batch
            yield batch


def _row_loader(rows: SideRows, num_workers: int, **options: Any) -> RowLoader:
    return RowLoader(
        rows,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else every iterator draws a seed from the global generator
        **options,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def eval_loader(
    rows: SideRows,
    batch_size: int,
    num_workers: int = 0,
    rank: int = 0,
    world: int = 1,
    persistent: bool = False,
    shuffled: bool = False,
) -> RowLoader:
    """Return a loader of this rank's share of all rows, each once; the longest come first where rows have lengths.

    Args:
        rows: The data.
        batch_size: Rows a batch and rank.
        num_workers: Worker processes; 0 reads in this process.
        rank: This process's rank.
        world: Number of processes.
        persistent: Keep the workers between passes.
        shuffled: Give the rows in a random order, always the same one.
    """
    order = None
    if shuffled:
        order = rows.shuffled()
    elif (lengths := rows.row_lengths) is not None:  # the least padding, and too little memory shows at once
        order = lengths.argsort(stable=True, descending=True)
    sampler = EvalRows(len(rows), rank, world, order)
    return _row_loader(
        rows, num_workers, batch_size=batch_size, sampler=sampler, persistent_workers=persistent and num_workers > 0
    )


class _Draws(Sampler[list[int]]):
    """The batches of :class:`TrainBatches`, each with the key ``(seed, pass)`` of its augmentation."""

    def __init__(self, batches: TrainBatches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        for number, rows in enumerate(self.batches, self.batches.start):
            yield Draw(rows, (self.batches.seed, number // self.batches.per_pass))


class TrainLoader:
    """An endless stream of :class:`DomainBatch`, cut into epochs.

    Batch ``n`` is a pure function of the seed and ``n``, whatever the number of workers, so a state of two numbers is
    enough to go on at any batch. Each side goes round its data at its own pace and is reshuffled on every pass. The
    worker processes live until :meth:`close`.

    Args:
        source: The labelled side, or ``None``.
        target: The unlabelled side, or ``None``.
        batch_size: Rows a batch, side and rank.
        seed: Seed of the order; the same on all ranks.
        rank: This process's rank.
        world: Number of processes.
        num_workers: Worker processes a side; 0 reads in this process.
        accumulate: Batches a step; a pass, and so an epoch, holds whole steps.

    Attributes:
        position: How many batches have been handed out, over all epochs.

    Raises:
        DataError: If a side has fewer rows than one step over all ranks.
    """

    def __init__(
        self,
        source: SideRows | None,
        target: SideRows | None,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 0,
        accumulate: int = 1,
    ) -> None:
        self.sides = {"source": source, "target": target}
        self.batch_size, self.num_workers = batch_size, num_workers
        self.rank, self.world, self.accumulate = rank, world, accumulate
        self.seed, self.position = seed, 0
        self._streams: dict[str, Iterator[Samples]] | None = None
        self._length = max(self._batches(side).per_pass for side, rows in self.sides.items() if rows is not None)

    def __len__(self) -> int:
        """Number of batches in one pass over the longer side: an epoch."""
        return self._length

    def __iter__(self) -> Iterator[DomainBatch]:
        """Yield the next ``len(self)`` batches, beginning at ``position``."""
        for _ in range(len(self)):
            if self._streams is None:
                self._streams = {side: self._stream(side) for side, rows in self.sides.items() if rows is not None}
            batch = {side: next(stream) for side, stream in self._streams.items()}
            self.position += 1
            yield DomainBatch(batch.get("source"), batch.get("target"))

    def state_dict(self) -> dict[str, int]:
        """Return the state from which another loader goes on with the batch that is next here."""
        return {"position": self.position, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where the loader that ``state`` is from stood."""
        self.close()
        self.position, self.seed = state["position"], state["seed"]

    def close(self) -> None:
        """End the worker processes; the next batch starts new ones."""
        self._streams = None

    def _batches(self, side: str) -> TrainBatches:
        rows = self.sides[side]
        assert rows is not None
        # Two streams of one seed: sides of equal size must not be drawn in the same order.
        seed = mix(self.seed, list(self.sides).index(side))
        spread = self.rank, self.world, self.position, self.accumulate
        return TrainBatches(len(rows), self.batch_size, seed, *spread, order=rows.order)

    def _stream(self, side: str) -> Iterator[Samples]:
        rows = self.sides[side]
        assert rows is not None
        return iter(_row_loader(rows, self.num_workers, batch_sampler=_Draws(self._batches(side))))
