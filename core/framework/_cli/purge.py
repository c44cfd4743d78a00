"""``framework purge``: drops all waiting and parked messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from framework import exitcodes
from framework._boot import loader
from framework._cli.output import json_option, pass_session, print_json, split
from framework._cli.session import CommandSession
from framework.client.routing import select_queues

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.api.transport import Queue


@click.command(help="Drop all waiting and parked messages of all queues. This cannot be undone.")
@click.option("-f", "--force", is_flag=True, help="Do not ask for confirmation.")
@click.option("-Q", "--queues", metavar="Q1,Q2", help="Only these queues.")
@click.option("-X", "--exclude-queues", metavar="Q1,Q2", help="All but these queues.")
@json_option
@pass_session
def command(session: CommandSession, force: bool, queues: str | None, exclude_queues: str | None, as_json: bool) -> int:
    """Drop the messages after a confirmation."""
    settings = session.app().conf.settings
    chosen = select_queues(settings, split(queues) or None, split(exclude_queues) or None)
    if not force:
        names = ", ".join(queue.name for queue in chosen)
        click.echo(f"This drops all waiting and parked messages of {_count(len(chosen), 'queue')}: {names}.", err=True)
        click.confirm("Continue?", abort=True, err=True)
    dropped = purge(settings, chosen)
    total = sum(dropped.values())
    if as_json:
        print_json({"purged": total, "queues": dropped})
    elif total:
        click.echo(f"Purged {_count(total, 'message')} from {_count(len(chosen), 'known task queue')}.")
    else:
        click.echo(f"No messages purged from {_count(len(chosen), 'queue')}")
    return exitcodes.OK


def purge(settings: Settings, queues: Sequence[Queue]) -> dict[str, int]:
    """Drop all messages in `queues`; return the number of dropped messages for each queue name."""
    transport = loader.make_transport(settings)
    try:
        return {queue.name: transport.purge(queue) for queue in queues}
    finally:
        transport.close()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
