"""``framework queues``: shows the queues that a worker consumes, with their waiting and parked messages.

1. Counts the messages of all queues.
2. ``peek`` shows the first messages of one queue, and leaves them there.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from framework import exitcodes
from framework._boot import loader
from framework._cli.output import json_option, pass_session, print_json, print_table, split
from framework._cli.program import Section
from framework._cli.session import CommandSession
from framework.client.routing import known_as, select_queues
from framework.exceptions import FrameworkError, MessageUndecodable
from framework.message import read

if TYPE_CHECKING:
    from framework.api.transport import Peeked

#: The most characters of a value in the table.
_WIDTH: Final = 60


@click.group(
    cls=Section,
    invoke_without_command=True,
    help="Show the queues and the number of waiting and parked messages in each; with peek, the messages.",
)
@click.option("-Q", "--queues", metavar="Q1,Q2", help="Only these queues.")
@json_option
@pass_session
@click.pass_context
def command(context: click.Context, session: CommandSession, queues: str | None, as_json: bool) -> None:
    """Print a table of the queues, unless a sub-command follows."""
    if context.invoked_subcommand is not None:
        return
    settings = session.app().conf.settings
    chosen = select_queues(settings, split(queues) or None, None)
    transport = loader.make_transport(settings)
    try:
        counted = [queue for queue in chosen if not queue.broadcast]
        sizes = transport.sizes(counted)
        parked = transport.parked(counted)
    finally:
        transport.close()
    if as_json:
        print_json(
            [
                {
                    "queue": known_as(queue),
                    "waiting": sizes.get(queue.name),
                    "parked": parked.get(queue.name),
                    "exchange": queue.exchange.name,
                    "exchange_type": queue.exchange.type,
                    "routing_key": queue.routing_key,
                    "broadcast": queue.broadcast,
                }
                for queue in chosen
            ]
        )
        return
    rows = [
        (known_as(queue), "(a queue for each worker)", "")
        if queue.broadcast
        else (queue.name, _waiting(sizes.get(queue.name)), str(parked.get(queue.name, 0)))
        for queue in chosen
    ]
    print_table(session, ("queue", "waiting", "parked"), rows)


@command.command(help="Show the first messages of a queue, the next one first, and leave them there.")
@click.argument("name")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="At most so many.")
@click.option("--parked", is_flag=True, help="Show the messages parked for later, the nearest first.")
@json_option
@pass_session
def peek(session: CommandSession, name: str, limit: int, parked: bool, as_json: bool) -> int:
    """Print a table of the messages of one queue."""
    settings = session.app().conf.settings
    (queue,) = select_queues(settings, [name], None)
    with closing(loader.make_transport(settings)) as transport:
        size = transport.parked([queue])[name] if parked else transport.sizes([queue])[name]
        found = transport.peek(queue, limit, parked=parked)
    kind = "parked" if parked else "waiting"
    if found is None:
        raise FrameworkError(
            f"this broker cannot show the {kind} messages of a queue; the queue {name!r} has {size or 0} of them"
        )
    messages = [_summary(peeked) for peeked in found]
    if as_json:
        print_json({"queue": name, kind: size, "messages": messages})
        return exitcodes.OK
    columns = ("id", "task", "args", "kwargs", "eta")
    print_table(session, columns, [[_cell(message[column]) for column in columns] for message in messages])
    if size is None:
        click.echo(f"The queue {name} does not exist yet.", err=True)
    elif size > len(messages):
        click.echo(f"{size - len(messages)} more {kind}: -n shows up to 1000.", err=True)
    return exitcodes.OK


def _summary(peeked: Peeked) -> dict[str, Any]:
    """Return what is shown of a message: the reprs that its sender has made, as nothing else is decoded here."""
    try:
        incoming = read(peeked.payload)
        headers, properties = incoming.headers, incoming.properties
    except MessageUndecodable as error:
        return {"id": None, "task": f"({error})", "args": None, "kwargs": None, "eta": None, "due": None, "headers": {}}
    return {
        "id": headers.get("id") or properties.get("correlation_id"),
        "task": headers.get("task"),
        "args": headers.get("argsrepr"),
        "kwargs": headers.get("kwargsrepr"),
        "eta": headers.get("eta"),
        "due": None if peeked.due is None else datetime.fromtimestamp(peeked.due, UTC).isoformat(),
        "priority": properties.get("priority"),
        "headers": headers,
    }


def _cell(value: object) -> str:
    """Return `value` for one line of a terminal, which control characters from outside must not reach."""
    text = "" if value is None else str(value)
    text = "".join(each if each.isprintable() else "?" for each in text)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def _waiting(size: int | None) -> str:
    return "(does not exist yet)" if size is None else str(size)
