"""Celery's native delayed delivery: queues through which Celery's clients send messages with an ETA to quorum queues.

1. `declare` declares 28 levels of seconds as Celery does, and binds the last one to a queue's exchange. Celery's
   clients expect this of a worker, for quorum queues behind a topic exchange only.
2. `original_key` removes the delay's digits from the routing key of a delayed message.

This transport parks its own messages elsewhere: see `levels`.
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
    """Return whether Celery's clients use native delayed delivery for `queue`."""
    return queue.exchange.type == "topic" and counts_on_queue(queue)


def declare(declarer: Declarer, queue: Queue, kind: str) -> None:
    """Declare missing levels as queues of type `kind`, and bind them to `queue`; log a refusal."""
    try:
        if not declarer.has_exchange(f"{PREFIX}{_HIGHEST}"):
            declarer.run(lambda channel: _declare_levels(channel, kind))
        declarer.run(lambda channel: _bind_queue(channel, queue))
    except ChannelClosed as closed:
        logger.warning(
            "Messages with an ETA from Celery clients will not reach %s: the broker refused a declaration (%s)",
            queue.name,
            closed.text,
        )


def _declare_levels(channel: Channel, kind: str) -> None:
    channel.exchange_declare(_DELIVERY, "topic", durable=True, auto_delete=False, nowait=True)
    # The highest comes last: when it exists, all levels below it exist.
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


def _bind_queue(channel: Channel, queue: Queue) -> None:
    key = f"#.{queue.routing_key}"
    channel.exchange_bind(queue.exchange.name, _DELIVERY, key)
    channel.queue_bind(queue.name, queue.exchange.name, key)


def original_key(key: str) -> str:
    """Return the routing key `key` without the digits of the delay."""
    return _DIGITS.sub("", key, count=1) if _DIGITS.match(key) else key
