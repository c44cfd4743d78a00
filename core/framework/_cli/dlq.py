"""``framework dlq``: shows dead letters, replays their messages, or drops them.

1. Selects dead letters by id, task or reason; `replay` and `purge` require a selection or ``--all``.
2. Reads the dead-letter queues of all configured queues, or of the queues that ``-Q`` names.
3. Reserves all dead letters while a command runs, then requeues the rest unchanged, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from framework import exitcodes
from framework._boot import loader
from framework._cli.output import json_option, pass_session, print_json, print_table, split
from framework._cli.program import Section
from framework._cli.session import CommandSession
from framework.client.dead_letter_queue import DeadLetterQueue
from framework.client.routing import select_queues
from framework.exceptions import ConfigError, FrameworkError, MessageUndecodable
from framework.wire.safe_repr import NAME_MAX, printable

if TYPE_CHECKING:
    from framework.wire.dead_letter import DeadLetter


@click.group(cls=Section, help="Show dead letters, replay them, or drop them.")
def command() -> None:
    """Group the sub-commands."""


class _Choice(NamedTuple):
    """The selection of dead letters for a command."""

    ids: tuple[str, ...]
    queues: str | None
    task: str | None
    reason: str | None


def _choosing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select dead letters; `function` gets them as its argument `choice`."""

    @wraps(function)
    def choosing(*args: Any, **options: Any) -> Any:
        choice = _Choice(**{field: options.pop(field) for field in _Choice._fields})
        return function(*args, choice=choice, **options)

    decorated: Callable[..., Any] = choosing
    for option in (
        click.option("-r", "--reason", metavar="REASON", help="Only with this reason, e.g. max-deliveries."),
        click.option("-t", "--task", metavar="NAME", help="Only of this task."),
        click.option("-Q", "--queues", metavar="Q1,Q2", help="Only of these queues. Default: all configured queues."),
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        decorated = option(decorated)
    return decorated


@command.command("list", help="List dead letters with reason, original queue and time.")
@_choosing
@json_option
@pass_session
def list_(session: CommandSession, choice: _Choice, as_json: bool) -> int:
    """Print a table of the dead letters."""
    with _open_queues(session, choice) as queue:
        dead_letters = _chosen(queue, choice)
    if as_json:
        print_json([_summary(dead_letter) for dead_letter in dead_letters])
    elif dead_letters:
        columns = ("id", "task", "queue", "reason", "deliveries", "since", "text")
        print_table(session, columns, [_row(dead_letter) for dead_letter in dead_letters])
    else:
        click.echo("No dead letters.", err=True)
    return exitcodes.OK


@command.command(help="Show dead letters in full: headers, properties and body of the message.")
@_choosing
@json_option
@pass_session
def show(session: CommandSession, choice: _Choice, as_json: bool) -> int:
    """Print the dead letters with their messages."""
    with _open_queues(session, choice) as queue:
        dead_letters = _chosen(queue, choice)
    whole = [_summary(dead_letter) | _contents(dead_letter) for dead_letter in dead_letters]
    if as_json:
        print_json(whole)
        return exitcodes.OK
    for number, document in enumerate(whole):
        if number:
            click.echo()
        for name, value in document.items():
            if isinstance(value, dict):
                click.echo(f"{name}:")
                for key, item in value.items():
                    click.echo(printable(f"    {key}: {item!r}"))
            elif value is not None:
                click.echo(printable(f"{name}: {value}"))
    if not whole:
        click.echo("No dead letters.", err=True)
    return exitcodes.OK


@command.command(help="Send messages back to their original queue with their delivery count reset.")
@_choosing
@click.option("-a", "--all", "everything", is_flag=True, help="Select all dead letters.")
@click.option("--to", metavar="QUEUE", help="Send to this queue instead.")
@json_option
@pass_session
def replay(session: CommandSession, choice: _Choice, everything: bool, to: str | None, as_json: bool) -> int:
    """Publish the messages of dead letters again."""
    _require_choice(everything, choice)
    with _open_queues(session, choice) as queue:
        dead_letters = _chosen(queue, choice)
        stayed = queue.replay(dead_letters, to)
    sent = len(dead_letters) - len(stayed)
    if as_json:
        print_json({"replayed": sent, "stayed": [_summary(dead_letter) | {"why": why} for dead_letter, why in stayed]})
    else:
        click.echo(f"Replayed {_count(sent)}.")
    for dead_letter, why in stayed:
        click.echo(f"Stayed: {printable(dead_letter.id or 'without id', '', NAME_MAX)}: {printable(why)}", err=True)
    return exitcodes.REFUSED if stayed else exitcodes.OK


@command.command(help="Drop dead letters. This cannot be undone.")
@_choosing
@click.option("-a", "--all", "everything", is_flag=True, help="Select all dead letters.")
@click.option("-f", "--force", is_flag=True, help="Do not ask for confirmation.")
@json_option
@pass_session
def purge(session: CommandSession, choice: _Choice, everything: bool, force: bool, as_json: bool) -> int:
    """Drop dead letters."""
    _require_choice(everything, choice)
    with _open_queues(session, choice) as queue:
        dead_letters = _chosen(queue, choice)
        if dead_letters and not force:
            click.echo(f"This permanently drops {_count(len(dead_letters))}.", err=True)
            click.confirm("Continue?", abort=True, err=True)
        dropped = queue.drop(dead_letters)
    if as_json:
        print_json({"purged": dropped})
    else:
        click.echo(f"Purged {_count(dropped)}.")
    return exitcodes.OK


@contextmanager
def _open_queues(session: CommandSession, choice: _Choice) -> Iterator[DeadLetterQueue]:
    settings = session.app().conf.settings
    template = settings.task.dead_letter_queue
    if not template:
        raise ConfigError("there are no dead-letter queues: dead_letter_queue under [task] is empty")
    names = [template.format(queue=queue.name) for queue in select_queues(settings, split(choice.queues) or None, None)]
    transport = loader.make_transport(settings)
    try:
        with DeadLetterQueue(transport, names) as queue:
            yield queue
    finally:
        transport.close()


def _chosen(queue: DeadLetterQueue, choice: _Choice) -> list[DeadLetter]:
    """Return the dead letters in `queue` that `choice` selects. Raises `FrameworkError` for an unknown id."""
    ids, _queues, task, reason = choice
    found = [
        dead_letter
        for dead_letter in queue.dead_letters
        if (not ids or dead_letter.id in ids)
        and task in (None, dead_letter.task)
        and reason in (None, dead_letter.reason)
    ]
    if absent := [wanted for wanted in ids if wanted not in {dead_letter.id for dead_letter in found}]:
        raise FrameworkError(f"no such dead letter: {', '.join(absent)}; framework dlq list shows all")
    return found


def _require_choice(everything: bool, choice: _Choice) -> None:
    if not (everything or choice.ids or choice.task or choice.reason):
        raise click.UsageError("no dead letters selected: give ids, --task, --reason or --all")


def _summary(dead_letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": dead_letter.id,
        "task": dead_letter.task,
        "queue": dead_letter.queue,
        "reason": dead_letter.reason,
        "text": dead_letter.text,
        "deliveries": dead_letter.deliveries,
        "time": None if dead_letter.time is None else datetime.fromtimestamp(dead_letter.time).astimezone().isoformat(),
        "dead_letter_queue": dead_letter.dead_letter_queue,
    }


def _contents(dead_letter: DeadLetter) -> dict[str, Any]:
    try:
        message = dead_letter.message()
    except MessageUndecodable:
        return {"raw": dead_letter.envelope.decode(errors="backslashreplace")}
    return {
        "headers": message.headers,
        "properties": message.properties,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "body": message.body.decode(errors="backslashreplace"),
    }


def _row(dead_letter: DeadLetter) -> tuple[object, ...]:
    since = "" if dead_letter.time is None else f"{datetime.fromtimestamp(dead_letter.time):%Y-%m-%d %H:%M:%S}"
    return (
        *(printable(each or "-", "", NAME_MAX) for each in (dead_letter.id, dead_letter.task, dead_letter.queue)),
        dead_letter.reason,
        "-" if dead_letter.deliveries is None else dead_letter.deliveries,
        since,
        dead_letter.text if len(dead_letter.text) <= 80 else f"{dead_letter.text[:79]}…",
    )


def _count(number: int) -> str:
    return f"{number} dead letter{'' if number == 1 else 's'}"
