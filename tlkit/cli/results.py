"""The one table that a command prints."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from tlkit.types import DataSpec

__all__ = ["print_table"]

_WIDEST = 200  # columns, where there is no terminal to fit the table into


def print_table(data: DataSpec, metrics: Mapping[str, float], prefixes: tuple[str, ...], title: str, note: str) -> None:
    """Print domains x metrics; the ends of an interval (``auroc_low``, ``auroc_high``) stand with its value.

    Args:
        data: Domains and their roles.
        metrics: Logged key (``test/mnist/accuracy``) -> value.
        prefixes: The first parts of the keys to show; the first one that a domain has counts.
        title: Above the table.
        note: Below the table; may be empty.
    """
    rows = {domain: _of_domain(domain, metrics, prefixes) for domain in data.domains}
    names = list(dict.fromkeys(name for row in rows.values() for name in row if not _is_end(name, row)))
    table = Table()
    table.add_column("domain")
    table.add_column("role")
    for name in names:
        table.add_column(name, justify="right")
    for domain, row in rows.items():
        if row:
            table.add_row(domain, _role(data, domain), *(_cell(name, row) for name in names))
    print(title)
    console = Console(highlight=False)
    console.print(table, width=None if console.is_terminal else _WIDEST)
    if note:
        print(note)


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
