"""What makes N ranks equal one: shards of the same global batches, and a differentiable gather of encoded rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DistributedSampler, Sampler

from tlkit.errors import DataError
from tlkit.types import Encoded

__all__ = [
    "EvalRows",
    "Order",
    "TrainBatches",
    "gather",
    "mean_over_ranks",
    "run_seed",
    "same_initial_weights",
    "several_ranks",
]

Order = Callable[[torch.Generator, int], Tensor]


class TrainBatches(Sampler[list[int]]):
    """An endless batch sampler whose batches are a pure function of ``(seed, batch number)``.

    Batch ``k`` of pass ``p`` is a slice of a permutation seeded by ``(seed, p)``, so the order changes on every pass
    over a short domain, also within an epoch, and a run that resumes at batch ``start`` sees what it would have seen.
    The global batch of ``world`` ranks with ``batch_size`` rows each is the batch of one rank with ``world *
    batch_size`` rows. The incomplete batch at the end of a pass is dropped; another permutation drops other rows.

    Args:
        size: Number of rows of the data set.
        batch_size: Rows a batch and rank.
        seed: Seed of the order; the same on all ranks.
        rank: This process's rank.
        world: Number of processes.
        start: Number of the first batch to yield.
        accumulate: Batches a step: so many in a row, over all ranks, make up a batch of one rank with that many times
            the rows. A pass holds whole steps only.
        order: What makes the order of a pass, if it is not a permutation in which each is as likely: a function of a
            seeded generator and the number of rows a step that returns ``(size,)`` positions. The rows of a step are
            neighbours in it, on one rank as on many.

    Raises:
        DataError: If a step over all ranks needs more rows than there are.

    Example:
        >>> batches = iter(TrainBatches(size=5, batch_size=2, seed=0))
        >>> first_pass = next(batches) + next(batches)
        >>> len(set(first_pass))
        4
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        accumulate: int = 1,
        order: Order | None = None,
    ) -> None:
        if size < batch_size * world * accumulate:
            spread = f" on {world} processes" if world > 1 else ""
            spread += f", {accumulate} batches a step," if accumulate > 1 else ""
            raise DataError(
                f"batch_size {batch_size}{spread} needs {batch_size * world * accumulate} rows, but the data set has "
                f"{size}: choose a batch_size of at most {size // (world * accumulate)}"
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world, self.start, self.accumulate = rank, world, start, accumulate
        self.order = order

    @property
    def per_pass(self) -> int:
        """Number of batches in one pass over the data set."""
        return self.size // (self.batch_size * self.world * self.accumulate) * self.accumulate

    def permutation(self, number: int) -> Tensor:
        """Return the order of rows in pass ``number``."""
        # Two seeds are mixed by drawing one from the other: seed + pass would make pass 1 of seed 0 pass 0 of seed 1.
        mixed = torch.randint(2**62, (number + 1,), generator=torch.Generator().manual_seed(self.seed))[-1]
        generator = torch.Generator().manual_seed(int(mixed))
        if self.order is None:
            return torch.randperm(self.size, generator=generator)
        return self.order(generator, self.batch_size * self.world * self.accumulate)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's rows of batch ``start``, ``start + 1``, ... without end."""
        number, position = divmod(self.start, self.per_pass)
        width = self.batch_size * self.world
        while True:
            order = self.permutation(number)  # a tensor: a list of numbers takes four times the memory
            for batch in range(position, self.per_pass):
                first = batch * width + self.rank * self.batch_size
                yield order[first : first + self.batch_size].tolist()
            number, position = number + 1, 0


class EvalRows(DistributedSampler[Any]):
    """Every row once, spread over the ranks, each rank with the same number of steps.

    Ranks that would fall short are given row ``i`` again as ``~i`` (a negative number). The data set marks it with
    index -1 and the module leaves it out of every metric. Lightning leaves a ``DistributedSampler`` alone; its own pads
    with duplicates that are then counted twice.

    Args:
        size: Number of rows of the data set.
        rank: This process's rank.
        world: Number of processes.
        order: ``(size,)`` positions, the order in which the rows come; that of their numbers by default.

    Example:
        >>> [list(EvalRows(5, rank, 2)) for rank in (0, 1)]
        [[0, 2, 4], [1, 3, -1]]
    """

    def __init__(self, size: int, rank: int = 0, world: int = 1, order: Tensor | None = None) -> None:
        self.size, self.rank, self.world = size, rank, world
        self.order = None if order is None else order.numpy()  # whose elements are read ten times as fast

    def __len__(self) -> int:
        return -(-self.size // self.world)

    def __iter__(self) -> Iterator[int]:
        """Yield this rank's rows."""
        for place in range(self.rank, len(self) * self.world, self.world):
            row = place % self.size if self.order is None else int(self.order[place % self.size])
            yield row if place < self.size else ~row

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the order of evaluation does not change."""


class _Gather(torch.autograd.Function):
    """All-gather a row of floats and a row of integers, each ``(N,)``, into ``(world, N)``, in one exchange.

    The gradient of a rank's floats is the sum of what every rank's loss asks of them. DistributedDataParallel then
    averages parameter gradients over ranks, and the world size cancels: the result is the gradient of the loss of the
    whole batch.
    """

    @staticmethod
    def forward(ctx: Any, floats: Tensor, integers: Tensor) -> tuple[Tensor, Tensor]:
        # As bytes: an exchange costs a small step more than what travels in it does.
        local = torch.cat([floats.view(torch.uint8), integers.view(torch.uint8)])[None]
        everyone = local.new_empty(dist.get_world_size(), local.numel())
        dist.all_gather_into_tensor(everyone, local)
        cut = floats.nbytes
        result = (
            everyone[:, :cut].contiguous().view(floats.dtype),
            everyone[:, cut:].contiguous().view(integers.dtype),
        )
        ctx.mark_non_differentiable(result[1])
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad[dist.get_rank()], None


@contextmanager
def same_initial_weights() -> Iterator[None]:
    """Draw random numbers from the run's seed alone, and leave the generator as it was.

    Lightning seeds again when it starts several processes, so that layers made afterwards would begin with other
    weights than on one process.
    """
    state = torch.default_generator.get_state()
    # Not the seed itself: the layers would repeat the numbers that the backbone was drawn from.
    torch.default_generator.manual_seed((torch.default_generator.initial_seed() * 0x9E3779B97F4A7C15 + 1) % 2**63)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def gather(*sides: Encoded | None) -> tuple[Encoded | None, ...]:
    """Return each side with the rows of all ranks, in the order of the ranks; gradients flow back to their rank.

    All sides travel in one exchange. Every rank must call it at every step, with the same number of rows. Without
    several processes the sides are returned as they are.

    Args:
        sides: Encoded batches; ``None`` stays ``None``.

    Example:
        >>> import torch
        >>> rows = torch.zeros(2, dtype=torch.int64)
        >>> side = Encoded(torch.rand(2, 3), torch.rand(2, 4), None, rows, rows)
        >>> gather(side, None) == (side, None)
        True
    """
    if not several_ranks():
        return sides
    present = [side for side in sides if side is not None]
    floats = [tensor for side in present for tensor in _floats(side)]
    integers = [tensor for side in present for tensor in _integers(side)]
    everyones = _Gather.apply(_row(floats), _row(integers))
    gathered_floats, gathered_integers = map(_pieces, everyones, (floats, integers))
    result: list[Encoded | None] = []
    for side in sides:
        if side is None:
            result.append(None)
            continue
        features, outputs = next(gathered_floats), next(gathered_floats)
        y = side.y
        if y is not None:
            y = next(gathered_floats) if y.is_floating_point() else next(gathered_integers)
        result.append(Encoded(features, outputs, y, next(gathered_integers), next(gathered_integers)))
    return tuple(result)


def _floats(side: Encoded) -> list[Tensor]:
    floating_y = side.y is not None and side.y.is_floating_point()
    return [side.features, side.outputs, *([side.y] if floating_y and side.y is not None else [])]


def _integers(side: Encoded) -> list[Tensor]:
    integer_y = side.y is not None and not side.y.is_floating_point()
    return [*([side.y] if integer_y and side.y is not None else []), side.domain, side.index]


def _row(tensors: list[Tensor]) -> Tensor:
    """Return several tensors as one row, of the dtype that holds the values of each."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return torch.cat([tensor.to(dtype).flatten() for tensor in tensors])


def _pieces(everyone: Tensor, tensors: list[Tensor]) -> Iterator[Tensor]:
    """Cut the rows of all ranks, ``(world, N)``, into what each of the tensors is on all of them."""
    first = 0
    for tensor in tensors:
        piece = everyone[:, first : first + tensor.numel()]
        yield piece.reshape(-1, *tensor.shape[1:]).to(tensor.dtype)
        first += tensor.numel()


def mean_over_ranks(values: Mapping[str, Tensor | float], device: torch.device) -> dict[str, Tensor | float]:
    """Return the mean of each value over the ranks, in one exchange; without several processes, the values.

    Args:
        values: Numbers by name, the same names on every rank.
        device: Where ranks exchange.

    Example:
        >>> mean_over_ranks({"loss": 0.5}, torch.device("cpu"))
        {'loss': 0.5}
    """
    if not several_ranks():
        return dict(values)
    double = any(isinstance(value, Tensor) and value.dtype == torch.float64 for value in values.values())
    dtype = torch.float64 if double else torch.float32  # whatever the values are: half precision adds up badly
    mean = torch.stack([torch.as_tensor(value, dtype=dtype, device=device) for value in values.values()])
    dist.all_reduce(mean)
    return dict(zip(values, mean / dist.get_world_size(), strict=True))


def several_ranks() -> bool:
    """Return whether this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def run_seed(trainer: Any | None) -> int:
    """Return rank 0's seed of the run.

    Args:
        trainer: The trainer, or None where there is one process and no trainer yet.
    """
    seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed() % 2**31))
    if trainer is not None and trainer.world_size > 1:
        seed = trainer.strategy.broadcast(seed)
    return seed
