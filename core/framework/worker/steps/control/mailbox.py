"""Receives remote-control requests from the broker's fan-out and sends the replies.

1. Subscribes the node's control queue to ``<control_exchange>.pidbox``, on the worker's `ControlConnection`.
2. Decodes requests, skips those for other nodes, runs the command, and sends a reply if the request has an address.
3. Refuses commands that `Access` does not allow.
4. Limits the effect of bad requests: an unreadable request is logged and dropped, patterns are matched in linear time
   (`framework.wire.node_pattern`), and a command that takes too long is ended.

Source: the request and reply shapes of kombu's pidbox.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from framework._config.nodename import full_name
from framework.api.command import Command, Panel
from framework.api.transport import Exchange, Queue
from framework.exceptions import MessageError
from framework.message import Outgoing, Payload, read
from framework.wire.control_request import ROSTER
from framework.wire.node_pattern import matches
from framework.wire.serialization import decode_message, encode
from framework.worker.steps.control.access import Access
from framework.worker.steps.control.connection import ControlConnection
from framework.worker.steps.control.time_limit import CommandTimeout, run_limited

logger = logging.getLogger(__name__)


class ControlRequest(msgspec.Struct):
    """A control request; unknown keys are ignored."""

    method: str
    arguments: dict[str, Any] = {}
    destination: list[str] | None = None
    pattern: str | None = None
    matcher: str | None = None
    ticket: str | None = None
    reply_to: dict[str, Any] | None = None
    #: Whether the reply includes the other workers that this worker has heard.
    roster: bool = False


class ControlMailbox:
    """Answers control requests."""

    def __init__(
        self,
        connection: ControlConnection,
        panel: Panel,
        hostname: str,
        control: Any,
        accept: list[str],
        roster: Callable[[], dict[str, float] | None],
    ) -> None:
        """`control` is the ``[control]`` table of the settings; `roster`: the other workers, see `Gossip.ages`."""
        self._connection = connection
        self._roster = roster
        self._panel = panel
        self._clock = connection.clock
        self._hostname = hostname
        self._accept = accept
        self._time_limit = control.time_limit
        self._exchange = f"{control.exchange}.pidbox"
        self.access = Access(control.allow, control.secret, self._exchange)
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
        self.state: Any = None

    def start(self, state: Any) -> None:
        """Start to answer requests; commands are called with `state`. Called in the loop."""
        self.state = state
        for pattern in self.access.unmatched(self._panel):
            logger.warning("`allow` under [control] has %r, which is no command of this worker", pattern)
        self._connection.listen(self._queue, self.answer)

    def answer(self, payload: Payload) -> Outgoing | None:
        """Run the command of the request `payload`; return the reply, or None if the request has no reply address."""
        try:
            return self._answer(payload)
        except Exception:  # the other requests of the batch must be answered
            logger.exception("A control request cannot be answered and is dropped")
            return None

    def _answer(self, payload: Payload) -> Outgoing | None:
        self._clock.forward()
        try:
            incoming = read(payload)
            self._clock.adjust(incoming.headers.get("clock"))
            request = msgspec.convert(decode_message(incoming, accept=self._accept), ControlRequest)
        except (MessageError, msgspec.ValidationError) as error:
            logger.error("A control request cannot be read and is dropped: %s", error)
            return None
        if not self._is_addressed(request):
            return None
        logger.debug("Control request %s %s", request.method, request.arguments)
        command = self._panel.get(request.method)
        refusal = "" if command is None else self.access.refusal(command, incoming, request.arguments)
        reply = {"error": refusal} if refusal else self._run(request, command)
        if request.reply_to is None:
            return None
        return self._reply(request, reply)

    def _run(self, request: ControlRequest, command: Command | None) -> Any:
        """Run the command and return its reply, for one that takes too long an error reply."""
        limit = self._time_limit if command is None or command.time_limit is None else command.time_limit
        try:
            reply = run_limited(limit, self._panel.answer, self.state, request.method, request.arguments)
        except CommandTimeout:
            reply = {"error": f"{request.method} was ended after the {limit:g} s that a command may run at most"}
        if isinstance(reply, dict) and "error" in reply:
            logger.error("Control request %s failed: %s", request.method, reply["error"])
        return reply

    def _is_addressed(self, request: ControlRequest) -> bool:
        if request.destination:
            return self._hostname in map(full_name, request.destination)
        if not (request.pattern and request.matcher):
            return True
        try:
            return matches(self._hostname, request.pattern, request.matcher)
        except MessageError as error:
            logger.error("A control request cannot be matched and is ignored: %s", error)
            return False

    def _reply(self, request: ControlRequest, reply: Any) -> Outgoing | None:
        reply_to = request.reply_to or {}
        exchange, routing_key = reply_to.get("exchange"), reply_to.get("routing_key")
        if not (isinstance(routing_key, str) and self._is_reply_queue(exchange, routing_key)):
            logger.error("The reply to a control request is dropped: its address %r is no reply queue", reply_to)
            return None
        try:
            content_type, content_encoding, body, _mime = encode({self._hostname: reply})
        except (TypeError, ValueError) as error:
            content_type, content_encoding, body, _mime = encode(
                {self._hostname: {"error": f"the reply cannot be encoded: {error}"}}
            )
        headers: dict[str, Any] = {"ticket": request.ticket, "clock": self._clock.forward()}
        if request.roster and (ages := self._roster()) is not None:
            headers[ROSTER] = {self._hostname: 0.0, **ages}
        return Outgoing(
            body=body,
            headers=headers,
            exchange=str(exchange),
            exchange_type="direct",
            routing_key=routing_key,
            content_type=content_type,
            content_encoding=content_encoding,
            delivery_mode=1,
        )

    def _is_reply_queue(self, exchange: object, routing_key: str) -> bool:
        """Return whether the address is a reply queue: replies must not go to task queues or other exchanges."""
        replies = f"reply.{self._exchange}"
        return exchange == replies or (exchange == "" and routing_key.endswith(f".{replies}"))
