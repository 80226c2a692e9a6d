"""Where data sets lie on this machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tlkit.errors import DataError

__all__ = ["data_folder", "find_folder", "locked"]


@contextmanager
def locked(file: Path, setting: str = "XDG_CACHE_HOME") -> Iterator[None]:
    """Let one process of a machine at a time be inside.

    Args:
        file: What is made for it, with its folder.
        setting: The environment variable that names another folder.

    Raises:
        DataError: If it cannot be made.
    """
    with ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(file.open("w")), fcntl.LOCK_EX)  # which some network file systems lack
        except OSError as error:
            raise DataError(
                f"cannot write into {file.parent}: {error}; set {setting} to a folder that can be written"
            ) from error
        yield


def data_folder() -> Path:
    """Return the folder of all data sets: the environment variable TLKIT_DATA, else ``~/.cache/tlkit``."""
    return Path(os.environ.get("TLKIT_DATA") or "~/.cache/tlkit").expanduser()


def find_folder(root: str, argument: str = "root") -> Path:
    """Return the folder ``root``; a relative one is looked for in the working folder, then in :func:`data_folder`.

    Args:
        root: The folder.
        argument: The argument that named it, for the message.

    Raises:
        DataError: If it is in neither.
    """
    places = list(dict.fromkeys([Path(root).expanduser(), data_folder() / Path(root).expanduser()]))
    for place in places:
        if place.is_dir():
            return place
    raise DataError(
        f"{argument}: no folder {' or '.join(map(str, places))}. Give the folder of the data, or set TLKIT_DATA to the "
        f"one that holds {root!r}"
    )
