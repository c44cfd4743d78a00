"""Prints tables on a terminal, with rich."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from framework.wire.safe_repr import printable


def print_rich_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, no_color: bool) -> None:
    """Print a table that is at most as wide as the terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        # Fold instead of cutting: a cut URL cannot be copied.
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    Console(no_color=no_color or None).print(table)
