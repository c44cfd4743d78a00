"""State: what the events so far say about workers and tasks, in bounded memory.

1. `State.event` takes one event in; a `Receiver` with ``{"*": state.event}`` keeps a state up to date.
2. Tasks are kept in the order in which they were last heard of; the oldest go when there are too many.
3. Events may come late or out of order: a task that has ended does not begin again, except to be retried.

Any thread may read and write; who looks at many tasks at once holds `State.lock`.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

#: Seconds between two heartbeats, where a worker does not say.
_FREQ: Final = 60.0
#: A worker that was silent for so many times its interval is taken for dead.
_PATIENCE: Final = 2.0

#: By event: the state that the task is in after it, and the attribute that keeps when.
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
#: How far along a task is: what is behind does not change what is ahead.
_PROGRESS: Final = {"PENDING": 0, "RECEIVED": 1, "STARTED": 2}
#: States after which a message may come again, and the task begin anew.
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
        #: When it last said that it lives, by our clock; 0.0: never.
        self.heartbeat = 0.0
        #: It has said goodbye.
        self.offline = False

    @property
    def alive(self) -> bool:
        """It is online, and was heard of lately."""
        return not self.offline and time.time() < self.heartbeat + _PATIENCE * self.freq

    @property
    def status(self) -> str:
        """``ONLINE`` or ``OFFLINE``."""
        return "ONLINE" if self.alive else "OFFLINE"

    def update(self, event: Mapping[str, Any]) -> None:
        """Take in one of its worker events."""
        self.heartbeat = event.get("local_received") or time.time()
        self.offline = event["type"] == "worker-offline"
        for name in ("pid", "freq", "active", "processed", "sw_ident", "sw_ver", "sw_sys", "clock"):
            if event.get(name) is not None:
                setattr(self, name, event[name])
        if event.get("loadavg"):
            self.loadavg = tuple(event["loadavg"])

    def __repr__(self) -> str:
        return f"<Worker {self.hostname} ({self.status})>"


class Task:
    """One task, as its events describe it. Times are seconds since the epoch, None: not heard of."""

    name: str | None = None
    state: str = "PENDING"
    args: str | None = None
    kwargs: str | None = None
    retries: int | None = None
    eta: str | None = None
    expires: str | float | None = None
    #: repr of what it returned.
    result: str | None = None
    #: repr of what it raised.
    exception: str | None = None
    traceback: str | None = None
    #: Seconds that it ran.
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
    #: Node name of the worker; of the sender as long as no worker has it.
    worker: str | None = None
    client: str | None = None

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid

    @property
    def id(self) -> str:
        """Its id."""
        return self.uuid

    @property
    def ready(self) -> bool:
        """It has ended."""
        return self.state in READY_STATES

    def update(self, event: Mapping[str, Any]) -> None:
        """Take in one of its events. One of an unknown type changes no state."""
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
            # Of two ends the later is true, except that one who retries is overtaken by what comes of it.
            return state in READY_STATES
        if state in _PROGRESS and now in _PROGRESS:
            return _PROGRESS[state] >= _PROGRESS[now]
        return not (now in _AGAIN and state == "PENDING")

    def info(self) -> dict[str, Any]:
        """Return what is known, by name."""
        return {"uuid": self.uuid, "state": self.state, **{k: v for k, v in vars(self).items() if v is not None}}

    def __repr__(self) -> str:
        return f"<Task {self.name}({self.uuid}) {self.state}>"


_FIELDS: Final = (
    *("name", "args", "kwargs", "retries", "eta", "expires", "root_id", "parent_id"),
    *("result", "exception", "traceback", "runtime", "terminated", "expired", "signum", "requeue"),
    *("queue", "exchange", "routing_key"),
)


class State:
    """Everything that the events so far have told."""

    def __init__(
        self,
        callback: Callable[[State, Mapping[str, Any]], object] | None = None,
        max_workers_in_memory: int = 5_000,
        max_tasks_in_memory: int = 10_000,
    ) -> None:
        """`callback` is called with the state and each event, when the event has been taken in."""
        self._callback = callback
        self._max_workers = max_workers_in_memory
        self._max_tasks = max_tasks_in_memory
        self.lock = threading.RLock()
        #: Workers by node name.
        self.workers: OrderedDict[str, Worker] = OrderedDict()
        #: Tasks by id; the one last heard of is last.
        self.tasks: OrderedDict[str, Task] = OrderedDict()
        #: Events taken in, those about tasks, and how many of each type.
        self.event_count = 0
        self.task_count = 0
        self.counts: dict[str, int] = {}

    def event(self, event: Mapping[str, Any]) -> None:
        """Take in one event. One that is not in order is counted, and changes nothing else."""
        kind = event.get("type")
        if not isinstance(kind, str):
            return
        with self.lock:
            self.event_count += 1
            if kind in self.counts or len(self.counts) < 1000:  # types come from outside
                self.counts[kind] = self.counts.get(kind, 0) + 1
            hostname, uuid = event.get("hostname"), event.get("uuid")
            if kind.startswith("worker-") and isinstance(hostname, str):
                if kind in ("worker-online", "worker-heartbeat", "worker-offline"):
                    self._worker(hostname).update(event)
            elif kind.startswith("task-") and isinstance(uuid, str):
                self.task_count += 1
                self._task(uuid).update(event)
            if self._callback is not None:
                self._callback(self, event)

    def _worker(self, hostname: str) -> Worker:
        worker = self.workers.get(hostname)
        if worker is None:
            worker = self.workers[hostname] = Worker(hostname)
        self.workers.move_to_end(hostname)
        if len(self.workers) > self._max_workers:
            self.workers.popitem(last=False)
        return worker

    def _task(self, uuid: str) -> Task:
        task = self.tasks.get(uuid)
        if task is None:
            task = self.tasks[uuid] = Task(uuid)
        self.tasks.move_to_end(uuid)
        if len(self.tasks) > self._max_tasks:
            self.tasks.popitem(last=False)
        return task

    def alive_workers(self) -> list[Worker]:
        """Return the workers that are online and were heard of lately."""
        with self.lock:
            return [worker for worker in self.workers.values() if worker.alive]

    def task_types(self) -> list[str]:
        """Return the names of the tasks heard of, sorted."""
        with self.lock:
            return sorted({task.name for task in self.tasks.values() if task.name})

    def tasks_by_time(self, limit: int | None = None) -> Iterator[tuple[str, Task]]:
        """Yield ``(id, task)``, last heard of first, at most `limit`."""
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
        """Forget tasks: those that have ended, or, unless `ready`, the others."""
        with self.lock:
            for uuid in [uuid for uuid, task in self.tasks.items() if task.ready == ready]:
                del self.tasks[uuid]

    def clear(self, ready: bool = True) -> None:
        """Forget workers and counts, and with `ready` only those tasks that have ended, else all."""
        with self.lock:
            self.workers.clear()
            self.event_count = self.task_count = 0
            self.counts.clear()
            self.clear_tasks()
            if not ready:
                self.tasks.clear()

    def freeze_while(self, function: Callable[..., Any], *args: Any, clear_after: bool = False, **kwargs: Any) -> Any:
        """Call `function` while no event changes anything; return what it returns."""
        with self.lock:
            try:
                return function(*args, **kwargs)
            finally:
                if clear_after:
                    self.clear()

    def __repr__(self) -> str:
        return f"<State events={self.event_count} tasks={len(self.tasks)} workers={len(self.workers)}>"
