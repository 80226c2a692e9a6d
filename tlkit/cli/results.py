"""The tables that a command prints."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from tlkit.types import DataSpec

__all__ = ["print_table"]

_WIDEST = 200  # columns, where there is no terminal to fit the table into
_CLASSES = 20  # rows at most of the table of classes
_RECALL = "recall/"


def print_table(
    data: DataSpec, metrics: Mapping[str, float], prefixes: tuple[str, ...], title: str, note: str, rest: str = ""
) -> None:
    """Print domains x metrics, and classes x domains where there is the recall of each class.

    The ends of an interval (``auroc_low``, ``auroc_high``) stand with its value.

    Args:
        data: Domains and their roles.
        metrics: Logged key (``test/mnist/accuracy``, ``test/mnist/recall/0``) -> value.
        prefixes: The first parts of the keys to show; the first one that a domain has counts.
        title: Above the table.
        note: Below the tables; may be empty.
        rest: Where the values of further classes are; of more than 20 the first 20 are shown.
    """
    rows = {domain: _of_domain(domain, metrics, prefixes) for domain in data.domains}
    # A name with another slash is a metric of the domain "month-25/galaxy-a5", seen from "month-25".
    names = list(dict.fromkeys(n for row in rows.values() for n in row if "/" not in n and not _is_end(n, row)))
    table = Table()
    table.add_column("domain")
    table.add_column("role")
    for name in names:
        table.add_column(name, justify="right")
    for domain, row in rows.items():
        if row:
            table.add_row(domain, _role(data, domain), *(_cell(name, row) for name in names))
    print(title)
    if any(rows.values()):
        _print(table)
    else:
        print("no domain has labels to be scored by; tlkit predict writes what the model makes of their rows")
    _print_recalls(rows, rest)
    if note:
        print(note)


def _print_recalls(rows: Mapping[str, Mapping[str, float]], rest: str) -> None:
    there = {domain: row for domain, row in rows.items() if any(name.startswith(_RECALL) for name in row)}
    names = list(dict.fromkeys(name for row in there.values() for name in row if name.startswith(_RECALL)))
    if not names:
        return
    table = Table()
    table.add_column("recall of class")
    for domain in there:
        table.add_column(domain, justify="right")
    for name in names[:_CLASSES]:
        values = (f"{row[name]:.3f}" if name in row else "" for row in there.values())
        table.add_row(name.removeprefix(_RECALL), *values)
    _print(table)
    if len(names) > _CLASSES:
        print(f"and {len(names) - _CLASSES} more classes" + (f": {rest}" if rest else ""))


def _print(table: Table) -> None:
    console = Console(highlight=False, markup=False, emoji=False)  # a domain may be called "[night]" or ":day:"
    console.print(table, width=None if console.is_terminal else _WIDEST)


def _is_end(name: str, row: Mapping[str, float]) -> bool:
    value, _, end = name.rpartition("_")
    return end in ("low", "high") and value in row


def _cell(name: str, row: Mapping[str, float]) -> str:
    if name not in row:
        return ""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    return f"{row[name]:.3f}{interval}"


def _of_domain(domain: str, metrics: Mapping[str, float], prefixes: tuple[str, ...]) -> dict[str, float]:
    row: dict[str, float] = {}
    for prefix in prefixes:
        start = f"{prefix}/{domain}/"
        for key, value in metrics.items():
            if key.startswith(start):
                row.setdefault(key.removeprefix(start), value)
    return row


def _role(data: DataSpec, domain: str) -> str:
    if domain in data.sources:
        return "source"
    return "target" if domain in data.targets else "test only"
