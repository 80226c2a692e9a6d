"""Names of domains that are persons, devices, or both: ``watch``, ``s03``, ``s03/watch``, ``s01-s07/phone``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tlkit.errors import DataError, unknown

__all__ = ["in_order", "persons_and_devices"]


def in_order(names: Sequence[str]) -> list[str]:
    """Return the names sorted, numbers in them by their value, each once.

    Example:
        >>> in_order(["s10", "s9", "s10", "s1"])
        ['s1', 's9', 's10']
    """
    return sorted(set(names), key=lambda name: ([_key(part) for part in _parts(name)], name))  # s01 before s1


def _key(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if part.isdecimal() else (1, 0, part)


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"(\d+)", name) if part]


def persons_and_devices(
    name: str, persons: Sequence[str], devices: Sequence[str]
) -> tuple[frozenset[str], frozenset[str]] | None:
    """Return whose recordings with which devices a domain's name means, or None if it means none.

    A device is one for all persons and a person one with all devices. ``s01-s07`` are the persons from the one to the
    other, ``s03/watch`` and ``s01-s07/watch`` those with one device.

    Args:
        name: The domain.
        persons: All persons, in order; "" stands for recordings of nobody known.
        devices: All devices; "" stands for recordings without one.

    Raises:
        DataError: If one half of the name is known and the other is not, or a range of persons goes backwards.

    Example:
        >>> persons, devices = persons_and_devices("s1-s2/watch", ["s1", "s2", "s3"], ["phone", "watch"])
        >>> sorted(persons), sorted(devices)
        (['s1', 's2'], ['watch'])
    """
    if name and name in devices:
        return frozenset(persons), frozenset([name])
    if (chosen := _persons(name, persons)) is not None:
        return chosen, frozenset(devices)
    for first, second in _splits(name, "/"):
        chosen = _persons(first, persons)
        if chosen is not None and second in devices:
            return chosen, frozenset([second])
        if chosen is not None and any(devices):
            raise DataError(f"domain {name!r}: {unknown('device', second, filter(None, devices))}")
        if second in devices:
            raise DataError(f"domain {name!r}: {unknown('person', first, filter(None, persons))}")
    return None


def _persons(name: str, persons: Sequence[str]) -> frozenset[str] | None:
    """Return the persons that a name or a range means."""
    if name and name in persons:
        return frozenset([name])
    for first, last in _splits(name, "-"):
        if first in persons and last in persons:
            start, stop = persons.index(first), persons.index(last)
            if start > stop:
                raise DataError(f"domain {name!r}: a range of persons goes upwards, write {last}-{first}")
            return frozenset(persons[start : stop + 1])
    return None


def _splits(name: str, at: str) -> Iterator[tuple[str, str]]:
    """Yield both halves for every place where a name can be divided: names may hold the sign themselves."""
    for place, sign in enumerate(name):
        if sign == at and 0 < place < len(name) - 1:
            yield name[:place], name[place + 1 :]
