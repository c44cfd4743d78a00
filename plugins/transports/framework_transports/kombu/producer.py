"""The producer: publishes through kombu, one message after another."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from framework.api.transport import Producer, Queue
from framework.exceptions import ConnectionLost, PublishRefused, TransportError
from framework.message import Outgoing
from framework_transports.kombu.broker import KombuBroker, library


class KombuProducer(Producer):
    """Publishes through kombu; thread-safe, fork-safe."""

    def __init__(self, connect: Callable[[], KombuBroker]) -> None:
        self._connect = connect
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._broker: KombuBroker | None = connect()

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish all of `messages`, one after another, because kombu has no batches."""
        kombu = library()
        with self._held() as broker:
            producer = kombu.Producer(broker.channel, auto_declare=False)
            for number, message in enumerate(messages):
                try:
                    with broker.errors():
                        _publish(producer, message)
                except ConnectionLost:
                    raise
                except TransportError as error:
                    rest = frozenset(range(number, len(messages)))
                    raise PublishRefused(str(error), rest, temporary=error.temporary) from error

    def declare(self, queues: Iterable[Queue]) -> None:
        """Create exchanges, queues and bindings that do not exist."""
        with self._held() as broker, broker.errors():
            for queue in queues:
                broker.declare(queue)

    @contextmanager
    def _held(self) -> Iterator[KombuBroker]:
        if self._pid != os.getpid():
            # A forked child must not use the parent's connection or lock.
            self._pid, self._lock, self._broker = os.getpid(), threading.Lock(), None
        with self._lock:
            if self._broker is None:
                self._broker = self._connect()
            try:
                yield self._broker
            except ConnectionLost:
                broken, self._broker = self._broker, None
                if broken is not None:
                    broken.close()
                raise

    def close(self) -> None:
        """Close the connection; harmless when closed."""
        if self._pid == os.getpid():
            broker, self._broker = self._broker, None
            if broker is not None:
                broker.close()


def _publish(producer: Any, message: Outgoing) -> None:
    try:
        producer.publish(
            message.body,
            routing_key=message.routing_key,
            exchange=message.exchange,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=message.headers,
            delivery_mode=message.delivery_mode,
            priority=message.priority,
            expiration=None if message.expiration is None else message.expiration / 1000,
            **_properties(message),
        )
    except (TypeError, ValueError) as error:
        raise PublishRefused(f"the message {message.headers.get('id')!r} cannot be sent: {error}") from error


def _properties(message: Outgoing) -> dict[str, Any]:
    properties = dict(message.properties or {})
    if message.correlation_id is not None:
        properties.setdefault("correlation_id", message.correlation_id)
    if message.reply_to is not None:
        properties.setdefault("reply_to", message.reply_to)
    return properties
