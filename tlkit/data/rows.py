"""The data sets of one side, served a batch at a time as :class:`~tlkit.types.Samples`."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate, get_worker_info

from tlkit.data.checks import check_values
from tlkit.data.order import by_length, by_shard
from tlkit.distributed import Order
from tlkit.errors import DataError
from tlkit.types import Samples, Split, map_tensors

__all__ = ["DomainRows", "Draw", "SideRows", "TensorRows", "mix", "row_draws"]

_CHECKED = 8192  # rows that are checked at once: a copy of all of them might not fit
_DRAWS = 8  # random numbers that a row may use in a pass


def mix(*keys: int) -> int:
    """Mix whole numbers into one seed of 63 bits; other keys give an unrelated seed."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))


def row_draws(key: tuple[int, ...], rows: Tensor) -> NDArray[np.float64]:
    """Return ``(B, 8)`` random numbers in [0, 1) that depend on ``key`` and each row's number, not on the batch.

    They are SplitMix64's (Steele, Lea and Flood, OOPSLA 2014) of a counter that starts at the mixed key.

    Args:
        key: Whole numbers.
        rows: ``(B,)`` row numbers.

    Example:
        >>> some, other = row_draws((0, 1), torch.tensor([3, 4])), row_draws((0, 1), torch.tensor([4]))
        >>> some.shape, bool((some[1] == other[0]).all()), bool((some[0] == other[0]).any())
        ((2, 8), True, False)
    """
    counter = rows.numpy().astype(np.uint64)[:, None] * np.uint64(_DRAWS) + np.arange(1, _DRAWS + 1, dtype=np.uint64)
    state: Any = counter * np.uint64(0x9E3779B97F4A7C15) + np.uint64(mix(*key))
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    draws: NDArray[np.float64] = ((state ^ (state >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
    return draws


class Draw(list[int]):
    """The rows of one training batch, and the key that their augmentation is drawn from.

    Args:
        rows: Positions in the data set.
        key: The seed of the order and the number of the pass.
    """

    def __init__(self, rows: Sequence[int], key: tuple[int, ...]) -> None:
        super().__init__(rows)
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return Draw, (list(self), self.key)


class TensorRows(Dataset[Any]):
    """Rows held in memory: a tensor or a mapping of tensors, and labels. Whole batches are sliced at once.

    Tokenised texts, a mapping with ``attention_mask``, are cut to the longest text of each batch.

    Args:
        x: ``(N, ...)`` tensor, or a mapping of such tensors.
        y: ``(N,)`` or ``(N, K)`` labels.

    Example:
        >>> ids, mask = torch.tensor([[5, 6, 0], [7, 0, 0]]), torch.tensor([[1, 1, 0], [1, 0, 0]])
        >>> x = {"input_ids": ids, "attention_mask": mask}
        >>> TensorRows(x, torch.tensor([0, 1])).rows(torch.tensor([1]))[0]["input_ids"]
        tensor([[7]])
    """

    def __init__(self, x: Tensor | Mapping[str, Tensor], y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[Any, Tensor]:
        return map_tensors(self.x, lambda tensor: tensor[row]), self.y[row]

    def rows(self, rows: Tensor) -> tuple[Any, Tensor]:
        """Return inputs and labels of ``(B,)`` row numbers."""
        x = map_tensors(self.x, lambda tensor: tensor.index_select(0, rows))
        if isinstance(x, dict) and (mask := x.get("attention_mask")) is not None:
            longest = max(int(mask.sum(1).max()), 1)
            x = {key: value[:, :longest] if value.shape[1:2] == mask.shape[1:] else value for key, value in x.items()}
        return x, self.y.index_select(0, rows)


class DomainRows(Dataset[Any]):
    """One split of one domain: a data set of ``(x, y)`` that is checked, and read many rows at once.

    Tensors are checked here, in one go, and sliced by whole batches. Of any other data set every batch is checked as it
    is read, and each row is read with random generators seeded by ``(seed, pass, domain, row)``: augmentation is the
    same with any number of workers or ranks, and the caller's generators are left as they were. A data set that reads a
    whole batch faster defines ``seeded_batch(rows, key)``: it returns ``x`` and ``y`` of ``(B,)`` row numbers, and
    draws what is random in a row from ``key`` and the row's number alone. One whose rows have a length each, such as
    texts, has it in ``row_lengths``, ``(N,)``; one whose rows lie in shards has the number of each one's in
    ``row_shards``, ``(N,)``, and in ``window`` how many of them are shuffled together.

    Args:
        name: Name of the domain.
        domain: Its number in the run.
        split: Name of the split.
        data: The data set of ``(x, y)``.
        num_classes: Number of classes; 0 when labels are not classes.
        labels: Whether labels are served; otherwise they are never looked at.

    Raises:
        DataError: If the data set is empty, or is made of tensors and holds NaN, infinity or a label out of range.
    """

    def __init__(
        self, name: str, domain: int, split: Split, data: Dataset[Any], num_classes: int, labels: bool = True
    ) -> None:
        self.name, self.domain, self.split, self.num_classes, self.labels = name, domain, split, num_classes, labels
        self._size = len(data)  # type: ignore[arg-type]
        if self._size == 0:
            raise DataError(f"domain {name!r} has no rows in its {split} split: check its data and what is held out")
        self._base, self._rows = data, None
        # Only the classes themselves: a subclass may transform what it returns.
        while type(self._base) is Subset:
            inner = torch.as_tensor(self._base.indices)
            self._rows = inner if self._rows is None else inner[self._rows]
            self._base = self._base.dataset
        self._tensors = self._base if type(self._base) is TensorRows else None
        if type(self._base) is TensorDataset:
            if len(self._base.tensors) != 2:
                raise DataError(f"domain {name!r}: a data set has rows (x, y), got {len(self._base.tensors)} tensors")
            self._tensors = TensorRows(*self._base.tensors)
        if self._tensors is not None:
            for start in range(0, self._size, _CHECKED):
                rows = torch.arange(start, min(start + _CHECKED, self._size))
                x, y = self._tensors.rows(rows if self._rows is None else self._rows[rows])
                check_values(name, split, x, y if labels else None, num_classes, rows)

    @property
    def lengths(self) -> Tensor | None:
        """``(N,)`` length of each row; None if rows have none."""
        lengths: Tensor | None = getattr(self._base, "row_lengths", None)
        return lengths if lengths is None or self._rows is None else lengths[self._rows]

    @property
    def shards(self) -> tuple[Tensor, int] | None:
        """``(N,)`` shard of each row, and how many shards are shuffled together; None if rows lie in none."""
        shards: Tensor | None = getattr(self._base, "row_shards", None)
        if shards is None:
            return None
        return shards if self._rows is None else shards[self._rows], self._base.window  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return self._size

    def read(self, rows: Tensor, key: tuple[int, ...] = ()) -> tuple[Any, Tensor | None]:
        """Return inputs and labels of ``(B,)`` rows."""
        base_rows = rows if self._rows is None else self._rows[rows]
        if self._tensors is not None:
            x, y = self._tensors.rows(base_rows)
            return x, _whole(y) if self.labels else None
        if callable(seeded_batch := getattr(self._base, "seeded_batch", None)):
            inputs, y = seeded_batch(base_rows, (*key, self.domain))
            targets = _whole(y) if self.labels else None
            check_values(self.name, self.split, inputs, targets, self.num_classes, rows)
            return inputs, targets
        pairs = self._pairs(base_rows.tolist(), key)
        try:
            inputs = default_collate([x for x, _ in pairs])
            targets = _whole(default_collate([y for _, y in pairs])) if self.labels else None
        except (RuntimeError, TypeError) as error:
            raise DataError(
                f"domain {self.name!r}, {self.split} split: rows do not stack into a batch, all x must have one shape "
                f"and type, and all y too: {error}"
            ) from error
        check_values(self.name, self.split, inputs, targets, self.num_classes, rows)
        return inputs, targets

    def _pairs(self, rows: list[int], key: tuple[int, ...]) -> list[tuple[Any, Any]]:
        data: Any = self._base
        with _own_random_state():
            if callable(getattr(data, "__getitems__", None)):
                _seed(mix(*key, self.domain, rows[0]))
                items: list[Any] = data.__getitems__(rows)
            else:
                items = []
                for row in rows:
                    _seed(mix(*key, self.domain, row))
                    items.append(data[row])
        for item in items:
            if not isinstance(item, tuple | list) or len(item) != 2:
                came = f"{len(item)} values" if isinstance(item, tuple | list) else type(item).__name__
                raise DataError(f"domain {self.name!r}: a data set has rows (x, y), got {came}")
        return items


class SideRows(Dataset[Any]):
    """The domains of one side, one after the other, served as :class:`Samples`.

    Args:
        parts: The domains.
        by_length: Let a step of training have rows of about the same length, where rows have lengths.

    Example:
        >>> data = TensorDataset(torch.arange(4.0)[:, None], torch.tensor([0, 1, 0, 1]))
        >>> rows = SideRows([DomainRows("a", 0, "train", data, 2), DomainRows("b", 1, "train", data, 2)])
        >>> samples = rows.__getitems__([6, 1, ~0])
        >>> samples.x.flatten().tolist(), samples.domain.tolist(), samples.index.tolist()
        ([2.0, 1.0, 0.0], [1, 0, 0], [2, 1, -1])
    """

    def __init__(self, parts: Sequence[DomainRows], by_length: bool = False) -> None:
        self.parts, self.by_length = list(parts), by_length
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    @property
    def row_lengths(self) -> Tensor | None:
        """``(N,)`` length of each row; None if rows of a domain have none."""
        found = [lengths for part in self.parts if (lengths := part.lengths) is not None]
        return torch.cat(found) if len(found) == len(self.parts) else None

    @property
    def order(self) -> Order | None:
        """What makes the order of a pass of training; None for chance alone."""
        if (order := self._by_shard) is not None:
            return order
        lengths = self.row_lengths if self.by_length else None
        return None if lengths is None else partial(by_length, lengths)

    @property
    def _by_shard(self) -> Order | None:
        shards = [found for part in self.parts if (found := part.shards) is not None]
        return partial(by_shard, shards) if len(shards) == len(self.parts) else None

    def shuffled(self) -> Tensor:
        """Return all rows in a random order, always the same one."""
        generator, order = torch.Generator().manual_seed(0), self._by_shard
        return torch.randperm(len(self), generator=generator) if order is None else order(generator, 1)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitems__(self, rows: list[int]) -> Samples | DataError:
        """Return the batch of ``rows``; ``~i`` is row ``i`` with index -1, a row that only pads.

        In a worker process a fault is returned, not raised: the loader would wrap the message into a traceback.
        """
        real = torch.tensor([row if row >= 0 else ~row for row in rows])
        try:
            samples = self._samples(real, rows.key if isinstance(rows, Draw) else ())
        except DataError as error:
            if get_worker_info() is None:
                raise
            return error
        if min(rows) < 0:
            samples.index[torch.tensor(rows) < 0] = -1
        return samples

    def seeded_batch(self, rows: Tensor, key: tuple[int, ...]) -> tuple[Any, Tensor | None]:
        """Return inputs and labels of ``(B,)`` rows: a side may itself be what :class:`DomainRows` reads."""
        samples = self._samples(rows, key)
        return samples.x, samples.y

    def _samples(self, rows: Tensor, key: tuple[int, ...]) -> Samples:
        if len(self.parts) == 1:
            part = self.parts[0]
            x, y = part.read(rows, key)
            return Samples(x, y, torch.full_like(rows, part.domain), rows)
        owner = torch.bucketize(rows, self._ends, right=True)
        places, pieces, domain, index = [], [], torch.empty_like(rows), torch.empty_like(rows)
        for number, part in enumerate(self.parts):
            place = (owner == number).nonzero().flatten()
            if len(place):
                local = rows.index_select(0, place) - (self._ends[number] - len(part))
                places.append(place)
                pieces.append(part.read(local, key))
                domain[place], index[place] = part.domain, local
        order = torch.cat(places).argsort()
        x = _join([x for x, _ in pieces], order)
        labels = [y for _, y in pieces if y is not None]
        y = torch.cat(labels).index_select(0, order) if labels else None
        return Samples(x, y, domain, index)


def _join(inputs: list[Any], order: Tensor) -> Any:
    if isinstance(inputs[0], Tensor):
        return torch.cat(inputs).index_select(0, order)
    masked = "attention_mask" in inputs[0]
    columns = {key: [x[key] for x in inputs] for key in inputs[0]}
    return {key: _join(_padded(column) if masked else column, order) for key, column in columns.items()}


def _padded(tensors: list[Tensor]) -> list[Tensor]:
    """Return tokens of domains that were each cut to their longest text at one length; zeros there are masked out."""
    if tensors[0].dim() < 2:
        return tensors
    longest = max(tensor.shape[1] for tensor in tensors)
    return [nn.functional.pad(tensor, (0, longest - tensor.shape[1])) for tensor in tensors]


def _whole(y: Tensor) -> Tensor:
    """Return integer labels as int64, which is what losses take; others as they are."""
    return y if y.is_floating_point() else y.long()


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the users' augmentations draw from the global generator
    torch.default_generator.manual_seed(seed)


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Give back the global generators as they were."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.default_generator.set_state(states[2])
