"""Event messages: the format that senders and receivers of events share.

1. The body is one event, a mapping, or a list of events with the routing key ``<group>.multi``.
2. `outgoing` makes the message; `utc_offset` is the time zone that accompanies every timestamp.

Source: the events of Celery 5; section 8 of the wire protocol.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from framework.message import JSON, UTF8, Outgoing
from framework.wire.serialization import encode

#: The largest number of events in one message.
BATCH: Final = 250
_json: Final = msgspec.json.Encoder().encode


def utc_offset() -> float:
    """Return how many hours local time is behind UTC: positive west of Greenwich."""
    return -time.localtime().tm_gmtoff / 3600


def routing_key(event_type: str) -> str:
    """Return the routing key of an event of this type."""
    return event_type.replace("-", ".")


def outgoing(
    body: msgspec.Struct | Mapping[str, Any] | Sequence[Any],
    key: str,
    sender: str,
    *,
    exchange: str,
    exchange_type: str,
    serializer: str = "json",
) -> Outgoing:
    """Return the message that carries `body`, an event or a list of events, with the routing key `key`.

    Raises `ValueError` or `TypeError` for a value that the serializer cannot encode (a lone surrogate, for example).
    """
    if serializer == "json":
        content_type, content_encoding, data = JSON, UTF8, _json(body)
    else:
        content_type, content_encoding, data, _mime = encode(msgspec.to_builtins(body), serializer)
    return Outgoing(
        body=data,
        headers={"hostname": sender},
        exchange=exchange,
        exchange_type=exchange_type,
        routing_key=key,
        content_type=content_type,
        content_encoding=content_encoding,
        delivery_mode=1,
    )
