"""Showing how far something is that takes minutes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tlkit.notes import say

__all__ = ["shown"]

_EVERY = 30.0  # seconds between two lines where there is no terminal


@contextmanager
def shown(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how much is done and how long the rest takes; yield what takes the amount that is done anew.

    On a terminal it is a bar. Elsewhere it is a line every half minute, so that a job of seconds writes none.

    Args:
        what: What is done, in words.
        total: How much there is to do, in any unit; None if that is not known.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(what, total=total)
            yield lambda amount: progress.advance(task, amount)
        return
    start = told = time.monotonic()
    done = 0

    def advance(amount: int) -> None:
        nonlocal told, done
        done += amount
        now = time.monotonic()
        if now - told < _EVERY:
            return
        told = now
        if total is None:
            say(f"{what}: {done} so far")
        elif 0 < done < total:
            left = (now - start) / done * (total - done)
            say(f"{what}: {done / total:.0%}, about {max(round(left / 60), 1)} min left")

    yield advance
