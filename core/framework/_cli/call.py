"""``framework call NAME``: sends a task by name and prints its id."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
import msgspec

from framework import exitcodes
from framework._cli.output import json_option, pass_session, print_json
from framework._cli.result import report
from framework._cli.session import CommandSession
from framework.wire.identity import new_id


def parsed(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Parse JSON: a list for ``--args``, an object for ``--kwargs``."""
    if value is None:
        return None
    kind, name, example = (list, "list", "'[2, 3]'") if param.name == "args" else (dict, "object", "'{\"x\": 2}'")
    try:
        found = msgspec.json.decode(value)
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, kind):
        raise click.BadParameter(f"{value!r} is not a JSON {name}; wanted something like {example}", ctx, param)
    return found


def when(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | float | None:
    """Parse an ISO date or, for ``--expires``, a number of seconds."""
    if value is None:
        return None
    if param.name == "expires":
        try:
            return float(value)
        except ValueError:
            pass
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        wanted = "seconds or a date" if param.name == "expires" else "a date"
        raise click.BadParameter(
            f"{value!r} is not {wanted}; wanted something like 2030-01-31T12:00:00Z", ctx, param
        ) from None
    return found.astimezone() if found.tzinfo is None else found


@click.command(help="Send the task NAME and print its id. With --wait, wait for its result and print it too.")
@click.argument("name")
@click.option("-a", "--args", callback=parsed, metavar="JSON", help="Arguments: a JSON list.")
@click.option("-k", "--kwargs", callback=parsed, metavar="JSON", help="Keyword arguments: a JSON object.")
@click.option("--eta", callback=when, metavar="DATE", help="Not before this time (ISO; local without an offset).")
@click.option("--countdown", type=float, metavar="S", help="Not before this many seconds from now.")
@click.option("--expires", callback=when, metavar="DATE|S", help="Not after this time, or this many seconds from now.")
@click.option("--serializer", metavar="NAME", help="Serializer of the message.")
@click.option("--queue", metavar="NAME", help="Queue to send to.")
@click.option("--exchange", metavar="NAME", help="Exchange to publish to.")
@click.option("--routing-key", metavar="KEY", help="Routing key of the message.")
@click.option("--wait", is_flag=True, help="Wait for the result; nothing is sent if results cannot be read.")
@click.option("--timeout", type=float, metavar="S", help="With --wait: wait at most this long.")
@json_option
@pass_session
def command(
    session: CommandSession,
    /,
    name: str,
    args: list[Any] | None,
    kwargs: dict[str, Any] | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Send the task."""
    app = session.app()
    given = {key: value for key, value in options.items() if value is not None}
    if wait:
        # Raises if results are not kept or the result store is away, before anything is sent; any id will do.
        app.AsyncResult(new_id()).ready()
    try:
        result = app.send_task(name, args=tuple(args or ()), kwargs=kwargs or {}, **given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if wait:
        if not as_json and not session.quiet:
            click.echo(result.id, err=True)
        return report(result, timeout, False, as_json)
    if as_json:
        print_json({"id": result.id})
    else:
        click.echo(result.id)
    return exitcodes.OK
