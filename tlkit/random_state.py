"""The state of the random generators, kept in checkpoints so that dropout goes on where it stood."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tlkit.distributed import several_ranks

__all__ = ["random_states", "restore_random_state"]


def random_states(waiting: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the state of the global generators of every process of the run, in the order of the ranks.

    These are torch's on the CPU and on this process's GPU, Python's and numpy's, in types that
    ``torch.load(weights_only=True)`` reads. Every rank must call it.

    Args:
        waiting: States that were loaded and not restored yet, since the run has not trained on: they still hold.
    """
    if waiting:
        return list(waiting)
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - what users' code draws from
    own: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
    }
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    if not several_ranks():
        return [own]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone


def restore_random_state(states: list[dict[str, Any]], rank: int) -> None:
    """Set the global generators of this process as they were when ``states`` were taken, once: the list is emptied.

    A rank that there was not then keeps the state it has: a run that goes on with another number of processes sees
    other masks of dropout than it would have.

    Args:
        states: What :func:`random_states` returned.
        rank: This process's rank.
    """
    own = states[rank] if rank < len(states) else None
    states.clear()  # on the others too: all must agree on whether there are states that wait
    if own is None:
        return
    torch.set_rng_state(own["torch"])
    version, internal, gauss = own["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = own["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if "cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda"])
