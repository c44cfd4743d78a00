"""``framework queues``: shows the queues that a worker consumes, with their waiting and parked messages."""

from __future__ import annotations

import click

from framework._boot import loader
from framework._cli.output import json_option, pass_session, print_json, print_table, split
from framework._cli.session import CommandSession
from framework.client.routing import select_queues


@click.command(help="Show the queues and the number of waiting and parked messages in each.")
@click.option("-Q", "--queues", metavar="Q1,Q2", help="Only these queues.")
@json_option
@pass_session
def command(session: CommandSession, queues: str | None, as_json: bool) -> None:
    """Print a table of the queues."""
    settings = session.app().conf.settings
    chosen = select_queues(settings, split(queues) or None, None)
    transport = loader.make_transport(settings)
    try:
        sizes = transport.sizes(chosen)
        parked = transport.parked(chosen)
    finally:
        transport.close()
    if as_json:
        print_json(
            [
                {
                    "queue": queue.name,
                    "waiting": sizes.get(queue.name),
                    "parked": parked.get(queue.name),
                    "exchange": queue.exchange.name,
                    "exchange_type": queue.exchange.type,
                    "routing_key": queue.routing_key,
                }
                for queue in chosen
            ]
        )
        return
    rows = [(queue.name, _waiting(sizes.get(queue.name)), str(parked.get(queue.name, 0))) for queue in chosen]
    print_table(session, ("queue", "waiting", "parked"), rows)


def _waiting(size: int | None) -> str:
    return "(does not exist yet)" if size is None else str(size)
