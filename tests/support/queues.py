"""Looking at and into queues behind the worker's back, with each broker's own client.

1. `waiting` counts the messages of a queue that nobody has taken.
2. `push` puts raw messages there, however wrong they are.
"""

from __future__ import annotations

import base64
import json
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import amqp
import redis


def _amqp(url: str) -> amqp.Connection:
    parts = urlsplit(url)
    connection = amqp.Connection(
        f"{parts.hostname}:{parts.port}", parts.username, parts.password, virtual_host=parts.path[1:] or "/"
    )
    connection.connect()
    return connection


def _sqlite(url: str) -> Any:
    # Imported here: most users of this module never need it.
    from framework_transports.sqlite import SqliteTransport

    return SqliteTransport(url, SqliteTransport.options_type(), {})


def waiting(url: str, queue: str = "celery") -> int:
    """Return how many messages wait in `queue`; a queue that does not exist is empty."""
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            return sum(client.llen(queue + suffix) for suffix in ("", "\x06\x163", "\x06\x166", "\x06\x169"))
    if url.startswith("amqp"):
        with closing(_amqp(url)) as connection:
            try:
                return connection.channel().queue_declare(queue, passive=True).message_count
            except amqp.NotFound:
                return 0
    from framework.api.transport import Queue

    with closing(_sqlite(url)) as transport:
        return transport.sizes([Queue(name=queue)])[queue] or 0


def push(
    url: str,
    body: bytes,
    headers: dict[str, Any],
    *,
    queue: str = "celery",
    content_type: str = "application/json",
    content_encoding: str = "utf-8",
    properties: dict[str, Any] | None = None,
) -> None:
    """Put one message on `queue`, unchecked; the queue must exist on AMQP."""
    properties = properties or {}
    if url.startswith("redis"):
        push_bytes(url, envelope(body, headers, queue, content_type, content_encoding, properties), queue)
    elif url.startswith("amqp"):
        with closing(_amqp(url)) as connection:
            message = amqp.Message(
                body,
                application_headers=headers,
                content_type=content_type,
                content_encoding=content_encoding,
                **properties,
            )
            connection.channel().basic_publish_confirm(message, routing_key=queue)
    else:
        from framework.message import Outgoing

        with closing(_sqlite(url)) as transport, closing(transport.producer()) as producer:
            outgoing = Outgoing(
                body=body,
                headers=headers,
                routing_key=queue,
                content_type=content_type,
                content_encoding=content_encoding,
                properties=properties,
            )
            producer.publish([outgoing])


def push_bytes(url: str, raw: bytes, queue: str = "celery") -> None:
    """Put bytes that need not even be an envelope on a Redis queue."""
    with redis.Redis.from_url(url) as client:
        client.lpush(queue, raw)


def envelope(
    body: bytes,
    headers: dict[str, Any],
    queue: str = "celery",
    content_type: str = "application/json",
    content_encoding: str = "utf-8",
    properties: dict[str, Any] | None = None,
) -> bytes:
    """Return what lies in a Redis list for such a message."""
    own = {
        "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": queue},
        "delivery_mode": 2,
        "delivery_tag": "00000000-0000-0000-0000-000000000000",
    }
    document = {
        "body": base64.b64encode(body).decode(),
        "content-type": content_type,
        "content-encoding": content_encoding,
        "headers": headers,
        "properties": own | (properties or {}),
    }
    return json.dumps(document).encode()
