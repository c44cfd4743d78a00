"""Subscriptions: the queues that a worker consumes from, and their changes while it runs.

1. Keeps the queues selected at start and the later changes, for each new connection.
2. `add` and `cancel` act on the current connection before they return.
3. Cancels its consumers while the worker is quiet, so that the broker delivers to other workers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from framework.api.transport import Consumer, Queue
from framework.client.routing import Queues, consumed, known_as
from framework.exceptions import ConnectionLost

logger = logging.getLogger(__name__)


class Subscriptions:
    """The queues by name, in the order of their selection. After the constructor used in the loop only."""

    def __init__(self, selected: Iterable[Queue], defined: Queues) -> None:
        """`selected`: the queues at start; `defined`: the queues of the settings, which also make missing ones."""
        self._queues = {known_as(queue): consumed(queue) for queue in selected}
        self._defined = defined
        #: None: not connected.
        self._consumer: Consumer | None = None
        self._paused = False
        #: Called when the current connection consumes more queues than before.
        self.on_more: Callable[[], object] | None = None

    def __iter__(self) -> Iterator[Queue]:
        return iter(list(self._queues.values()))

    def __len__(self) -> int:
        return len(self._queues)

    # ------------------------------------------------------------ connecting and disconnecting

    def attach(self, consumer: Consumer) -> None:
        """Consume over `consumer` from now on."""
        for queue in self:
            if not self._paused or _is_own(queue):
                consumer.add_queue(queue)
        self._consumer = consumer

    def detach(self) -> None:
        """Drop the connection."""
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

        A definition of that name in the settings wins over the other arguments. Raises `ConfigError` for unknown
        options, `ConnectionLost` without a connection, `TransportError` when the broker refuses.
        """
        if name in self._queues:
            return False
        queue = consumed(
            self._defined.configured(name)
            or self._defined.described(name, exchange, exchange_type, routing_key, options or {})
        )
        if self._consumer is None:
            raise ConnectionLost(
                f"cannot add queue {name!r} without a connection to the broker: try again when it is back"
            )
        if not self._paused or _is_own(queue):
            self._consumer.add_queue(queue)
            self._notify()
        # Kept only now: a queue that the broker refuses would make each reconnect fail.
        self._queues[name] = queue
        logger.info("Started consuming from %s", name)
        return True

    def cancel(self, name: str) -> bool:
        """Stop consuming from the queue `name`; return False if it was not consumed. Received tasks still run."""
        queue = self._queues.pop(name, None)
        if queue is None:
            return False
        logger.info("Canceling queue %s", name)
        if self._consumer is not None:
            try:
                self._consumer.cancel_queue(queue.name)
            except ConnectionLost as error:
                # The queue is cancelled all the same: the next connection does not consume it.
                logger.debug("The connection was lost while queue %s was cancelled: %s", name, error)
        return True

    # ------------------------------------------------------------ quiet and resume

    def pause(self) -> None:
        """Stop consuming, but keep the queues for `resume`. Raises `TransportError`."""
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
                self._notify()

    def _notify(self) -> None:
        if self.on_more is not None:
            self.on_more()


def _is_own(queue: Queue) -> bool:
    """Return whether only this worker consumes `queue`: messages might be lost with it if it stopped consuming."""
    return queue.exclusive or queue.auto_delete or queue.exchange.type == "fanout"
