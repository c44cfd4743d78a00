"""``framework dlq``: looks at dead letters, sends their messages on their way again, or drops them.

1. Letters are chosen by id, by task, by reason, or all of them; what changes anything wants one of these.
2. The dead-letter queues are those of the queues that are configured; ``-Q`` names others.
3. Everything is on loan while a command runs and goes back as it was: looking changes nothing.
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

if TYPE_CHECKING:
    from framework.wire.dead_letter import DeadLetter


@click.group(cls=Section, help="Look at dead letters; send them again or drop them.")
def command() -> None:
    """Sub-commands only."""


class _Choice(NamedTuple):
    """Which letters a command is about."""

    ids: tuple[str, ...]
    queues: str | None
    task: str | None
    reason: str | None


def _choosing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose letters, which make up the argument `choice`."""

    @wraps(function)
    def choosing(*args: Any, **options: Any) -> Any:
        choice = _Choice(**{field: options.pop(field) for field in _Choice._fields})
        return function(*args, choice=choice, **options)

    decorated: Callable[..., Any] = choosing
    for option in (
        click.option("-r", "--reason", metavar="REASON", help="Only those that died of this, e.g. max-deliveries."),
        click.option("-t", "--task", metavar="NAME", help="Only those of this task."),
        click.option("-Q", "--queues", metavar="Q1,Q2", help="Of these queues. Default: all that are configured."),
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        decorated = option(decorated)
    return decorated


@command.command("list", help="List the letters: why, from which queue, when.")
@_choosing
@json_option
@pass_session
def list_letters(session: CommandSession, choice: _Choice, as_json: bool) -> int:
    """List."""
    with _box(session, choice) as box:
        letters = _chosen(box, choice)
    if as_json:
        print_json([_summary(letter) for letter in letters])
    elif letters:
        columns = ("id", "task", "queue", "reason", "tries", "buried", "text")
        print_table(session, columns, [_row(letter) for letter in letters])
    else:
        click.echo("No dead letters.", err=True)
    return exitcodes.OK


@command.command(help="Show letters whole: the message's headers, properties and body.")
@_choosing
@json_option
@pass_session
def show(session: CommandSession, choice: _Choice, as_json: bool) -> int:
    """Show."""
    with _box(session, choice) as box:
        letters = _chosen(box, choice)
    whole = [_summary(letter) | _contents(letter) for letter in letters]
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
                    click.echo(f"    {key}: {item!r}")
            elif value is not None:
                click.echo(f"{name}: {value}")
    if not whole:
        click.echo("No dead letters.", err=True)
    return exitcodes.OK


@command.command(help="Send messages to the queue that they came from, as if they had never been tried.")
@_choosing
@click.option("-a", "--all", "everything", is_flag=True, help="All of them.")
@click.option("--to", metavar="QUEUE", help="Send them to this queue instead.")
@json_option
@pass_session
def replay(session: CommandSession, choice: _Choice, everything: bool, to: str | None, as_json: bool) -> int:
    """Replay."""
    _want_a_choice(everything, choice)
    with _box(session, choice) as box:
        letters = _chosen(box, choice)
        stayed = box.replay(letters, to)
    sent = len(letters) - len(stayed)
    if as_json:
        print_json({"replayed": sent, "stayed": [_summary(letter) | {"why": why} for letter, why in stayed]})
    else:
        click.echo(f"Replayed {_count(sent)}.")
    for letter, why in stayed:
        click.echo(f"Stayed: {letter.id or 'without id'}: {why}", err=True)
    return exitcodes.REFUSED if stayed else exitcodes.OK


@command.command(help="Drop letters. There is no undo.")
@_choosing
@click.option("-a", "--all", "everything", is_flag=True, help="All of them.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@json_option
@pass_session
def purge(session: CommandSession, choice: _Choice, everything: bool, force: bool, as_json: bool) -> int:
    """Drop."""
    _want_a_choice(everything, choice)
    with _box(session, choice) as box:
        letters = _chosen(box, choice)
        if letters and not force:
            click.echo(f"This drops {_count(len(letters))} for good.", err=True)
            click.confirm("Go on?", abort=True, err=True)
        dropped = box.drop(letters)
    if as_json:
        print_json({"purged": dropped})
    else:
        click.echo(f"Purged {_count(dropped)}.")
    return exitcodes.OK


@contextmanager
def _box(session: CommandSession, choice: _Choice) -> Iterator[DeadLetterQueue]:
    settings = session.app().conf.settings
    template = settings.task.dead_letter_queue
    if not template:
        raise ConfigError("there are no dead-letter queues: dead_letter_queue under [task] is empty")
    names = [template.format(queue=queue.name) for queue in select_queues(settings, split(choice.queues) or None, None)]
    transport = loader.make_transport(settings)
    try:
        with DeadLetterQueue(transport, names) as box:
            yield box
    finally:
        transport.close()


def _chosen(box: DeadLetterQueue, choice: _Choice) -> list[DeadLetter]:
    """Return the letters of `box` that are asked for. Raises `FrameworkError` for an id that is not there."""
    ids, _queues, task, reason = choice
    found = [
        letter
        for letter in box.dead_letters
        if (not ids or letter.id in ids) and task in (None, letter.task) and reason in (None, letter.reason)
    ]
    if absent := [wanted for wanted in ids if wanted not in {letter.id for letter in found}]:
        raise FrameworkError(f"no such dead letter: {', '.join(absent)} (framework dlq list shows all)")
    return found


def _want_a_choice(everything: bool, choice: _Choice) -> None:
    if not (everything or choice.ids or choice.task or choice.reason):
        raise click.UsageError("which letters? Give ids, --task or --reason, or --all")


def _summary(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "task": letter.task,
        "queue": letter.queue,
        "reason": letter.reason,
        "text": letter.text,
        "deliveries": letter.deliveries,
        "time": None if letter.time is None else datetime.fromtimestamp(letter.time).astimezone().isoformat(),
        "dead_letter_queue": letter.dead_letter_queue,
    }


def _contents(letter: DeadLetter) -> dict[str, Any]:
    try:
        message = letter.message()
    except MessageUndecodable:
        return {"raw": letter.envelope.decode(errors="backslashreplace")}
    return {
        "headers": message.headers,
        "properties": message.properties,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "body": message.body.decode(errors="backslashreplace"),
    }


def _row(letter: DeadLetter) -> tuple[object, ...]:
    buried = "" if letter.time is None else f"{datetime.fromtimestamp(letter.time):%Y-%m-%d %H:%M:%S}"
    return (
        letter.id or "-",
        letter.task or "-",
        letter.queue or "-",
        letter.reason,
        "-" if letter.deliveries is None else letter.deliveries,
        buried,
        letter.text if len(letter.text) <= 80 else f"{letter.text[:79]}…",
    )


def _count(number: int) -> str:
    return f"{number} {'letter' if number == 1 else 'letters'}"
