"""Levels: the queues and exchanges in which RabbitMQ keeps a parked message for a duration.

1. `units` returns the duration in tenths of a second; its binary digits are the message's route through the levels.
2. `Levels` declares an exchange for each level, shared by all queues; and for each queue a queue on each level, up to
   the highest one used. All messages in it wait equally long, so that none waits behind a longer one.
3. `restore_headers` removes the traces of parking from a message.

Level n holds messages for 2ⁿ tenths of a second. A message is published to the exchange of its highest digit 1, which
routes it to that level's queue; the queue dead-letters it to the next lower exchange after the level's time. An
exchange routes a message with digit 0 to the next lower exchange, and the last exchange routes it to the task's queue.
The routing key is the digits, then the queue's name as one word.

Quorum queues dead-letter with confirmation: if the broker dies, the message is in one of two queues, or in both.
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

#: The prefix of the exchanges' names, and the name of the last exchange.
PARKING: Final = "framework.parking"
PARKING_BYTES: Final = PARKING.encode()
#: The message's original exchange and routing key, and the time of parking (s since the epoch).
HEADER: Final = "x-parked"
LEVELS: Final = 24
#: Seconds of the lowest level.
UNIT: Final = 0.1
#: The longest parking, about 19 days: a message due later is delivered and parked again.
_MAX_UNITS: Final = (1 << LEVELS) - 1
#: Above this delay (s) a message skips the lowest levels and is delivered early; the worker holds it for the rest. A
#: level passes on about a thousand confirmed messages a second, fewer when others are busy: of thousands due at once,
#: the last would be late by seconds.
_COARSE_FROM: Final = 10.0
_EARLY: Final = 3.0
_COARSE_LEVEL: Final = 4
#: Level names and routing keys are at most 255 bytes long.
_NAME_MAX: Final = 200
#: Headers that the broker adds on the way. By them it detects dead-letter cycles and drops the message; it would take
#: a second parking for a cycle.
_ADDED_HEADERS: Final = ("x-death", "x-first-death-", "x-last-death-")
#: Restarted for the copy, which has never been delivered.
_COUNT: Final = "x-delivery-count"


def units(seconds: float) -> int:
    """Return the units for which to park a message that is due in `seconds`."""
    if seconds > _COARSE_FROM:
        return min(_MAX_UNITS, int((seconds - _EARLY) / UNIT)) >> _COARSE_LEVEL << _COARSE_LEVEL
    return max(1, math.ceil(seconds / UNIT))


def can_wait(queue: Queue) -> bool:
    """Return whether messages of `queue` may be parked: the queue must still exist when they are due."""
    permanent = queue.durable and not (queue.exclusive or queue.auto_delete or queue.no_ack) and queue.expires is None
    return permanent and len(_word(queue.name)) <= _NAME_MAX


def exchange_of(count: int) -> str:
    """Return the exchange to publish a message to that is parked for `count` units."""
    return f"{PARKING}.{count.bit_length() - 1}"


def routing_key(count: int, name: str) -> str:
    """Return the routing key of a message of the queue `name` that is parked for `count` units."""
    return f"{'.'.join(format(count, f'0{LEVELS}b'))}.{_word(name)}"


def level_queues(name: str) -> Iterator[str]:
    """Yield the names of the level queues of the queue `name`, lowest first; the higher ones may not exist."""
    return (_level_queue(name, level) for level in range(LEVELS))


def parked_headers(headers: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers of the parked copy of a message."""
    kept = {name: value for name, value in headers.items() if name != _COUNT and not name.startswith(_ADDED_HEADERS)}
    info = properties.get("delivery_info") or {}
    kept[HEADER] = [info.get("exchange", ""), info.get("routing_key", ""), time()]
    return kept


def restore_headers(headers: dict[str, Any], name: str) -> tuple[str, str]:
    """Remove the broker's headers from `headers`; return the original exchange and routing key.

    Without the header of their own, these are the default exchange and `name`, the queue.
    """
    for header in [header for header in headers if header.startswith(_ADDED_HEADERS)]:
        del headers[header]
    match headers.get(HEADER):
        case [str(exchange), str(key), _]:
            return exchange, key
    return "", name


class Levels:
    """Declares missing levels on one connection; assumes that those it has declared still exist."""

    def __init__(self, connection: AmqpConnection) -> None:
        self._declarer = Declarer(connection)
        #: For each queue, the number of declared levels, from the lowest on.
        self._declared: dict[str, int] = {}

    def make(self, name: str, count: int) -> bool:
        """Declare the levels that a message of the queue `name` needs for `count` units.

        Returns whether any was missing. Raises `ChannelClosed`.
        """
        declared, wanted = self._declared.get(name, 0), count.bit_length()
        if declared < wanted:
            self._declarer.run(lambda channel: self._declare(channel, name, range(declared, wanted)))
            self._declared[name] = wanted
        return declared < wanted

    def _declare(self, channel: Channel, name: str, missing: range) -> None:
        if not self._declared:
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
        # The only call that waits: its reply proves that the broker has processed those before it.
        channel.queue_bind(name, PARKING, f"{'*.' * LEVELS}{word}")

    def _declare_exchanges(self, channel: Channel) -> None:
        # The lowest comes first: an existing exchange always has its targets.
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
