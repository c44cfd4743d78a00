"""Prints tables for people and JSON for programs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from framework._cli.session import CommandSession
from framework.wire.safe_repr import printable, printable_json

#: ``--json``, for every command that prints data.
json_option = click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
pass_session = click.make_pass_decorator(CommandSession, ensure=True)


def note(text: str, *, err: bool = True, newline: bool = True) -> None:
    """Print `text`, on standard error by default; a command that changes something continues if nobody can read it."""
    with contextlib.suppress(OSError):
        click.echo(text, err=err, nl=newline)


def print_json(value: Any) -> None:
    """Print `value` as indented JSON; objects that JSON cannot represent are printed as their repr."""
    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=repr), indent=2)
    click.echo(printable_json(text.decode()))


def print_table(session: CommandSession, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: with rich on a terminal, as plain columns otherwise."""
    if sys.stdout.isatty():
        # Start-up time: only a terminal needs rich.
        from framework._cli.rich_table import print_rich_table

        print_rich_table(columns, rows, no_color=session.no_color)
        return
    texts = [[printable(str(cell)) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[index]) for row in texts) for index in range(len(columns))]
    for row in texts:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def split(text: str | None) -> list[str]:
    """Return the items of a comma-separated list."""
    return [item.strip() for item in (text or "").split(",") if item.strip()]
