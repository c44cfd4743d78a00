"""Gossip: tracks the other workers by their events.

1. Receives ``worker-online``, ``-heartbeat`` and ``-offline`` of every worker, Celery's workers included.
2. Logs once when a worker has missed its heartbeats, and removes it later.
3. `ages` is sent with replies to clients, which then wait for these workers and report the missing ones. It is None in
   the first seconds of a connection: clients would not wait for workers that have sent no event yet.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final
from uuid import uuid4

from framework.api.loop import Loop
from framework.api.transport import Exchange, Queue
from framework.exceptions import MessageError
from framework.message import Payload, read
from framework.wire.serialization import decode_message
from framework.worker.steps.control.connection import ControlConnection

logger = logging.getLogger(__name__)

#: Seconds of a new connection in which every worker sends an event: more than two of Celery's heartbeats.
_WARMUP: Final = 5.0
#: Heartbeats that a worker may miss.
_MISSED: Final = 3
#: Seconds that a silent worker is kept for, so that clients can report it as missing.
_KEPT: Final = 60.0
#: Seconds between two checks for silent workers.
_CHECK_INTERVAL: Final = 5.0
#: Heartbeat interval (s) of a worker whose events have none.
_INTERVAL: Final = 2.0
#: The longest heartbeat interval (s) that is taken: it comes from outside, and a worker is kept for three of them.
_INTERVAL_MAX: Final = 3600.0
#: The most workers that are kept: node names come from outside.
_NODES_MAX: Final = 5_000


class _Node:
    __slots__ = ("interval", "last_seen", "silent")

    def __init__(self) -> None:
        self.last_seen = 0.0
        self.interval = _INTERVAL
        self.silent = False


class Gossip:
    """The other workers, by node name. Everything but the constructor runs in the loop."""

    def __init__(
        self, loop: Loop, connection: ControlConnection, hostname: str, exchange: str, accept: list[str]
    ) -> None:
        """`exchange` is the exchange of events."""
        self._loop = loop
        self._connection = connection
        self._hostname = hostname
        self._accept = accept
        self._queue = Queue(
            name=f"{uuid4()}.{hostname}.roster",
            exchange=Exchange(name=exchange, type=connection.events_exchange_type),
            routing_key="worker.#",
            durable=False,
            exclusive=True,
            auto_delete=True,
            expires=60.0,
            message_ttl=5.0,
            no_ack=True,
        )
        self._nodes: dict[str, _Node] = {}
        self._since = time.monotonic()

    def start(self) -> None:
        """Subscribe to the events of workers."""
        self._connection.listen(self._queue, self.handle)
        self._connection.notify(self._connected)
        self._loop.call_later(_CHECK_INTERVAL, self._check)

    def _connected(self) -> None:
        self._since = time.monotonic()

    def handle(self, payload: Payload) -> None:
        """Handle one message with an event or a list of events; an unreadable one is dropped."""
        try:
            event = decode_message(read(payload), accept=self._accept)
        except MessageError as error:
            logger.debug("An event cannot be read and is dropped: %s", error)
            return
        for each in event if isinstance(event, list) else [event]:
            if isinstance(each, dict):
                self._record(each)

    def _record(self, event: dict[str, Any]) -> None:
        name, kind, interval = event.get("hostname"), event.get("type"), event.get("freq")
        if not isinstance(name, str) or not isinstance(kind, str) or not kind.startswith("worker-"):
            return
        self._connection.clock.adjust(event.get("clock"))
        if name == self._hostname:
            return
        if kind == "worker-offline":
            self._nodes.pop(name, None)
            return
        node = self._nodes.get(name)
        if node is None:
            if len(self._nodes) >= _NODES_MAX:
                return
            node = self._nodes[name] = _Node()
        node.last_seen = time.monotonic()
        node.silent = False
        if isinstance(interval, (int, float)) and 0 < interval <= _INTERVAL_MAX:
            node.interval = float(interval)

    def _check(self) -> None:
        now = time.monotonic()
        for name, node in list(self._nodes.items()):
            silence = now - node.last_seen
            if silence > max(_KEPT, _MISSED * node.interval):
                del self._nodes[name]
            elif silence > _MISSED * node.interval and not node.silent:
                node.silent = True
                logger.info("missed heartbeat from %s", name)
        self._loop.call_later(_CHECK_INTERVAL, self._check)

    def ages(self) -> dict[str, float] | None:
        """Return the seconds since the last event of each worker; None: the connection is too new."""
        now = time.monotonic()
        if now - self._since < _WARMUP:
            return None
        return {name: round(now - node.last_seen, 1) for name, node in self._nodes.items()}
