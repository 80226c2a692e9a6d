"""The one table that a command prints."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from tlkit.types import DataSpec

__all__ = ["print_table"]

_WIDEST = 200  # columns, where there is no terminal to fit the table into


def print_table(data: DataSpec, metrics: Mapping[str, float], prefixes: tuple[str, ...], title: str, note: str) -> None:
    """Print domains x metrics.

    Args:
        data: Domains and their roles.
        metrics: Logged key (``test/mnist/accuracy``) -> value.
        prefixes: The first parts of the keys to show; the first one that a domain has counts.
        title: Above the table.
        note: Below the table; may be empty.
    """
    rows = {domain: _of_domain(domain, metrics, prefixes) for domain in data.domains}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table()
    table.add_column("domain")
    table.add_column("role")
    for name in names:
        table.add_column(name, justify="right")
    for domain, row in rows.items():
        if row:
            cells = (f"{row[name]:.3f}" if name in row else "" for name in names)
            table.add_row(domain, _role(data, domain), *cells)
    print(title)
    console = Console(highlight=False)
    console.print(table, width=None if console.is_terminal else _WIDEST)
    if note:
        print(note)


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
