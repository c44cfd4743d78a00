"""Task events: what happens to tasks, told to monitors.

1. One type for each event, encoded many at a time.
2. `TaskEvents` turns a task's steps into events. It exists for the rest of the worker only while task events are
   wanted.

Source: the events of Celery 5; section 8 of the wire protocol.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from framework.api import pool as outcomes
from framework.api.pool import Outcome
from framework.client.after_end import Action
from framework.message import Payload
from framework.worker.task_request import TaskRequest

if TYPE_CHECKING:
    from framework.worker.steps.events.dispatcher import EventDispatcher


#: Characters of an exception or a traceback that are told; many events share a message.
_TEXT_MAX: Final = 16_384


class TaskEvent(msgspec.Struct, gc=False, tag_field="type"):
    """What every event has. Positional: made by the thousand."""

    hostname: str
    utcoffset: float
    pid: int
    clock: int
    timestamp: float
    uuid: str


class Received(TaskEvent, gc=False, tag="task-received"):
    """The worker has taken it in."""

    name: str
    args: str
    kwargs: str
    root_id: str | None
    parent_id: str | None
    retries: int
    eta: str | None
    expires: str | float | None


class Started(TaskEvent, gc=False, tag="task-started"):
    """It begins to run."""


class Succeeded(TaskEvent, gc=False, tag="task-succeeded"):
    """It has returned."""

    result: str
    runtime: float


class Failed(TaskEvent, gc=False, tag="task-failed"):
    """It has failed."""

    exception: str
    traceback: str


class Retried(TaskEvent, gc=False, tag="task-retried"):
    """It will be run again, as it wished."""

    exception: str
    traceback: str


class Revoked(TaskEvent, gc=False, tag="task-revoked"):
    """It was terminated, or does not run at all."""

    terminated: bool
    signum: str | int | None
    expired: bool


class Rejected(TaskEvent, gc=False, tag="task-rejected"):
    """Its message was given back or dropped."""

    requeue: bool


class Cancelled(TaskEvent, gc=False, tag="task-cancelled"):
    """The worker stopped, or lost its broker, before its end."""


class _Told(msgspec.Struct, gc=False):
    """The headers that only `Received` needs."""

    argsrepr: str | None = None
    kwargsrepr: str | None = None
    root_id: str | None = None
    parent_id: str | None = None


class _EventHeader(msgspec.Struct, gc=False):
    headers: _Told


_read = msgspec.json.Decoder(_EventHeader).decode


class TaskEvents:
    """What happens to tasks, as events."""

    def __init__(self, dispatcher: EventDispatcher) -> None:
        self._dispatcher = dispatcher

    def _common(self, uuid: str, when: float = 0.0) -> tuple[str, float, int, int, float, str]:
        sender = self._dispatcher
        clock = sender.clock
        clock.value += 1
        return (sender.hostname, sender.utcoffset, sender.pid, clock.value, when or time.time(), uuid)

    def received(self, request: TaskRequest) -> None:
        """The worker has taken `request` in."""
        if not request.policy.send_events:
            return
        told = _headers(request.delivery.payload)
        headers = request.head.headers
        self._dispatcher.add(
            Received(
                *self._common(request.task_id),
                headers.shadow or request.name,
                told.argsrepr or "",
                told.kwargsrepr or "",
                told.root_id,
                told.parent_id,
                headers.retries or 0,
                headers.eta,
                headers.expires,
            )
        )

    def started(self, request: TaskRequest) -> None:
        """It begins to run; `request.started` says since when."""
        if request.policy.send_events:
            self._dispatcher.add(Started(*self._common(request.task_id, request.started)))

    def finished(self, request: TaskRequest, outcome: Outcome, action: Action) -> None:
        """It has ended, and `action` follows."""
        if not request.policy.send_events:
            return
        common = self._common(request.task_id)
        code, note = outcome.code, outcome.note
        event: TaskEvent
        if code == outcomes.SUCCESS:
            event = Succeeded(*common, note, outcome.runtime)
        elif action is Action.REQUEUE or code in _REJECTED:
            event = Rejected(*common, action is Action.REQUEUE)
        elif code == outcomes.RETRY or action is Action.RETRY:
            event = Retried(*common, *_told(outcome))
        elif code == outcomes.TERMINATED:
            event = Revoked(*common, True, outcome.traceback or None, False)
        elif code == outcomes.REVOKED:
            event = Revoked(*common, False, None, False)
        elif code == outcomes.IGNORED:
            return
        else:
            event = Failed(*common, *_told(outcome))
        self._dispatcher.add(event)

    def cancelled(self, request: TaskRequest) -> None:
        """A cold stop, or the loss of the broker, ended it, and its message goes back to its queue."""
        if request.policy.send_events:
            self._dispatcher.add(Cancelled(*self._common(request.task_id)))

    def discarded(self, request: TaskRequest, *, expired: bool) -> None:
        """It was revoked, or had expired, before it could run."""
        if request.policy.send_events:
            self.revoked(request.task_id, expired=expired)

    def revoked(self, task_id: str, *, expired: bool) -> None:
        """The same, of a task that is not known here."""
        self._dispatcher.add(Revoked(*self._common(task_id), False, None, expired))

    def failed(self, task_id: str, exception: str) -> None:
        """It cannot run at all; `exception` is the repr of what is stored."""
        self._dispatcher.add(Failed(*self._common(task_id), exception, ""))


_REJECTED: Final = frozenset({outcomes.REJECTED, outcomes.REQUEUED, outcomes.INVALID})


def _told(outcome: Outcome) -> tuple[str, str]:
    """Return the exception, and the traceback, whose end says most."""
    note, trace = outcome.note, outcome.traceback
    if len(note) > _TEXT_MAX:
        note = f"{note[:_TEXT_MAX]}..."
    if len(trace) > _TEXT_MAX:
        trace = f"...{trace[-_TEXT_MAX:]}"
    return note, trace


def _headers(payload: Payload) -> _Told:
    try:
        if type(payload) is bytes:
            return _read(payload).headers
        return msgspec.convert(payload[0], _Told)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        return _Told()  # other clients may send other types; the task can be told without them
