"""``framework graph``: draws the steps of the worker."""

from __future__ import annotations

from typing import Any

import click

from framework import exitcodes
from framework._boot.drawing import drawings, render
from framework._cli.config import resolved
from framework._cli.output import json_option, pass_session, print_json
from framework._cli.session import CommandSession
from framework.exceptions import FrameworkError


class CannotWrite(FrameworkError):
    """The drawing's file cannot be written."""

    exit_code = exitcodes.CANT_CREATE


@click.command(help="Draw the steps of the worker and the steps that are created anew for each connection.")
@click.argument("which", type=click.Choice(["worker", "consumer"]), required=False)
@click.option(
    "-f", "--format", "form", type=click.Choice(["text", "dot", "mermaid", "svg"]), default="text", show_default=True
)
@click.option("--explain", is_flag=True, help="Give the reason why each step runs or not (text only).")
@click.option("-o", "--output", metavar="FILE", help="Write to this file. Default: print.")
@json_option
@pass_session
def command(
    session: CommandSession, which: str | None, form: Any, explain: bool, output: str | None, as_json: bool
) -> None:
    """Print or write the drawings."""
    # Start-up time: this imports the whole worker, which `--help` does not need.
    from framework.worker.steps.builtin import graphs

    settings = resolved(session).settings
    found = drawings(graphs(settings), settings)
    # An SVG file holds a single drawing.
    wanted = which or ("worker" if form == "svg" else None)
    chosen = [drawing for drawing in found if wanted in (None, drawing.name)]
    if as_json:
        print_json(chosen)
        return
    text = "\n".join(render(drawing, form, explain) for drawing in chosen)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        with open(output, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise CannotWrite(f"cannot write {output}: {error.strerror}") from None
