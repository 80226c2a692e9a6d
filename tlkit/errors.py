"""What tlkit raises when the user's input is at fault.

The command line turns a :class:`TlkitError` into its message and exit status 2 (1 for a :class:`RunError`), without a
traceback. A message names the argument, what is allowed, what came, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BackboneError",
    "CheckpointError",
    "ConfigurationError",
    "ContractError",
    "DataError",
    "RunError",
    "TlkitError",
    "brief",
    "near",
    "unknown",
]


class TlkitError(ValueError):
    """The base of every error that the user can mend."""


class ConfigurationError(TlkitError):
    """A recipe, an option or a combination of parts that cannot work."""


class DataError(TlkitError):
    """Data that cannot be read or that does not fit its role."""


class BackboneError(TlkitError):
    """A backbone that breaks its contract, or weights that cannot be had."""


class CheckpointError(TlkitError):
    """A checkpoint that does not belong to the model it is loaded into."""


class ContractError(TlkitError, TypeError):
    """A class of the user's own that lacks what the class it extends asks of it."""


class RunError(TlkitError):
    """A run that had begun and cannot go on: a loss that is not finite, a full disk, a process that died.

    Args:
        message: What happened, and what to do.
        repeats: Whether a run resumed from the last checkpoint would come to the same end.
    """

    def __init__(self, message: str, repeats: bool = False) -> None:
        super().__init__(message)
        self.repeats = repeats


def brief(error: Exception) -> str:
    """Return what a library says of a damaged file on one line, without the file itself that some quote in it.

    Example:
        >>> brief(ValueError("not a number: " + 9000 * "x"))[-5:]
        'xx...'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 300 else f"{text[:300]}..."


def near(name: str, allowed: Iterable[str], most: int = 3) -> list[str]:
    """Return the allowed names that look like ``name``, best first.

    Example:
        >>> near("optdigit", ["mnist", "usps", "optdigits"])
        ['optdigits']
    """
    by_lower = {option.lower(): option for option in allowed}
    return [by_lower[hit] for hit in difflib.get_close_matches(name.lower(), by_lower, n=most, cutoff=0.5)]


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    """Word the message for a name that is not among those allowed: near names first, then all of them.

    Example:
        >>> unknown("domain", "mnst", ["mnist", "usps"])
        "unknown domain 'mnst': did you mean 'mnist'? Allowed: mnist, usps."
    """
    options = sorted(set(allowed))
    hits = near(name, options)
    hint = f" did you mean {' or '.join(repr(hit) for hit in hits)}?" if hits else ""
    listed = ", ".join(options) if options else "none"
    return f"unknown {what} {name!r}:{hint} Allowed: {listed}."
