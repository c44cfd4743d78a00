"""The state of workers and tasks, from their events, in bounded memory.

1. `State.event` applies one event; a `Receiver` with ``{"*": state.event}`` keeps a state up to date.
2. Tasks are kept in the order of their last events; above the limit, the oldest are dropped.
3. Late events and events out of order are allowed: an ended task does not become a running one, except for a retry.

Thread-safe; hold `State.lock` to read many tasks consistently.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Seconds between two heartbeats of a worker that does not send its interval.
_FREQ: Final = 60.0
#: The longest interval that is taken, as it comes from outside.
_FREQ_MAX: Final = 3600.0
#: A worker without a heartbeat for this many intervals counts as dead.
_MISSED_MAX: Final = 2.0

#: By event: the state of the task after it, and the attribute for its time.
_STATES: Final = {
    "task-sent": ("PENDING", "sent"),
    "task-received": ("RECEIVED", "received"),
    "task-started": ("STARTED", "started"),
    "task-succeeded": ("SUCCESS", "succeeded"),
    "task-failed": ("FAILURE", "failed"),
    "task-retried": ("RETRY", "retried"),
    "task-revoked": ("REVOKED", "revoked"),
    "task-rejected": ("REJECTED", "rejected"),
    "task-cancelled": ("CANCELLED", "cancelled"),
}
#: The order of states: a late event does not set a task back.
_PROGRESS: Final = {"PENDING": 0, "RECEIVED": 1, "STARTED": 2}
#: States after which the message may be delivered again, and the task start again.
_AGAIN: Final = frozenset({"RETRY", "REJECTED", "CANCELLED"})
READY_STATES: Final = frozenset({"SUCCESS", "FAILURE", "REVOKED"})


class Worker:
    """One worker, as its events describe it."""

    def __init__(self, hostname: str) -> None:
        self.hostname = hostname
        self.pid: int | None = None
        #: Seconds between two heartbeats.
        self.freq = _FREQ
        self.active: int | None = None
        self.processed: int | None = None
        self.loadavg: tuple[float, ...] = ()
        self.sw_ident: str | None = None
        self.sw_ver: str | None = None
        self.sw_sys: str | None = None
        self.clock = 0
        #: The time of its last worker event, by the local clock; 0.0: none.
        self.heartbeat = 0.0
        #: Whether its last event was ``worker-offline``.
        self.offline = False

    @property
    def alive(self) -> bool:
        """Whether it is online and its last heartbeat is recent."""
        return not self.offline and time.time() < self.heartbeat + _MISSED_MAX * self.freq

    @property
    def status(self) -> str:
        """``ONLINE`` or ``OFFLINE``."""
        return "ONLINE" if self.alive else "OFFLINE"

    def update(self, event: Mapping[str, Any]) -> None:
        """Apply one of its worker events."""
        self.heartbeat = event.get("local_received") or time.time()
        self.offline = event["type"] == "worker-offline"
        for name in ("pid", "freq", "active", "processed", "sw_ident", "sw_ver", "sw_sys", "clock"):
            if event.get(name) is not None:
                setattr(self, name, event[name])
        if not (isinstance(self.freq, (int, float)) and 0 < self.freq <= _FREQ_MAX):
            self.freq = _FREQ
        if event.get("loadavg"):
            self.loadavg = tuple(event["loadavg"])

    def __repr__(self) -> str:
        return f"<Worker {self.hostname} ({self.status})>"


class Task:
    """One task, as its events describe it. Times are in seconds since the epoch; None: no such event."""

    name: str | None = None
    state: str = "PENDING"
    args: str | None = None
    kwargs: str | None = None
    retries: int | None = None
    eta: str | None = None
    expires: str | float | None = None
    #: The repr of its return value.
    result: str | None = None
    #: The repr of its exception.
    exception: str | None = None
    traceback: str | None = None
    #: In seconds.
    runtime: float | None = None
    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    terminated: bool | None = None
    expired: bool | None = None
    signum: str | int | None = None
    requeue: bool | None = None
    sent: float | None = None
    received: float | None = None
    started: float | None = None
    succeeded: float | None = None
    failed: float | None = None
    retried: float | None = None
    revoked: float | None = None
    rejected: float | None = None
    cancelled: float | None = None
    #: Of the last event that changed its state.
    timestamp: float = 0.0
    clock: int = 0
    #: The node names of its worker and of its sender.
    worker: str | None = None
    client: str | None = None

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid

    @property
    def id(self) -> str:
        """The task's id."""
        return self.uuid

    @property
    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in READY_STATES

    def update(self, event: Mapping[str, Any]) -> None:
        """Apply one of its events. An event of unknown type does not change `state`."""
        kind = event["type"]
        state, when = _STATES.get(kind, (None, None))
        if when is not None:
            setattr(self, when, event.get("timestamp"))
        for name in _FIELDS:
            if (value := event.get(name)) is not None:
                setattr(self, name, value)
        if kind == "task-sent":
            self.client = event.get("hostname")
        elif state is not None:
            self.worker = event.get("hostname")
        if state is not None and self._moves_to(state):
            self.state = state
            self.timestamp = event.get("timestamp") or time.time()
            self.clock = event.get("clock") or 0

    def _moves_to(self, state: str) -> bool:
        now = self.state
        if now in READY_STATES:
            # Of two ends the later one counts; a late event of the start or of a retry does not.
            return state in READY_STATES
        if state in _PROGRESS and now in _PROGRESS:
            return _PROGRESS[state] >= _PROGRESS[now]
        return not (now in _AGAIN and state == "PENDING")

    def info(self) -> dict[str, Any]:
        """Return all known attributes by name."""
        return {"uuid": self.uuid, "state": self.state, **{k: v for k, v in vars(self).items() if v is not None}}

    def __repr__(self) -> str:
        return f"<Task {self.name}({self.uuid}) {self.state}>"


_FIELDS: Final = (
    *("name", "args", "kwargs", "retries", "eta", "expires", "root_id", "parent_id"),
    *("result", "exception", "traceback", "runtime", "terminated", "expired", "signum", "requeue"),
    *("queue", "exchange", "routing_key"),
)


def _entry(table: OrderedDict[str, T], key: str, make: Callable[[str], T], limit: int) -> T:
    """Return the entry `key` of `table`, made if missing, as the last one; drop the first one above `limit`."""
    entry = table[key] = table.pop(key, None) or make(key)
    if len(table) > limit:
        table.popitem(last=False)
    return entry


class State:
    """The workers and tasks of all events so far."""

    def __init__(
        self,
        callback: Callable[[State, Mapping[str, Any]], object] | None = None,
        max_workers_in_memory: int = 5_000,
        max_tasks_in_memory: int = 10_000,
    ) -> None:
        """`callback` is called with the state and each event, after the event is applied."""
        self._callback = callback
        self._max_workers = max_workers_in_memory
        self._max_tasks = max_tasks_in_memory
        self.lock = threading.RLock()
        #: Workers by node name.
        self.workers: OrderedDict[str, Worker] = OrderedDict()
        #: Tasks by id, in the order of their last events.
        self.tasks: OrderedDict[str, Task] = OrderedDict()
        #: The number of events, of events about tasks, and of events by type.
        self.event_count = 0
        self.task_count = 0
        self.counts: dict[str, int] = {}

    def event(self, event: Mapping[str, Any]) -> None:
        """Apply one event. A malformed event is at most counted."""
        kind = event.get("type")
        if not isinstance(kind, str):
            return
        with self.lock:
            self.event_count += 1
            if kind in self.counts or len(self.counts) < 1000:  # bounded, because types come from outside
                self.counts[kind] = self.counts.get(kind, 0) + 1
            hostname, uuid = event.get("hostname"), event.get("uuid")
            if kind.startswith("worker-") and isinstance(hostname, str):
                if kind in ("worker-online", "worker-heartbeat", "worker-offline"):
                    _entry(self.workers, hostname, Worker, self._max_workers).update(event)
            elif kind.startswith("task-") and isinstance(uuid, str):
                self.task_count += 1
                _entry(self.tasks, uuid, Task, self._max_tasks).update(event)
            if self._callback is not None:
                self._callback(self, event)

    def alive_workers(self) -> list[Worker]:
        """Return the workers that are online with a recent heartbeat."""
        with self.lock:
            return [worker for worker in self.workers.values() if worker.alive]

    def task_types(self) -> list[str]:
        """Return the names of all known tasks, sorted."""
        with self.lock:
            return sorted({task.name for task in self.tasks.values() if task.name})

    def tasks_by_time(self, limit: int | None = None) -> Iterator[tuple[str, Task]]:
        """Yield ``(id, task)`` from the latest event to the oldest, at most `limit`."""
        return self._some(lambda task: True, limit)

    def tasks_by_type(self, name: str, limit: int | None = None) -> Iterator[tuple[str, Task]]:
        """Yield the tasks called `name`."""
        return self._some(lambda task: task.name == name, limit)

    def tasks_by_worker(self, hostname: str, limit: int | None = None) -> Iterator[tuple[str, Task]]:
        """Yield the tasks of one worker."""
        return self._some(lambda task: task.worker == hostname, limit)

    def _some(self, wanted: Callable[[Task], bool], limit: int | None) -> Iterator[tuple[str, Task]]:
        with self.lock:
            found: list[tuple[str, Task]] = []
            for uuid, task in reversed(self.tasks.items()):
                if limit is not None and len(found) >= limit:
                    break
                if wanted(task):
                    found.append((uuid, task))
        return iter(found)

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget the tasks that have ended, or with `ready` false the others."""
        with self.lock:
            for uuid in [uuid for uuid, task in self.tasks.items() if task.ready == ready]:
                del self.tasks[uuid]

    def clear(self, ready: bool = True) -> None:
        """Forget workers, counts and ended tasks, or with `ready` false all tasks."""
        with self.lock:
            self.workers.clear()
            self.event_count = self.task_count = 0
            self.counts.clear()
            self.clear_tasks()
            if not ready:
                self.tasks.clear()

    def freeze_while(self, function: Callable[..., Any], *args: Any, clear_after: bool = False, **kwargs: Any) -> Any:
        """Call `function` while the state does not change; return its value."""
        with self.lock:
            try:
                return function(*args, **kwargs)
            finally:
                if clear_after:
                    self.clear()

    def __repr__(self) -> str:
        return f"<State events={self.event_count} tasks={len(self.tasks)} workers={len(self.workers)}>"
