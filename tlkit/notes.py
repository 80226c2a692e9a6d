"""What tlkit tells its user that is neither an error nor a warning: what was left out, cut or worked out again."""

from __future__ import annotations

import logging
import sys

__all__ = ["say"]


def say(message: str) -> None:
    """Say something, once a run: the first process alone does.

    It is logged as INFO to the logger ``tlkit`` where logging has been set up, and printed to stderr otherwise.
    """
    from lightning.pytorch.utilities import rank_zero_only

    if getattr(rank_zero_only, "rank", 0):
        return
    logger = logging.getLogger("tlkit")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if logger.hasHandlers():
        logger.info(message)
    else:
        print(f"tlkit: {message}", file=sys.stderr)
