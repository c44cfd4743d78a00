"""The reaper: puts back messages that dead workers left unacknowledged.

1. `reap` puts the messages of one lapsed lease back to the front of their queue, marked as redelivered, with their
   count raised. A script swaps in the new payloads if the messages are still leased.
2. `take_over` does the same for messages that Celery workers left unacknowledged past the visibility timeout.
3. `uptime` returns how long the server has been up: a worker that could not renew its lease before may be alive.

Any number of workers may do this at once: one of them puts each message back.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from typing import Any, Final

import msgspec

from framework.message import delivery_count, mark_redelivered
from framework_drivers.redis.resp import RedisConnection, ScriptCall, ServerError
from framework_transports._routing import matches
from framework_transports.redis.consumed_queue import ConsumedQueue
from framework_transports.redis.keys import Keys
from framework_transports.redis.scripts import script

logger = logging.getLogger(__name__)

#: Messages rewritten in one round trip.
_PAGE: Final = 200
#: Messages taken over at once; later heartbeats take over the rest.
_TAKE_OVER: Final = 100

_UPTIME: Final = re.compile(r"uptime_in_seconds:(\d+)")
_EVICTS: Final = re.compile(r"maxmemory_policy:(allkeys-\w+)")


def reap(connection: RedisConnection, keys: Keys, consumed: ConsumedQueue, dead: str) -> int:
    """Put back the messages that consumer `dead` has leased from the queue; return how many."""
    lease = keys.lease(consumed.name, dead)
    # The oldest is pushed last, so that it is served first.
    fields = sorted(connection.call("HKEYS", lease), key=_sequence, reverse=True)
    count = 0
    for start in range(0, max(len(fields), 1), _PAGE):
        page = fields[start : start + _PAGE]
        args: list[Any] = [dead]
        for field, payload in zip(page, connection.call("HMGET", lease, *page) if page else (), strict=True):
            if payload is not None:
                args += (field, mark_redelivered(payload, delivery_count(payload) + 1))
        restored = connection.run([ScriptCall(script("restore"), (lease, consumed.leases, *consumed.lists), args)])[0]
        if restored < 0:
            break
        count += restored
    if count:
        logger.warning("Put back %d messages that worker %s left unacknowledged in %s", count, dead, consumed.name)
    return count


def _sequence(field: bytes) -> int:
    return int(field.partition(b":")[0])


def take_over(connection: RedisConnection, keys: Keys, visibility_timeout: float) -> int:
    """Put back messages that Celery workers took more than `visibility_timeout` seconds ago; return how many."""
    seconds, microseconds = connection.call("TIME")
    overdue = f"{int(seconds) + int(microseconds) / 1e6 - visibility_timeout:.6f}"
    tags = connection.call("ZRANGEBYSCORE", keys.unacked_index, "-inf", overdue, "LIMIT", 0, _TAKE_OVER)
    if not tags:
        return 0
    count = 0
    for tag, entry in zip(tags, connection.call("HMGET", keys.unacked, *tags), strict=True):
        found = _read_entry(entry)
        if found is None:
            continue
        message, exchange, routing_key = found
        queues = [routing_key] if not exchange else _queues(connection, keys, exchange, routing_key)
        if not queues:
            continue
        properties = message.get("properties")
        priority = properties.get("priority") if isinstance(properties, dict) else None
        lists = [keys.list_for(queue, priority if isinstance(priority, int) else 0) for queue in queues]
        payload = msgspec.json.encode(message)
        payload = mark_redelivered(payload, delivery_count(payload) + 1)
        names = (keys.unacked_index, keys.unacked, *lists)
        count += connection.run([ScriptCall(script("takeover"), names, (tag, overdue, payload))])[0]
    if count:
        logger.warning(
            "Put back %d messages that Celery workers left unacknowledged for %g s", count, visibility_timeout
        )
    return count


def _read_entry(entry: bytes | None) -> tuple[dict[str, Any], str, str] | None:
    """Parse an unacknowledged entry: ``[message, exchange, routing key]``."""
    try:
        return msgspec.json.decode(entry or b"", type=tuple[dict[str, Any], str, str])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def _queues(connection: RedisConnection, keys: Keys, exchange: str, routing_key: str) -> list[str]:
    bindings = keys.read_members(connection.call("SMEMBERS", keys.bindings(exchange)))
    found = {
        binding.queue
        for binding in bindings
        if (matches(binding.routing_key, routing_key) if binding.pattern else binding.routing_key == routing_key)
    }
    return sorted(found)


def warn_of_eviction(connection: RedisConnection) -> None:
    """Log a warning if the server drops keys, and so whole queues, when its memory is full."""
    with suppress(ServerError):  # forbidden to this user
        reply = connection.call("INFO", "memory")
        found = _EVICTS.search(reply if isinstance(reply, str) else reply.decode(errors="replace"))
        if found is not None:
            logger.warning(
                "%s evicts keys when its memory is full (maxmemory-policy %s): whole queues are lost then; set "
                "maxmemory-policy noeviction",
                connection.address.display,
                found[1],
            )


def uptime(connection: RedisConnection, unknown: float) -> float:
    """Return for how many seconds the server has been up; `unknown` where it does not report it."""
    try:
        reply = connection.call("INFO", "server")
    except ServerError:  # forbidden to this user
        return unknown
    found = _UPTIME.search(reply if isinstance(reply, str) else reply.decode(errors="replace"))
    return int(found[1]) if found is not None else unknown
