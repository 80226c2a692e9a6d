"""Data sets of the UCI machine learning repository, whose archives hold another archive."""

from __future__ import annotations

from pathlib import Path

from tlkit.data.files.archives import unpack
from tlkit.data.files.fetch import Published, fetch, published_folder
from tlkit.data.files.folders import data_folder, find_folder
from tlkit.errors import DataError

__all__ = ["uci_folder"]


def uci_folder(root: str | None, default: str, needed: str, outer: Published, inner: Published) -> Path:
    """Return the folder that holds ``needed``: ``root``, or the folder in it that the inner archive unpacks to.

    Args:
        root: The folder that the user named, or None.
        default: The folder's name in :func:`~tlkit.data.files.folders.data_folder` when ``root`` is None.
        needed: A file of the data set.
        outer: The published archive.
        inner: The archive inside; it unpacks to a folder of its own name.

    Raises:
        DataError: If it is not there and cannot be had.
    """
    base = find_folder(root) if root else data_folder() / default
    places = (base, base / Path(inner.name).stem)
    if not any((place / needed).exists() for place in places):
        unpack(fetch(inner, published_folder(root, default, [inner.name], [outer])), base)
    for place in places:
        if (place / needed).exists():
            return place
    raise DataError(f"{base} lacks {needed}, and {inner.name} does not hold it: get it again. {inner.by_hand}")
