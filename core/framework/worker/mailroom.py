"""The mailroom: takes remote-control requests from the broker's fan-out and sends the replies.

1. Subscribes the node's control queue to ``<control_exchange>.pidbox``; connects again, with back-off, when that is
   lost.
2. Reads requests: decodes, skips those meant for others, has the panel answer, replies where a reply is wanted.
3. What comes from outside is bounded: a request that cannot be read is a log line; a pattern is matched as a glob, or
   as a regular expression that is short.

Source: the request and reply shapes of kombu's pidbox.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from framework._matching import matches
from framework.api.loop import Loop
from framework.api.transport import Exchange, Mailbox, Queue, Transport
from framework.exceptions import MessageError, TransportError
from framework.message import Outgoing, Payload, read
from framework.serialization import decode, encode
from framework.worker.backoff import Backoff
from framework.worker.clock import Clock
from framework.worker.panel import Panel

logger = logging.getLogger(__name__)


class Request(msgspec.Struct):
    """A control request; unknown keys are ignored."""

    method: str
    arguments: dict[str, Any] = {}
    destination: list[str] | None = None
    pattern: str | None = None
    matcher: str | None = None
    ticket: str | None = None
    reply_to: dict[str, Any] | None = None


class Mailroom:
    """Answers control requests."""

    def __init__(
        self,
        loop: Loop,
        transport: Transport,
        panel: Panel,
        clock: Clock,
        hostname: str,
        control: Any,
        accept: list[str],
    ) -> None:
        """`control` is the ``[control]`` table of the settings."""
        self._loop = loop
        self._transport = transport
        self._panel = panel
        self._clock = clock
        self._hostname = hostname
        self._accept = accept
        self._exchange = f"{control.exchange}.pidbox"
        self._queue = Queue(
            name=f"{hostname}.{self._exchange}",
            exchange=Exchange(name=self._exchange, type="fanout", durable=False, delivery_mode=1),
            durable=control.queue_durable,
            exclusive=control.queue_exclusive,
            auto_delete=True,
            expires=control.queue_expires,
            message_ttl=control.queue_ttl,
            no_ack=True,
        )
        self._mailbox: Mailbox | None = None
        #: Its descriptor; a mailbox whose connection is lost does not tell it any more.
        self._fd = -1
        self._backoff = Backoff()
        self._closed = False
        self.state: Any = None

    def start(self, state: Any) -> None:
        """Connect and answer requests; commands get `state`. Called in the loop."""
        self.state = state
        self._connect()

    def _connect(self) -> None:
        if self._closed:
            return
        try:
            mailbox = self._transport.mailbox()
            mailbox.subscribe(self._queue)
        except TransportError as error:
            # Once per outage: the consumer, which has the same broker, tells of every attempt.
            level = logging.DEBUG if self._backoff.attempts else logging.WARNING
            logger.log(level, "Remote control is away until the broker is back: %s", error)
            self._loop.call_later(self._backoff.next(), self._connect)
            return
        if self._backoff.attempts:
            logger.info("Remote control is back")
        self._backoff.reset()
        self._mailbox = mailbox
        self._fd = mailbox.fileno()
        self._loop.add_reader(self._fd, self._read)
        # What arrived between the subscription and the first look must not wait for the next request.
        self._loop.call_soon(self._read)

    def _read(self) -> None:
        mailbox = self._mailbox
        if mailbox is None:
            return
        try:
            for _exchange, payload in mailbox.receive():
                try:
                    reply = self._answer(payload)
                except Exception:  # one request must not take the others along
                    # The other requests of the batch are not to blame.
                    logger.exception("A control request cannot be answered and is dropped")
                    continue
                if reply is not None:
                    mailbox.send([reply])
        except TransportError as error:
            logger.warning("Remote control lost its connection: %s", error)
            self._drop()
            self._connect()

    def _answer(self, payload: Payload) -> Outgoing | None:
        self._clock.forward()
        try:
            incoming = read(payload)
            self._clock.adjust(incoming.headers.get("clock"))
            body = decode(
                incoming.body,
                incoming.content_type,
                incoming.content_encoding,
                incoming.headers.get("compression"),
                accept=self._accept,
            )
            request = msgspec.convert(body, Request)
        except (MessageError, msgspec.ValidationError) as error:
            logger.error("A control request cannot be read and is dropped: %s", error)
            return None
        if not self._is_for_me(request):
            return None
        logger.debug("Control request %s %s", request.method, request.arguments)
        reply = self._panel.answer(self.state, request.method, request.arguments)
        if isinstance(reply, dict) and "error" in reply:
            logger.error("Control request %s failed: %s", request.method, reply["error"])
        if request.reply_to is None:
            return None
        return self._reply(request.reply_to, request.ticket, reply)

    def _is_for_me(self, request: Request) -> bool:
        if request.destination:
            return self._hostname in request.destination
        if not (request.pattern and request.matcher):
            return True
        try:
            return matches(self._hostname, request.pattern, request.matcher)
        except MessageError as error:
            logger.error("A control request cannot be matched and is ignored: %s", error)
            return False

    def _reply(self, reply_to: Mapping[str, Any], ticket: str | None, reply: Any) -> Outgoing | None:
        exchange, routing_key = reply_to.get("exchange"), reply_to.get("routing_key")
        if not (isinstance(routing_key, str) and self._takes_replies(exchange, routing_key)):
            logger.error("A control request wants its reply at %r, which is no reply queue; it is dropped", reply_to)
            return None
        try:
            content_type, content_encoding, body, _mime = encode({self._hostname: reply})
        except (TypeError, ValueError) as error:
            content_type, content_encoding, body, _mime = encode(
                {self._hostname: {"error": f"the reply cannot be encoded: {error}"}}
            )
        return Outgoing(
            body=body,
            headers={"ticket": ticket, "clock": self._clock.forward()},
            exchange=str(exchange),
            exchange_type="direct",
            routing_key=routing_key,
            content_type=content_type,
            content_encoding=content_encoding,
            delivery_mode=1,
        )

    def _takes_replies(self, exchange: object, routing_key: str) -> bool:
        """Say whether that is an address for replies: a task queue, or a stranger's, must not get them."""
        replies = f"reply.{self._exchange}"
        return exchange == replies or (exchange == "" and routing_key.endswith(f".{replies}"))

    def _drop(self) -> None:
        if self._mailbox is not None:
            self._loop.remove_reader(self._fd)
            self._mailbox.close()
            self._mailbox = None

    def close(self) -> None:
        """Disconnect for good."""
        self._closed = True
        self._drop()
