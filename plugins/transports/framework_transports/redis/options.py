"""Options of the Redis transport, ``[transport.redis]``, with kombu's names where kombu has the option."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from framework_drivers.redis.options import RedisConnectionOptions, Seconds

#: Separates a queue from its priority, and the parts of a binding, in kombu's layout.
SEPARATOR: Final = "\x06\x16"

Strategy = Literal["round_robin", "sorted", "priority"]


def _doc(text: str, **bounds: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **bounds)


class RedisOptions(RedisConnectionOptions, kw_only=True):
    """Options of the Redis transport."""

    lease: Annotated[
        float, _doc("Seconds after which a dead worker's messages are redelivered to another worker.", gt=0)
    ] = 30.0
    priority_steps: Annotated[
        list[int], _doc("Priorities with a list of their own; the lowest number is served first.", min_length=1)
    ] = msgspec.field(default_factory=lambda: [0, 3, 6, 9])
    sep: Annotated[str, _doc("Separates names inside keys; all programs on the broker must agree.", min_length=1)] = (
        SEPARATOR
    )
    queue_order_strategy: Annotated[
        Strategy, _doc("The order in which a worker serves its queues: in turn, by name, or as listed.")
    ] = "round_robin"
    fanout_prefix: Annotated[
        bool | str, _doc("Prefix fan-out channels with the database's number, or with this text ({db}: the number).")
    ] = True
    fanout_patterns: Annotated[bool, _doc("Append the routing key to fan-out channels.")] = True
    global_keyprefix: Annotated[str, _doc("Prefix of every key and channel.")] = ""
    visibility_timeout: Annotated[
        float,
        _doc("Seconds after which messages that a Celery worker left unacknowledged are redelivered; 0: never.", ge=0),
    ] = 3600.0
    unacked_key: Annotated[str, _doc("The hash of Celery workers' unacknowledged messages.")] = "unacked"
    unacked_index_key: Annotated[str, _doc("The sorted set of Celery workers' unacknowledged messages, by time.")] = (
        "unacked_index"
    )
    socket_connect_timeout: Annotated[
        Seconds | None, _doc("Seconds to wait for a connection; unset: the broker's connection_timeout.")
    ] = None
    poll_interval: Annotated[
        Seconds, _doc("Seconds (rounded up) between two polls of empty queues, on servers older than Redis 6.")
    ] = 1.0
