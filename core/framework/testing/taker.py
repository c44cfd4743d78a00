"""Fetches messages and leaves them unacknowledged until killed: ``python -m framework.testing.taker <recipe as JSON>``.

Prints the ids of the messages as one line of JSON.
"""

from __future__ import annotations

import json
import select
import sys
from importlib import import_module
from typing import Any, cast

from framework._boot import loader
from framework.api.transport import Queue, Transport
from framework.message import read_head


def main() -> None:
    """Fetch the messages, print their ids and wait."""
    recipe: dict[str, Any] = json.loads(sys.argv[1])
    sys.path[:] = recipe["path"]
    module, _, name = recipe["transport"].partition(":")
    kind = cast("type[Transport]", getattr(import_module(module), name))
    transport = kind(recipe["url"], loader.options("transport", name, kind, recipe["options"]), recipe["settings"])
    consumer = transport.consumer()
    consumer.prefetch(recipe["count"])
    consumer.add_queue(Queue(name=recipe["queue"]))
    taken: list[str] = []
    while len(taken) < recipe["count"]:
        batch = consumer.fetch(recipe["count"] - len(taken))
        taken += [str(read_head(delivery.payload).headers.id) for delivery in batch]
        if not batch:
            select.select([consumer.fileno()], [], [], 1)
    sys.stdout.write(json.dumps(taken) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    select.select([], [], [])


if __name__ == "__main__":
    main()
