"""Task events: the types, and their creation from the worker's task requests.

1. Has one struct for each event type; many are encoded in one message.
2. `TaskEvents` creates the events. The rest of the worker calls it only while task events are enabled.

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


#: The most characters of an exception or a traceback; many events share a message.
_TEXT_MAX: Final = 16_384


class TaskEvent(msgspec.Struct, gc=False, tag_field="type"):
    """The fields of every task event. Created with positional arguments, for speed."""

    hostname: str
    utcoffset: float
    pid: int
    clock: int
    timestamp: float
    uuid: str


class Received(TaskEvent, gc=False, tag="task-received"):
    """The worker has received the task."""

    name: str
    args: str
    kwargs: str
    root_id: str | None
    parent_id: str | None
    retries: int
    eta: str | None
    expires: str | float | None


class Started(TaskEvent, gc=False, tag="task-started"):
    """The task has started."""


class Succeeded(TaskEvent, gc=False, tag="task-succeeded"):
    """The task has returned a value."""

    result: str
    runtime: float


class Failed(TaskEvent, gc=False, tag="task-failed"):
    """The task has failed."""

    exception: str
    traceback: str


class Retried(TaskEvent, gc=False, tag="task-retried"):
    """The task will be retried."""

    exception: str
    traceback: str


class Revoked(TaskEvent, gc=False, tag="task-revoked"):
    """The task was terminated, or was revoked or expired before its start."""

    terminated: bool
    signum: str | int | None
    expired: bool


class Rejected(TaskEvent, gc=False, tag="task-rejected"):
    """The task's message was requeued or rejected."""

    requeue: bool


class Cancelled(TaskEvent, gc=False, tag="task-cancelled"):
    """A cold stop, or the loss of the connection, ended the task."""


class _ReceivedHeaders(msgspec.Struct, gc=False):
    """The headers that only `Received` uses."""

    argsrepr: str | None = None
    kwargsrepr: str | None = None
    root_id: str | None = None
    parent_id: str | None = None


class _EventHeader(msgspec.Struct, gc=False):
    headers: _ReceivedHeaders


_read = msgspec.json.Decoder(_EventHeader).decode


class TaskEvents:
    """Creates the events of tasks and passes them to the dispatcher."""

    def __init__(self, dispatcher: EventDispatcher) -> None:
        self._dispatcher = dispatcher

    def _common(self, uuid: str, when: float = 0.0) -> tuple[str, float, int, int, float, str]:
        sender = self._dispatcher
        clock = sender.clock
        clock.value += 1
        return (sender.hostname, sender.utcoffset, sender.pid, clock.value, when or time.time(), uuid)

    def received(self, request: TaskRequest) -> None:
        """Report that the worker has received `request`."""
        if not request.policy.send_events:
            return
        shown = _received_headers(request.delivery.payload)
        headers = request.head.headers
        self._dispatcher.add(
            Received(
                *self._common(request.task_id),
                headers.shadow or request.name,
                shown.argsrepr or "",
                shown.kwargsrepr or "",
                shown.root_id,
                shown.parent_id,
                headers.retries or 0,
                headers.eta,
                headers.expires,
            )
        )

    def started(self, request: TaskRequest) -> None:
        """Report that `request` has started, at `request.started`."""
        if request.policy.send_events:
            self._dispatcher.add(Started(*self._common(request.task_id, request.started)))

    def finished(self, request: TaskRequest, outcome: Outcome, action: Action) -> None:
        """Report that `request` has ended, and that `action` follows."""
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
            event = Retried(*common, *_shortened(outcome))
        elif code == outcomes.TERMINATED:
            event = Revoked(*common, True, outcome.traceback or None, False)
        elif code == outcomes.REVOKED:
            event = Revoked(*common, False, None, False)
        elif code == outcomes.IGNORED:
            return
        else:
            event = Failed(*common, *_shortened(outcome))
        self._dispatcher.add(event)

    def cancelled(self, request: TaskRequest) -> None:
        """Report that a cold stop or a lost connection ended `request`, and that its message is requeued."""
        if request.policy.send_events:
            self._dispatcher.add(Cancelled(*self._common(request.task_id)))

    def discarded(self, request: TaskRequest, *, expired: bool) -> None:
        """Report that `request` was revoked, or had expired, before it started."""
        if request.policy.send_events:
            self.revoked(request.task_id, expired=expired)

    def revoked(self, task_id: str, *, expired: bool) -> None:
        """Report that a task that is not registered here was revoked, or had expired."""
        self._dispatcher.add(Revoked(*self._common(task_id), False, None, expired))

    def failed(self, task_id: str, exception: str) -> None:
        """Report that a task cannot run; `exception` is the repr of the stored exception."""
        self._dispatcher.add(Failed(*self._common(task_id), exception, ""))


_REJECTED: Final = frozenset({outcomes.REJECTED, outcomes.REQUEUED, outcomes.INVALID})


def _shortened(outcome: Outcome) -> tuple[str, str]:
    """Return the exception and the traceback, shortened: the exception's start, the traceback's end."""
    note, trace = outcome.note, outcome.traceback
    if len(note) > _TEXT_MAX:
        note = f"{note[:_TEXT_MAX]}..."
    if len(trace) > _TEXT_MAX:
        trace = f"...{trace[-_TEXT_MAX:]}"
    return note, trace


def _received_headers(payload: Payload) -> _ReceivedHeaders:
    try:
        if type(payload) is bytes:
            return _read(payload).headers
        return msgspec.convert(payload[0], _ReceivedHeaders)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        return _ReceivedHeaders()  # other clients may send other types; these fields may be empty
