"""The line: the worker's one connection for what it is told and what it tells, remote control and events alike.

1. Connects when it starts, and again, with back-off, when the connection is lost; each outage is told once.
2. `listen` subscribes a queue, on every connection anew, and hands what arrives to a handler.
3. `post` sends without waiting for the broker. Without a connection, or while the broker takes nothing, it says so and
   sends nothing: what becomes of the messages is their sender's affair.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from framework.api.backoff import PAUSE_MAX, Backoff
from framework.api.loop import Loop
from framework.api.transport import Mailbox, Queue, Transport
from framework.exceptions import TransportError
from framework.message import Outgoing, Payload
from framework.wire.clock import Clock

logger = logging.getLogger(__name__)

#: Gets a message, returns the reply to send, if any.
Handler = Callable[[Payload], Outgoing | None]


class ControlConnection:
    """Everything but the constructor runs in the loop."""

    def __init__(self, loop: Loop, transport: Transport) -> None:
        self._loop = loop
        self._transport = transport
        #: What is sent here is stamped with it, and what comes in moves it on.
        self.clock = Clock()
        #: The queues to subscribe, and handlers by the name of their exchange.
        self._queues: list[Queue] = []
        self._handlers: dict[str, Handler] = {}
        self._mailbox: Mailbox | None = None
        #: Its descriptor; a mailbox whose connection is lost does not tell it any more.
        self._fd = -1
        self._backoff = Backoff(maximum=PAUSE_MAX)
        self._closed = False
        self._connected: list[Callable[[], object]] = []

    @property
    def events_exchange_type(self) -> str:
        """The type of exchange that events travel through on this broker."""
        return self._transport.traits.events_exchange

    def listen(self, queue: Queue, handler: Handler) -> None:
        """Subscribe `queue` and call `handler` with what its exchange brings."""
        self._queues.append(queue)
        self._handlers[queue.exchange.name] = handler
        if self._mailbox is not None:
            try:
                self._mailbox.subscribe(queue)
            except TransportError as error:
                self._lose(error)
                return
            # What arrived before the first look must not wait for the next message.
            self._loop.call_soon(self._read)

    def notify(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever there is a connection that was not there before; at once if there is one."""
        self._connected.append(callback)
        if self._mailbox is not None:
            callback()

    def start(self) -> None:
        """Connect, now or as soon as the broker lets us."""
        self._connect()

    @property
    def ready(self) -> bool:
        """Whether `post` would send now."""
        return self._mailbox is not None and not self._mailbox.congested

    def post(self, messages: Sequence[Outgoing]) -> bool:
        """Send `messages`; return whether they were handed to the broker."""
        mailbox = self._mailbox
        if mailbox is None or mailbox.congested:
            return False
        try:
            mailbox.send(messages)
        except TransportError as error:
            self._lose(error)
            return False
        return True

    # ------------------------------------------------------------ the connection

    def _connect(self) -> None:
        if self._closed:
            return
        try:
            mailbox = self._transport.mailbox()
            try:
                for queue in self._queues:
                    mailbox.subscribe(queue)
            except TransportError:
                mailbox.close()
                raise
        except TransportError as error:
            # Once per outage: the consumer, which has the same broker, tells of every attempt.
            level = logging.DEBUG if self._backoff.attempts else logging.WARNING
            logger.log(level, "Remote control and events are away until the broker is back: %s", error)
            self._loop.call_later(self._backoff.next(), self._connect)
            return
        if self._backoff.attempts:
            logger.info("Remote control and events are back")
        self._backoff.reset()
        self._mailbox = mailbox
        self._fd = mailbox.fileno()
        self._loop.add_reader(self._fd, self._read)
        self._loop.call_soon(self._read)
        for callback in self._connected:
            callback()

    def _read(self) -> None:
        mailbox = self._mailbox
        if mailbox is None:
            return
        try:
            for exchange, payload in mailbox.receive():
                handler = self._handlers.get(exchange)
                reply = handler(payload) if handler is not None else None
                if reply is not None:
                    mailbox.send([reply])
        except TransportError as error:
            # A handler may have posted, and found out before us.
            if self._mailbox is mailbox:
                self._lose(error)

    def _lose(self, error: TransportError) -> None:
        logger.warning("Remote control and events lost their connection: %s", error)
        self._drop()
        self._loop.call_soon(self._connect)

    def _drop(self) -> None:
        if self._mailbox is not None:
            self._loop.remove_reader(self._fd)
            self._mailbox.close()
            self._mailbox = None

    def close(self) -> None:
        """Disconnect for good."""
        self._closed = True
        self._drop()
