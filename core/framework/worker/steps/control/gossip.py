"""The roster: which other workers there are, as far as their events tell.

1. Hears every worker's ``worker-online``, ``-heartbeat`` and ``-offline``, Celery's workers' included.
2. Says once when a worker has missed its heartbeats, and forgets it a while later.
3. `ages` goes along with replies to clients: they know then for whom to wait, and whom to miss. For the first seconds
   of a connection there is none, for a worker that is not on it would not be waited for.
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

#: Seconds from a connection on until everybody has been heard: two of Celery's heartbeats, and some more.
_LISTENING: Final = 5.0
#: Heartbeats that a worker may miss.
_MISSED: Final = 3
#: Seconds that a silent worker is remembered for, so that somebody who asks hears that it is missing.
_REMEMBERED: Final = 60.0
#: Seconds between two looks for silent workers.
_LOOK: Final = 5.0
#: Heartbeat interval of a worker that does not tell it.
_INTERVAL: Final = 2.0
#: Workers remembered at most: node names come from outside.
_NODES_MAX: Final = 5_000


class _Node:
    __slots__ = ("heard", "interval", "silent")

    def __init__(self) -> None:
        self.heard = 0.0
        self.interval = _INTERVAL
        self.silent = False


class Gossip:
    """Everything but the constructor runs in the loop."""

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
        """Listen."""
        self._connection.listen(self._queue, self.hear)
        self._connection.notify(self._connected)
        self._loop.call_later(_LOOK, self._look)

    def _connected(self) -> None:
        self._since = time.monotonic()

    def hear(self, payload: Payload) -> None:
        """Take in one event; what cannot be read is no worker's."""
        try:
            event = decode_message(read(payload), accept=self._accept)
        except MessageError as error:
            logger.debug("An event cannot be read and is dropped: %s", error)
            return
        for each in event if isinstance(event, list) else [event]:
            if isinstance(each, dict):
                self._take(each)

    def _take(self, event: dict[str, Any]) -> None:
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
        node.heard = time.monotonic()
        node.silent = False
        if isinstance(interval, (int, float)) and interval > 0:
            node.interval = float(interval)

    def _look(self) -> None:
        now = time.monotonic()
        for name, node in list(self._nodes.items()):
            silence = now - node.heard
            if silence > max(_REMEMBERED, _MISSED * node.interval):
                del self._nodes[name]
            elif silence > _MISSED * node.interval and not node.silent:
                node.silent = True
                logger.info("missed heartbeat from %s", name)
        self._loop.call_later(_LOOK, self._look)

    def ages(self) -> dict[str, float] | None:
        """Return for each worker how many seconds ago it was heard; None: it is too early to tell."""
        now = time.monotonic()
        if now - self._since < _LISTENING:
            return None
        return {name: round(now - node.heard, 1) for name, node in self._nodes.items()}
