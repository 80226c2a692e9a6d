"""Whether backbones that are made load pretrained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["pretrained_is_skipped", "skip_pretrained"]

_skipped: ContextVar[bool] = ContextVar("pretrained_is_skipped", default=False)


@contextmanager
def skip_pretrained() -> Iterator[None]:
    """Make the backbones made inside without their pretrained weights, whatever their arguments say.

    For a model that gets all its weights from a checkpoint: the package, file or hub that they once came from may not
    be there any more. A backbone of your own that loads weights may ask :func:`pretrained_is_skipped`.

    Example:
        >>> from tlkit.backbones import TimmBackbone
        >>> with skip_pretrained():
        ...     backbone = TimmBackbone("test_resnet", pretrained="no/such/file.pth")
        >>> pretrained_is_skipped()
        False
    """
    token = _skipped.set(True)
    try:
        yield
    finally:
        _skipped.reset(token)


def pretrained_is_skipped() -> bool:
    """Return whether a backbone that is made now leaves its pretrained weights out, since a checkpoint has others.

    Example:
        >>> with skip_pretrained():
        ...     pretrained_is_skipped()
        True
    """
    return _skipped.get()
