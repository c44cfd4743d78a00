"""The worker's connection for remote control and events.

1. Connects at start, and again when the connection is lost: at once if it was stable, else with back-off. Logs each
   reason once until the connection is stable, and that it is back.
2. `listen` subscribes a queue, again on every new connection, and passes its messages to a handler.
3. `post` sends without waiting for the broker. It returns False and sends nothing without a connection, or while the
   broker accepts no data: the caller keeps or drops the messages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from framework.api.backoff import PAUSE_MAX, STABLE, Backoff
from framework.api.loop import Loop, Timer
from framework.api.transport import Mailbox, Queue, Transport
from framework.exceptions import ConnectionLost, TransportError
from framework.message import Outgoing, Payload
from framework.wire.clock import Clock

logger = logging.getLogger(__name__)

#: Handles a message; returns the reply to send, or None.
Handler = Callable[[Payload], Outgoing | None]


class ControlConnection:
    """Keeps one mailbox of the transport open. Everything but the constructor runs in the loop."""

    def __init__(self, loop: Loop, transport: Transport) -> None:
        self._loop = loop
        self._transport = transport
        #: The logical clock: stamps sent messages, and advances with received ones.
        self.clock = Clock()
        #: The subscribed queues, and the handlers by exchange name.
        self._queues: list[Queue] = []
        self._handlers: dict[str, Handler] = {}
        self._mailbox: Mailbox | None = None
        #: The mailbox's descriptor; a mailbox that lost its connection no longer returns it.
        self._fd = -1
        self._backoff = Backoff(maximum=PAUSE_MAX)
        #: The next attempt to connect.
        self._timer: Timer | None = None
        #: The loop's time of the latest connection.
        self._since = 0.0
        #: Number of unstable connections in a row.
        self._short = 0
        #: The reasons logged since the connection was stable.
        self._reasons_logged: set[str] = set()
        self._back_logged = True
        self._heartbeat_timer: Timer | None = None
        self._closed = False
        self._before_subscribing: list[Callable[[], object]] = []
        self._on_connect: list[Callable[[], object]] = []

    @property
    def events_exchange_type(self) -> str:
        """The type of the exchange of events on this broker."""
        return self._transport.traits.events_exchange

    def listen(self, queue: Queue, handler: Handler) -> None:
        """Subscribe `queue` and call `handler` with the messages of its exchange."""
        self._queues.append(queue)
        self._handlers[queue.exchange.name] = handler
        if self._mailbox is not None:
            try:
                self._subscribe(self._mailbox, queue)
            except TransportError as error:
                self._reconnect(error)
                return
            # Messages that arrived already must not wait until the descriptor is readable again.
            self._loop.call_soon(self._read)

    def _subscribe(self, mailbox: Mailbox, queue: Queue) -> None:
        """Subscribe `queue`. Raises `ConnectionLost`; what the broker refuses is logged, and the others are kept."""
        try:
            mailbox.subscribe(queue)
        except ConnectionLost:
            raise
        except TransportError as error:
            self._log_once("The broker refuses to pass on what is sent to %s: %s", queue.exchange.name, error)

    def prepare(self, callback: Callable[[], object]) -> None:
        """Call `callback` on every new connection, before it subscribes."""
        self._before_subscribing.append(callback)

    def notify(self, callback: Callable[[], object]) -> None:
        """Call `callback` on every new connection, and at once if connected."""
        self._on_connect.append(callback)
        if self._mailbox is not None:
            callback()

    def start(self) -> None:
        """Connect, now or as soon as the broker can be reached."""
        self._connect()

    def hurry(self) -> None:
        """Connect now if there is no connection: the broker can be reached again."""
        if self._timer is not None:
            self._timer.cancel()
            self._connect()

    @property
    def ready(self) -> bool:
        """Whether `post` would send now."""
        return self._mailbox is not None and not self._mailbox.congested

    def post(self, messages: Sequence[Outgoing]) -> bool:
        """Send `messages`; return whether they were sent."""
        mailbox = self._mailbox
        if mailbox is None or mailbox.congested:
            return False
        try:
            mailbox.send(messages)
        except TransportError as error:
            self._reconnect(error)
            return False
        return True

    # ------------------------------------------------------------ the connection

    def _connect(self) -> None:
        self._timer = None
        if self._closed:
            return
        try:
            mailbox = self._transport.mailbox()
            try:
                for callback in self._before_subscribing:
                    callback()
                for queue in self._queues:
                    self._subscribe(mailbox, queue)
            except TransportError:
                mailbox.close()
                raise
        except TransportError as error:
            self._log_outage("Remote control and events are unavailable until the broker can be reached: %s", error)
            self._timer = self._loop.call_later(self._backoff.next(), self._connect)
            return
        self._since = self._loop.time()
        if self._short <= 1:
            self._log_back()  # else when it is stable
        self._loop.call_later(STABLE, self._check_stable, mailbox)
        if mailbox.heartbeat_interval is not None:
            self._heartbeat_timer = self._loop.call_every(mailbox.heartbeat_interval, self._heartbeat)
        self._mailbox = mailbox
        self._fd = mailbox.fileno()
        self._loop.add_reader(self._fd, self._read)
        self._loop.call_soon(self._read)
        for callback in self._on_connect:
            callback()

    def _log_outage(self, text: str, error: TransportError) -> None:
        self._log_once(text, error)
        self._back_logged = False

    def _log_once(self, text: str, *arguments: object) -> None:
        reason = str(arguments[-1])
        level = logging.DEBUG if reason in self._reasons_logged else logging.WARNING
        logger.log(level, text, *arguments)
        self._reasons_logged.add(reason)

    def _log_back(self) -> None:
        if not self._back_logged:
            self._back_logged = True
            logger.info("Remote control and events are available again")

    def _check_stable(self, mailbox: Mailbox) -> None:
        if mailbox is self._mailbox:
            self._log_back()
            self._backoff.reset()
            self._reasons_logged.clear()
            self._short = 0

    def _heartbeat(self) -> None:
        self._read()
        if self._mailbox is not None:
            try:
                self._mailbox.heartbeat()
            except TransportError as error:
                self._reconnect(error)

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
            # A handler that called `post` may have noticed the loss already.
            if self._mailbox is mailbox:
                self._reconnect(error)

    def _reconnect(self, error: TransportError) -> None:
        self._log_outage("Remote control and events lost their connection, reconnecting: %s", error)
        self._disconnect()
        delay = 0.0
        if self._loop.time() - self._since < STABLE:
            self._short += 1
            delay = self._backoff.next()
        self._timer = self._loop.call_later(delay, self._connect)

    def _disconnect(self) -> None:
        if self._heartbeat_timer is not None:
            self._heartbeat_timer.cancel()
        if self._mailbox is not None:
            self._loop.remove_reader(self._fd)
            self._mailbox.close()
            self._mailbox = None

    def close(self) -> None:
        """Disconnect; no new connection follows."""
        self._closed = True
        self._disconnect()
