"""Celery's delayed delivery: the queues through which its clients send what is for later, with quorum queues.

1. `declare` makes what such a client expects of a worker: 28 levels of seconds, named and made as Celery does, and the
   way from the last of them to a queue's exchange. Only for quorum queues behind a topic exchange: to others it sends
   the ordinary way.
2. `original_key` takes the digits from the routing key of a message that has come that way.

We send nothing there ourselves: see `levels`.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Final

from amqp import Channel

from framework.api.transport import Queue
from framework_transports.amqp.connection import ChannelClosed
from framework_transports.amqp.topology import Declarer, counts_on_queue

logger = logging.getLogger(__name__)

PREFIX: Final = "celery_delayed_"
PREFIX_BYTES: Final = PREFIX.encode()
_DELIVERY: Final = "celery_delayed_delivery"
_HIGHEST: Final = 27
_DIGITS: Final = re.compile(rf"(?:[01]\.){{{_HIGHEST + 1}}}")


def expected(queue: Queue) -> bool:
    """Say whether a Celery client would send what is for later in `queue` that way."""
    return queue.exchange.type == "topic" and counts_on_queue(queue)


def declare(declarer: Declarer, queue: Queue, kind: str) -> None:
    """Make the levels, where nobody has, in queues of `kind`, and lead from there to `queue`; a refusal is logged."""
    try:
        if not declarer.has_exchange(f"{PREFIX}{_HIGHEST}"):
            declarer.run(lambda channel: _declare_levels(channel, kind))
        declarer.run(lambda channel: _lead(channel, queue))
    except ChannelClosed as closed:
        logger.warning(
            "What Celery clients send to %s for later will not come: the broker refuses the queues for it (%s)",
            queue.name,
            closed.text,
        )


def _declare_levels(channel: Channel, kind: str) -> None:
    channel.exchange_declare(_DELIVERY, "topic", durable=True, auto_delete=False, nowait=True)
    # The highest last: whoever finds it finds all that it leads to.
    for level in range(_HIGHEST + 1):
        name = f"{PREFIX}{level}"
        after = f"{PREFIX}{level - 1}" if level else _DELIVERY
        arguments: dict[str, Any] = {
            "x-queue-type": kind,
            "x-overflow": "reject-publish",
            "x-message-ttl": 1000 << level,
            "x-dead-letter-exchange": after,
        }
        if kind == "quorum":
            arguments["x-dead-letter-strategy"] = "at-least-once"
        before = "*." * (_HIGHEST - level)
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments, nowait=True)
        channel.exchange_declare(name, "topic", durable=True, auto_delete=False, nowait=True)
        channel.queue_bind(name, name, f"{before}1.#", nowait=True)
        channel.exchange_bind(after, name, f"{before}0.#")


def _lead(channel: Channel, queue: Queue) -> None:
    key = f"#.{queue.routing_key}"
    channel.exchange_bind(queue.exchange.name, _DELIVERY, key)
    channel.queue_bind(queue.name, queue.exchange.name, key)


def original_key(key: str) -> str:
    """Return the routing key `key` as it was sent."""
    return _DIGITS.sub("", key, count=1) if _DIGITS.match(key) else key
