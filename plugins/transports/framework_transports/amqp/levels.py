"""Levels: the queues and exchanges in which RabbitMQ itself keeps a message for a length of time.

1. `units` says for how many tenths of a second to park; in binary digits, that is the way through the levels.
2. `Levels` declares: for each level an exchange, for all queues together; for each queue, up to the highest level that
   is used, a queue whose messages all wait equally long, so that none waits behind one that has longer to wait.
3. `brought_back` makes of a message that comes from there what it was before.

Level n holds messages for 2ⁿ tenths of a second. A message is published to the exchange of its highest digit that is 1:
that exchange feeds the queue of its level, whose messages go on to the next exchange when their time there is over; the
exchanges pass on what has a 0 there. The last exchange feeds the queues that tasks wait in. The routing key has the
digits and the queue's name, as one word.

Quorum queues hand on with confirmation: a message is in one of two queues, or in both, whenever the broker dies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from time import time
from typing import Any, Final
from urllib.parse import quote

from amqp import Channel

from framework.api.transport import Queue
from framework_transports.amqp.connection import AmqpConnection
from framework_transports.amqp.topology import Declarer

#: What every exchange's name begins with, and the name of the last one.
PARKING: Final = "framework.parking"
PARKING_BYTES: Final = PARKING.encode()
#: Where the message came from: exchange, routing key, and when it was parked (s since the epoch).
HEADER: Final = "x-parked"
LEVELS: Final = 24
#: Seconds of the lowest level.
UNIT: Final = 0.1
#: Nothing is parked for longer, about 19 days: it comes by, and is parked again.
_MOST: Final = (1 << LEVELS) - 1
#: From so many seconds on a message comes early and passes none of the lowest levels; the worker holds it for the rest.
#: A level hands on some thousand messages a second, confirmed, and fewer while others do, too: of thousands that are
#: due at once the last ones would be late by seconds.
_COARSE: Final = 10.0
_EARLY: Final = 3.0
_LOWEST: Final = 4
#: Level names and routing keys are at most 255 bytes long.
_NAME_MAX: Final = 200
#: Headers that the broker adds on the way. It drops a message that would come to a queue twice by itself, which is
#: what it would take the second parking of a message for.
_WORN: Final = ("x-death", "x-first-death-", "x-last-death-")
#: Counted anew: what comes back has never been handed out.
_COUNT: Final = "x-delivery-count"


def units(seconds: float) -> int:
    """Return for how many units to park a message that is due in so many seconds."""
    if seconds > _COARSE:
        return min(_MOST, int((seconds - _EARLY) / UNIT)) >> _LOWEST << _LOWEST
    return max(1, math.ceil(seconds / UNIT))


def can_wait(queue: Queue) -> bool:
    """Say whether messages of `queue` may be parked: it must still be there when they come back."""
    lasting = queue.durable and not (queue.exclusive or queue.auto_delete or queue.no_ack) and queue.expires is None
    return lasting and len(_word(queue.name)) <= _NAME_MAX


def exchange_of(count: int) -> str:
    """Return the exchange to which a message for `count` units is published."""
    return f"{PARKING}.{count.bit_length() - 1}"


def routing_key(count: int, name: str) -> str:
    """Return the routing key of a message for `count` units that belongs to the queue `name`."""
    return f"{'.'.join(format(count, f'0{LEVELS}b'))}.{_word(name)}"


def level_queues(name: str) -> Iterator[str]:
    """Yield the names of the queues in which messages of the queue `name` may be parked; the higher may not exist."""
    return (_level_queue(name, level) for level in range(LEVELS))


def parked_headers(headers: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers of a message that is to be parked now."""
    kept = {name: value for name, value in headers.items() if name != _COUNT and not name.startswith(_WORN)}
    info = properties.get("delivery_info") or {}
    kept[HEADER] = [info.get("exchange", ""), info.get("routing_key", ""), time()]
    return kept


def brought_back(headers: dict[str, Any], name: str) -> tuple[str, str]:
    """Take from `headers` what the way added; return exchange and routing key as they were at first.

    `name`: the queue, for a message that does not say where it came from.
    """
    for header in [header for header in headers if header.startswith(_WORN)]:
        del headers[header]
    match headers.get(HEADER):
        case [str(exchange), str(key), _]:
            return exchange, key
    return "", name


class Levels:
    """Declares what is missing, on one link; what it has declared it takes to be there."""

    def __init__(self, connection: AmqpConnection) -> None:
        self._declarer = Declarer(connection)
        #: For each queue, how many levels there are, from the lowest on.
        self._made: dict[str, int] = {}

    def make(self, name: str, count: int) -> bool:
        """Declare what a message for `count` units of the queue `name` needs; return whether something was missing.

        Raises `ChannelClosed`.
        """
        made, wanted = self._made.get(name, 0), count.bit_length()
        if made < wanted:
            self._declarer.run(lambda channel: self._declare(channel, name, range(made, wanted)))
            self._made[name] = wanted
        return made < wanted

    def _declare(self, channel: Channel, name: str, missing: range) -> None:
        if not self._made:
            self._declare_exchanges(channel)
        word = _word(name)
        for level in missing:
            queue = _level_queue(name, level)
            arguments = {
                "x-queue-type": "quorum",
                "x-message-ttl": round(UNIT * 1000) << level,
                "x-dead-letter-exchange": _exchange(level - 1),
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            }
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments, nowait=True)
            key = f"{'*.' * (LEVELS - 1 - level)}1.{'*.' * level}{word}"
            channel.queue_bind(queue, _exchange(level), key, nowait=True)
        # The last one is waited for: then all is there, in order.
        channel.queue_bind(name, PARKING, f"{'*.' * LEVELS}{word}")

    def _declare_exchanges(self, channel: Channel) -> None:
        # The lowest first: whoever finds one finds all that it leads to.
        for level in range(-1, LEVELS):
            channel.exchange_declare(_exchange(level), "topic", durable=True, auto_delete=False, nowait=True)
            if level >= 0:
                key = f"{'*.' * (LEVELS - 1 - level)}0.#"
                channel.exchange_bind(_exchange(level - 1), _exchange(level), key, nowait=True)


def _exchange(level: int) -> str:
    return PARKING if level < 0 else f"{PARKING}.{level}"


def _level_queue(name: str, level: int) -> str:
    return f"framework.parked.{name}.{level}"


def _word(name: str) -> str:
    """Return `name` as one word of a routing key."""
    return quote(name, safe="").replace(".", "%2E")
