"""Events: what the worker tells monitors about itself and its tasks.

1. `EventDispatcher.send` tells one event at once; task events are collected and sent together, many in one message.
2. `enable` hands `TaskEvents` to those who know of tasks, `disable` takes it away from them: off, they cost nothing.
3. Without a connection the newest events are kept, up to a limit, and sent when there is one; what had to be dropped
   is counted and told once.

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
#: Events kept while there is no connection.
KEPT: Final = 10_000
#: Seconds until the next try when the broker takes nothing.
_PAUSE: Final = 0.1


class EventSource(Protocol):
    """Whoever knows of tasks: it tells `events` about them unless that is None."""

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
        self._armed = False
        #: The line takes nothing: what comes is kept.
        self._held = False
        self._dropped = 0

    # ------------------------------------------------------------ switching

    @property
    def task_events(self) -> bool:
        """Whether task events are sent."""
        return any(listener.events is not None for listener in self._listeners)

    def enable(self) -> bool:
        """Send task events from now on; return False if they were sent already."""
        changed = not self.task_events
        for listener in self._listeners:
            listener.events = self._tasks
        return changed

    def disable(self) -> bool:
        """Send task events no longer; return False if none were sent."""
        changed = self.task_events
        for listener in self._listeners:
            listener.events = None
        return changed

    # ------------------------------------------------------------ sending

    def send(self, type: str, **fields: Any) -> None:  # noqa: A002 - the name that custom commands know
        """Send one event now, after those that wait. `fields` must be what the serializer takes, JSON by default.

        Raises `TypeError` or `ValueError` for others. Without a connection the event is dropped.
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
        if self._held:
            if len(waiting) > KEPT:
                # The newest are kept: an old event is worth less than the memory of a worker.
                waiting.popleft()
                self._dropped += 1
        elif len(waiting) >= event_message.BATCH:
            self.flush()
        elif not self._armed:
            self._armed = True
            self._loop.call_later(_GATHER, self._due)

    def _due(self) -> None:
        self._armed = False
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the broker takes it."""
        waiting = self._waiting
        while waiting:
            events = list(islice(waiting, event_message.BATCH))
            if not self._connection.ready or not self._post(events):
                if not self._armed:
                    self._armed = True
                    self._loop.call_later(_PAUSE, self._due)
                self._held = True
                return
            for _ in events:
                waiting.popleft()
        self._held = False
        if self._dropped:
            logger.warning(
                "%d task events were dropped, because the broker was away or did not take them", self._dropped
            )
            self._dropped = 0

    def _post(self, events: Sequence[TaskEvent]) -> bool:
        message = self._batch(events)
        return message is None or self._connection.post([message])

    def _batch(self, events: Sequence[TaskEvent]) -> Outgoing | None:
        try:
            return self._message(events, "task.multi")
        except (TypeError, ValueError):
            # One of them cannot be told; the others can.
            good = [event for event in events if self._can_be_told(event)]
            return self._message(good, "task.multi") if good else None

    def _can_be_told(self, event: TaskEvent) -> bool:
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
