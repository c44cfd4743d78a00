"""The event ``task-sent``, for every task that a program sends, if the settings ask for it.

1. It is sent after the task, on another connection: monitoring must neither delay nor fail the call.
2. An event that cannot be sent is dropped; the first of each outage is logged.

Source: the events of Celery 5; section 8 of the wire protocol.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from framework.exceptions import TransportError
from framework.wire import event_message
from framework.wire.identity import origin

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.client.publisher import Publisher
    from framework.client.routing import Destination
    from framework.message import Outgoing

logger = logging.getLogger(__name__)


class SentEvents:
    """Sends ``task-sent`` events. Thread-safe."""

    def __init__(self, settings: Settings, publisher: Publisher) -> None:
        self._settings = settings.event
        self._publisher = publisher
        self._clock = itertools.count(1)
        self._away = False

    def send(self, sent: Sequence[tuple[str, Outgoing, Destination]]) -> None:
        """Send an event for each task in `sent`: its name, its message and the address."""
        sender = origin()
        try:
            for start in range(0, len(sent), event_message.BATCH):
                events = [self._event(*task, sender) for task in sent[start : start + event_message.BATCH]]
                body, key = (events[0], "task.sent") if len(events) == 1 else (events, "task.multi")
                self._publisher.announce(
                    event_message.outgoing(
                        body,
                        key,
                        sender,
                        exchange=self._settings.exchange,
                        exchange_type=self._publisher.transport.traits.events_exchange,
                        serializer=self._settings.serializer,
                    )
                )
        except (TransportError, TypeError, ValueError) as error:
            if not self._away:
                logger.warning("Dropping events about sent tasks until they can be sent: %s", error)
            self._away = True
        else:
            self._away = False

    def _event(self, name: str, message: Outgoing, address: Destination, sender: str) -> dict[str, Any]:
        get = message.headers.get
        return {
            "type": "task-sent",
            "hostname": sender,
            "utcoffset": event_message.utc_offset(),
            "pid": os.getpid(),
            "clock": next(self._clock),
            "timestamp": time.time(),
            "uuid": message.correlation_id,
            "root_id": get("root_id"),
            "parent_id": get("parent_id"),
            "name": name,
            "args": get("argsrepr") or "",
            "kwargs": get("kwargsrepr") or "",
            "retries": get("retries") or 0,
            "eta": get("eta"),
            "expires": get("expires"),
            "queue": address.queue.name if address.queue is not None else None,
            "exchange": message.exchange,
            "routing_key": message.routing_key,
        }
