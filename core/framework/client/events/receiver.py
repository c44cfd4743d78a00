"""The receiver of events.

1. Binds its own queue to the events exchange, with the given routing key.
2. `capture` calls a handler for each event: that for its type, else ``*``. After a lost connection, it connects again
   with back-off.
3. Adds `local_received` to each event: the time of arrival by the local clock. `timestamp` is not changed: it is in
   seconds since the epoch, without a time zone.
4. Logs and skips messages that are not events.

Source: the events of Celery 5; section 8 of the wire protocol.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final

from framework.api.backoff import STABLE, Backoff
from framework.api.transport import Exchange, Mailbox, Queue
from framework.exceptions import ConfigError, MessageError, TransportError
from framework.message import Payload, read
from framework.wire.serialization import decode_message

if TYPE_CHECKING:
    from framework.client.app import App

logger = logging.getLogger(__name__)

Handler = Callable[[dict[str, Any]], object]

#: The first and the longest pause between two attempts to connect, in seconds.
_PAUSE_FIRST: Final = 0.1
_PAUSE_MAX: Final = 2.0


class Receiver:
    """Captures events in one thread; any thread may `stop` it."""

    def __init__(
        self,
        app: App,
        handlers: Mapping[str, Handler] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
    ) -> None:
        """`handlers` by type of event; `routing_key` selects events in the broker: ``task.#``, ``worker.heartbeat``.

        `node_id` names the queue; None: a random name. A broker with a fan-out exchange for events (Redis) does not
        select. Workers send many task events in one message with the key ``task.multi``, so a key narrower than
        ``task.#`` misses some.
        """
        self._app = app
        self.handlers = dict(handlers or {})
        self.routing_key = routing_key
        self.node_id = node_id or str(uuid.uuid4())
        #: Called with None after connecting, and with the error when the connection is lost or fails.
        self.on_connection: Callable[[TransportError | None], object] = lambda error: None
        self._stopped = False
        #: Seconds without an event after which the capture ends, and the monotonic time of that end.
        self._timeout: float | None = None
        self._deadline: float | None = None
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)

    def queue(self) -> Queue:
        """Return the definition of the receiver's queue. Raises `ConfigError` for contradictory settings."""
        settings = self._app.conf.settings.event
        if settings.queue_exclusive and settings.queue_durable:
            raise ConfigError(
                "queue_exclusive and queue_durable under [event] exclude each other: set one of them to false"
            )
        kind = self._app.transport.traits.events_exchange
        return Queue(
            name=f"{settings.queue_prefix}.{self.node_id}",
            exchange=Exchange(settings.exchange, kind),
            routing_key=self.routing_key,
            durable=settings.queue_durable,
            exclusive=settings.queue_exclusive,
            auto_delete=not settings.queue_durable,
            message_ttl=settings.queue_ttl,
            expires=settings.queue_expires,
            no_ack=True,
        )

    def capture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> int:
        """Call handlers with events until `limit` have arrived, none for `timeout` seconds, or `stop` is called.

        Returns the number of events. None: no limit. `wakeup`: request a heartbeat of the workers after each connect.
        An exception of a handler ends the capture. Raises `ConfigError` if the broker has no fan-out, `TransportError`
        if it refuses to pass on events.
        """
        return sum(1 for _event in self.itercapture(limit, timeout, wakeup))

    def itercapture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> Iterator[dict[str, Any]]:
        """Like `capture`, and yield each event after its handler."""
        if not self._app.transport.traits.fanout:
            raise ConfigError("this broker has no fan-out and so no events: use Redis, RabbitMQ or SQLite")
        queue = self.queue()
        left = limit
        backoff = Backoff(_PAUSE_FIRST, _PAUSE_MAX)
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        while not self._stopped:
            since = time.monotonic()
            try:
                with closing(self._app.transport.mailbox()) as mailbox:
                    mailbox.subscribe(queue)
                    self.on_connection(None)
                    if wakeup:
                        self._request_heartbeats()
                    since = time.monotonic()
                    for event in self._events(mailbox):
                        self.process(event)
                        yield event
                        if left is not None:
                            left -= 1
                            if left <= 0:
                                return
                    return
            except TransportError as error:
                if not error.temporary:
                    raise
                if time.monotonic() - since >= STABLE:
                    backoff.reset()
                self.on_connection(error)
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    return
                self._sleep(backoff.next())

    def _request_heartbeats(self) -> None:
        try:
            self._app.control.heartbeat()
        except TransportError as error:
            # An account that may only listen waits for the next heartbeats.
            if error.temporary:
                raise

    def _events(self, mailbox: Mailbox) -> Iterator[dict[str, Any]]:
        """Yield events until the deadline has passed or `stop` is called."""
        interval = mailbox.heartbeat_interval
        next_heartbeat = time.monotonic()
        while not self._stopped:
            arrived = mailbox.receive()
            for _exchange, payload in arrived:
                yield from self.read(payload)
            if arrived:
                if self._timeout is not None:
                    self._deadline = time.monotonic() + self._timeout
                continue
            now = time.monotonic()
            left = None if self._deadline is None else self._deadline - now
            if left is not None and left <= 0:
                return
            if interval is not None:
                if now >= next_heartbeat:
                    mailbox.heartbeat()
                    next_heartbeat = now + interval
                left = min(interval, interval if left is None else left)
            select.select([mailbox.fileno(), self._wake_read.fileno()], [], [], left)

    def process(self, event: dict[str, Any]) -> None:
        """Call the handler for the type of `event`, else that for ``*``."""
        handler = self.handlers.get(event["type"]) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def stop(self) -> None:
        """End the capture for good, from any thread or from a handler."""
        self._stopped = True
        # A full socket wakes the capture anyway; a closed one has no capture to wake.
        with suppress(OSError):
            self._wake_write.send(b"\0")

    def close(self) -> None:
        """Stop and close the receiver's descriptors, after the end of the capture."""
        self.stop()
        self._wake_read.close()
        self._wake_write.close()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _sleep(self, seconds: float) -> None:
        select.select([self._wake_read], [], [], seconds)

    def read(self, payload: Payload) -> Iterator[dict[str, Any]]:
        """Yield the events of one message; log and skip anything else in it."""
        try:
            body = decode_message(read(payload), accept=["json", self._app.conf.settings.event.serializer])
        except MessageError as error:
            logger.warning("Skipping an unreadable event message: %s", error)
            return
        for event in body if isinstance(body, list) else (body,):
            if isinstance(event, dict) and isinstance(event.get("type"), str):
                event["local_received"] = time.time()
                yield event
            else:
                logger.warning("Skipping a malformed event: %.200r", event)


class BackgroundReceiver(threading.Thread):
    """A thread that captures events with a receiver."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(name="framework-events", daemon=True)
        self.receiver = receiver
        #: The exception that ended the capture.
        self.error: BaseException | None = None

    def run(self) -> None:
        """Capture until stopped."""
        try:
            self.receiver.capture()
        except Exception as error:  # noqa: BLE001 - the background thread's wall: the owner reports `error`
            self.error = error

    def close(self) -> None:
        """Stop and wait for the end."""
        self.receiver.stop()
        self.join(5)
        if not self.is_alive():
            self.receiver.close()
