"""The receiver: hands events to whoever wants them.

1. Subscribes a queue of its own to the events exchange, with the routing keys that were asked for.
2. `capture` calls a handler for each event: the one for its type, else the one called ``*``. It connects again, with
   back-off, when the connection is lost.
3. Each event gets `local_received`, the time at which it came by this machine's clock. `timestamp` stays as it was
   sent: seconds since the epoch, which need no time zone.
4. What cannot be read as an event is logged and skipped.

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

from framework.api.backoff import Backoff
from framework.api.transport import Exchange, Mailbox, Queue
from framework.exceptions import ConfigError, MessageError, TransportError
from framework.message import Payload, read
from framework.wire.serialization import decode_message

if TYPE_CHECKING:
    from framework.client.app import App

logger = logging.getLogger(__name__)

Handler = Callable[[dict[str, Any]], object]

#: Seconds between two attempts to connect: at first, and at the most.
_PAUSE_FIRST: Final = 0.1
_PAUSE_MAX: Final = 2.0


class Receiver:
    """Captures events. One thread captures; any thread may `stop` it."""

    def __init__(
        self,
        app: App,
        handlers: Mapping[str, Handler] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
    ) -> None:
        """`handlers` by type of event; `routing_key` chooses events in the broker: ``task.#``, ``worker.heartbeat``.

        `node_id` names the queue; a random one if None. A broker that sends events by fan-out (Redis) filters less. As
        workers send many task events in one message, with the key ``task.multi``, narrower keys than ``task.#`` miss
        some.
        """
        self._app = app
        self.handlers = dict(handlers or {})
        self.routing_key = routing_key
        self.node_id = node_id or str(uuid.uuid4())
        #: Called with the error when the connection is lost or cannot be had, and with None when it is there.
        self.on_connection: Callable[[TransportError | None], object] = lambda error: None
        self._stopped = False
        #: Seconds without an event after which the capture ends, and when that is.
        self._patience: float | None = None
        self._deadline: float | None = None
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)

    def queue(self) -> Queue:
        """Return the definition of the receiver's queue. Raises `ConfigError` for settings that exclude each other."""
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
        """Call handlers with events until `limit` have come, none has for `timeout` seconds, or `stop` is called.

        Returns how many came. None: without end. `wakeup`: ask the workers for a sign of life whenever the connection
        is made. What a handler raises ends the capture. Raises `ConfigError` where the broker has no fan-out.
        """
        count = 0
        for _event in self.itercapture(limit, timeout, wakeup):
            count += 1
        return count

    def itercapture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> Iterator[dict[str, Any]]:
        """Like `capture`, and yield each event after its handler."""
        if not self._app.transport.traits.fanout:
            raise ConfigError("this broker has no fan-out, so there are no events: use Redis, RabbitMQ or SQLite")
        queue = self.queue()
        left = limit
        backoff = Backoff(_PAUSE_FIRST, _PAUSE_MAX)
        self._patience = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        while not self._stopped:
            try:
                with closing(self._app.transport.mailbox()) as mailbox:
                    mailbox.subscribe(queue)
                    self.on_connection(None)
                    if wakeup:
                        self._app.control.heartbeat()
                    backoff.reset()
                    for event in self._events(mailbox):
                        self.process(event)
                        yield event
                        if left is not None:
                            left -= 1
                            if left <= 0:
                                return
                    return
            except TransportError as error:
                self.on_connection(error)
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    return
                self._sleep(backoff.next())

    def _events(self, mailbox: Mailbox) -> Iterator[dict[str, Any]]:
        """Yield events until none has come for too long, or `stop`."""
        while not self._stopped:
            arrived = mailbox.receive()
            for _exchange, payload in arrived:
                yield from self.read(payload)
            if arrived:
                if self._patience is not None:
                    self._deadline = time.monotonic() + self._patience
                continue
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            select.select([mailbox.fileno(), self._wake_read.fileno()], [], [], left)

    def process(self, event: dict[str, Any]) -> None:
        """Hand `event` to the handler for its type, else to the one called ``*``."""
        handler = self.handlers.get(event["type"]) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def stop(self) -> None:
        """End the capture, from any thread or a handler. The receiver is of no use afterwards."""
        self._stopped = True
        # Full: it wakes anyway. Closed: there is nothing to wake.
        with suppress(OSError):
            self._wake_write.send(b"\0")

    def close(self) -> None:
        """Stop, and let go of the receiver's descriptors; when nobody captures any more."""
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
        """Yield the events of one message; one that is none is logged, and skipped."""
        try:
            body = decode_message(read(payload), accept=["json", self._app.conf.settings.event.serializer])
        except MessageError as error:
            logger.warning("A message among the events cannot be read and is skipped: %s", error)
            return
        for event in body if isinstance(body, list) else (body,):
            if isinstance(event, dict) and isinstance(event.get("type"), str):
                event["local_received"] = time.time()
                yield event
            else:
                logger.warning("Something among the events is none, and is skipped: %.200r", event)


class BackgroundReceiver(threading.Thread):
    """A receiver in a thread of its own."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(name="framework-events", daemon=True)
        self.receiver = receiver
        #: What ended the capture, if it was not `stop`.
        self.error: BaseException | None = None

    def run(self) -> None:
        """Capture until stopped."""
        try:
            self.receiver.capture()
        except Exception as error:  # noqa: BLE001 - the background thread's wall: whoever looks at it tells
            self.error = error

    def close(self) -> None:
        """Stop and wait for the end."""
        self.receiver.stop()
        self.join(5)
        if not self.is_alive():
            self.receiver.close()
