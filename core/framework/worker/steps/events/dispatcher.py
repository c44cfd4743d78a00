"""Sends events about the worker and its tasks to monitors.

1. `EventDispatcher.send` sends one event at once; `add` collects task events and sends many in one message.
2. `enable` sets `TaskEvents` on the event sources, `disable` removes it: task events cost nothing while disabled.
3. Keeps the newest task events, up to a limit, until there is a connection; counts dropped events and logs their number
   once.

Source: the events of Celery 5; section 8 of the wire protocol.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol

from framework.api.loop import Loop
from framework.message import Outgoing
from framework.wire import event_message
from framework.worker.steps.control.connection import ControlConnection
from framework.worker.steps.events.task_events import TaskEvent, TaskEvents

if TYPE_CHECKING:
    from framework._config.settings import EventSettings

logger = logging.getLogger(__name__)

#: Seconds that the first event of a message waits for others.
_GATHER: Final = 0.01
#: The most events that are kept while the broker accepts none.
KEPT: Final = 10_000
#: Seconds until the next attempt when the broker accepts nothing.
_PAUSE: Final = 0.1


class EventSource(Protocol):
    """An object that reports task events to `events` unless that is None."""

    events: TaskEvents | None


class EventDispatcher:
    """Sends events. Everything but the constructor runs in the loop."""

    def __init__(
        self,
        loop: Loop,
        connection: ControlConnection,
        hostname: str,
        settings: EventSettings,
        listeners: Sequence[EventSource],
    ) -> None:
        self._loop = loop
        self._connection = connection
        self.clock = connection.clock
        self.hostname = hostname
        self.pid = os.getpid()
        self.utcoffset = event_message.utc_offset()
        self._settings = settings
        self._listeners = listeners
        self._tasks = TaskEvents(self)
        self._waiting: deque[TaskEvent] = deque()
        self._flush_scheduled = False
        #: The broker accepts nothing: new events are kept.
        self._blocked = False
        self._dropped = 0

    # ------------------------------------------------------------ switching

    @property
    def task_events(self) -> bool:
        """Whether task events are sent."""
        return any(listener.events is not None for listener in self._listeners)

    def enable(self) -> bool:
        """Enable task events; return False if they were enabled already."""
        changed = not self.task_events
        for listener in self._listeners:
            listener.events = self._tasks
        return changed

    def disable(self) -> bool:
        """Disable task events; return False if they were disabled already."""
        changed = self.task_events
        for listener in self._listeners:
            listener.events = None
        return changed

    # ------------------------------------------------------------ sending

    def send(self, type: str, **fields: Any) -> None:  # noqa: A002 - the name that custom commands use
        """Send one event now, after the waiting ones. `fields`: values that the serializer supports, by default JSON.

        Raises `TypeError` or `ValueError` for other values. Without a connection the event is dropped.
        """
        self.flush()
        self.utcoffset = event_message.utc_offset()
        event = {
            "type": type,
            "hostname": self.hostname,
            "utcoffset": self.utcoffset,
            "pid": self.pid,
            "clock": self.clock.forward(),
            "timestamp": time.time(),
            **fields,
        }
        message = self._message(event, event_message.routing_key(type))
        self._connection.post([message])

    def add(self, event: TaskEvent) -> None:
        """Send a task's event soon, together with others."""
        waiting = self._waiting
        waiting.append(event)
        if self._blocked:
            if len(waiting) > KEPT:
                # The oldest is dropped: monitors need the newest state, and memory is limited.
                waiting.popleft()
                self._dropped += 1
        elif len(waiting) >= event_message.BATCH:
            self.flush()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_later(_GATHER, self._on_flush_timer)

    def _on_flush_timer(self) -> None:
        self._flush_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Send the waiting events, as far as the broker accepts them."""
        waiting = self._waiting
        while waiting:
            events = list(islice(waiting, event_message.BATCH))
            if not self._connection.ready or not self._post(events):
                if not self._flush_scheduled:
                    self._flush_scheduled = True
                    self._loop.call_later(_PAUSE, self._on_flush_timer)
                self._blocked = True
                return
            for _ in events:
                waiting.popleft()
        self._blocked = False
        if self._dropped:
            logger.warning(
                "%d task events were dropped, because the broker was unreachable or did not accept them", self._dropped
            )
            self._dropped = 0

    def _post(self, events: Sequence[TaskEvent]) -> bool:
        message = self._batch(events)
        return message is None or self._connection.post([message])

    def _batch(self, events: Sequence[TaskEvent]) -> Outgoing | None:
        try:
            return self._message(events, "task.multi")
        except (TypeError, ValueError):
            # One event cannot be encoded; the others are sent.
            good = [event for event in events if self._is_encodable(event)]
            return self._message(good, "task.multi") if good else None

    def _is_encodable(self, event: TaskEvent) -> bool:
        try:
            self._message(event, "")
        except (TypeError, ValueError) as error:
            logger.error("An event of task %s cannot be encoded and is dropped: %s", event.uuid, error)
            return False
        return True

    def _message(self, body: Any, key: str) -> Outgoing:
        return event_message.outgoing(
            body,
            key,
            self.hostname,
            exchange=self._settings.exchange,
            exchange_type=self._connection.events_exchange_type,
            serializer=self._settings.serializer,
        )
