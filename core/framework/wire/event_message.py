"""Events as messages: what senders and receivers of events agree on.

1. One event is a mapping; many are a list of them, sent as ``<group>.multi``.
2. `outgoing` makes the message, `utc_offset` the zone that goes with every timestamp.

Source: the events of Celery 5; section 8 of the wire protocol.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from framework.message import JSON, UTF8, Outgoing
from framework.wire.serialization import encode

#: Events in one message, at the most.
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
    """Return the message that carries `body`, an event or a list of them, with the routing key `key`.

    Raises `ValueError` or `TypeError` for what the serializer cannot encode (text with half a surrogate pair is one).
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
