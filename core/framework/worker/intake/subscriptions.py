"""Subscriptions: the queues that a worker consumes from, and their changes while it runs.

1. Holds what was selected at start, and what was added and cancelled since; every new connection is given that.
2. `add` and `cancel` act on the connection there is before they return.
3. While the worker is quiet nothing is consumed, so that the broker has other workers do what it would hand to this
   one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from framework.api.transport import Consumer, Queue
from framework.client.routing import Queues
from framework.exceptions import ConnectionLost

logger = logging.getLogger(__name__)


class Subscriptions:
    """The queues, by name, in the order in which they were chosen. Used in the loop only, but for the selection."""

    def __init__(self, selected: Iterable[Queue], defined: Queues) -> None:
        """`selected`: what to begin with; `defined`: what the settings define, and how they make up what is missing."""
        self._queues = {queue.name: queue for queue in selected}
        self._defined = defined
        #: None: there is no connection.
        self._consumer: Consumer | None = None
        self._paused = False
        #: Called when the connection has come to consume more queues.
        self.on_more: Callable[[], object] | None = None

    def __iter__(self) -> Iterator[Queue]:
        return iter(list(self._queues.values()))

    def __len__(self) -> int:
        return len(self._queues)

    # ------------------------------------------------------------ the connection's coming and going

    def attach(self, consumer: Consumer) -> None:
        """Consume over `consumer` from now on."""
        for queue in self:
            if not self._paused or _is_own(queue):
                consumer.add_queue(queue)
        self._consumer = consumer

    def detach(self) -> None:
        """Forget the connection."""
        self._consumer = None

    # ------------------------------------------------------------ changes

    def add(
        self,
        name: str,
        exchange: str | None = None,
        exchange_type: str | None = None,
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> bool:
        """Consume from the queue `name` too; return False if the worker did already.

        What the settings define under that name wins over the other arguments. Raises `ConfigError` for options that
        are none, `ConnectionLost` when there is no connection, `TransportError` when the broker refuses.
        """
        if name in self._queues:
            return False
        queue = self._defined.configured(name) or self._defined.described(
            name, exchange, exchange_type, routing_key, options or {}
        )
        if self._consumer is None:
            raise ConnectionLost(f"there is no connection to the broker just now: add {name!r} when it is back")
        if not self._paused or _is_own(queue):
            self._consumer.add_queue(queue)
            self._tell()
        # Only now: what the broker refuses must not keep the worker from consuming when it connects again.
        self._queues[name] = queue
        logger.info("Started consuming from %s", name)
        return True

    def cancel(self, name: str) -> bool:
        """Stop consuming from the queue `name`, what was received still runs; return False if it was not consumed."""
        if self._queues.pop(name, None) is None:
            return False
        logger.info("Canceling queue %s", name)
        if self._consumer is not None:
            try:
                self._consumer.cancel_queue(name)
            except ConnectionLost as error:
                # It is cancelled all the same: the next connection will not hear of it.
                logger.debug("The connection went while queue %s was cancelled: %s", name, error)
        return True

    # ------------------------------------------------------------ quiet and resume

    def pause(self) -> None:
        """Consume from nothing, but go on knowing what from. Raises `TransportError`."""
        if not self._paused:
            self._paused = True
            if self._consumer is not None:
                for queue in self:
                    if not _is_own(queue):
                        self._consumer.cancel_queue(queue.name)

    def resume(self) -> None:
        """Consume again. Raises `TransportError`."""
        if self._paused:
            self._paused = False
            if self._consumer is not None:
                for queue in self:
                    self._consumer.add_queue(queue)
                self._tell()

    def _tell(self) -> None:
        if self.on_more is not None:
            self.on_more()


def _is_own(queue: Queue) -> bool:
    """Say whether no other worker could take over, and what is sent meanwhile might be lost with the queue."""
    return queue.exclusive or queue.auto_delete or queue.exchange.type == "fanout"
