"""The result of one task, sent or run eagerly."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from framework.client.current import AppBound
from framework.client.results._documents import (
    PROPAGATE_STATES,
    READY_STATES,
    OnMessage,
    ResultWatcher,
    decode,
    look,
    raisable,
    refuse_inside_a_task,
    result_of,
    revoke,
    store_of,
    wait_for_results,
)
from framework.exceptions import IncompleteStream, TimeoutError  # noqa: A004 - the name users catch

if TYPE_CHECKING:
    from framework.api.result_store import ResultStore
    from framework.client.app import App
    from framework.client.results.sets import GroupResult

R = TypeVar("R")

_PENDING: Final[dict[str, Any]] = {"status": "PENDING", "result": None}


class AsyncResult(AppBound, Generic[R]):
    """The result of a task that was sent. `R` is the return type of the task."""

    #: The exception of `get` after `timeout`.
    TimeoutError = TimeoutError

    __slots__ = ("_app", "_document", "_given_name", "_ignored", "id", "parent")

    def __init__(
        self,
        id: str,  # noqa: A002 - Celery's name
        *,
        app: App | None = None,
        parent: AsyncResult[Any] | None = None,
        task_name: str | None = None,
        ignored: bool = False,
    ) -> None:
        self.id = id
        self.parent = parent
        self._app = app
        self._given_name = task_name
        self._ignored = ignored
        #: The document, only if it is final.
        self._document: dict[str, Any] | None = None

    @property
    def task_id(self) -> str:
        """As `id`."""
        return self.id

    @property
    def backend(self) -> ResultStore:
        """The result store with the document."""
        return self.app.result_store

    def _read(self) -> dict[str, Any]:
        """Return the current document. Raises `ConnectionLost`, and `MessageError` for a malformed document."""
        if self._document is not None:
            return self._document
        raw = look(self.app, [self.id]).get(self.id)
        return _PENDING if raw is None else self._take(raw)

    def _take(self, raw: bytes) -> dict[str, Any]:
        document = decode(self.app, raw)
        if document.get("status") in READY_STATES:
            self._document = document
        return document

    @property
    def state(self) -> str:
        """PENDING (or unknown), STARTED, RETRY, SUCCESS, FAILURE, REVOKED, or a custom state."""
        return str(self._read().get("status"))

    status = state

    @property
    def result(self) -> Any:
        """The return value of the task, or its exception; None before its end."""
        return result_of(self._read())

    @property
    def info(self) -> Any:
        """As `result`; for a custom state, its `meta`."""
        return self.result

    @property
    def traceback(self) -> str | None:
        """The traceback of a failure, as text."""
        return self._read().get("traceback")

    @property
    def date_done(self) -> datetime | None:
        """When the task ended."""
        moment = self._read().get("date_done")
        return datetime.fromisoformat(moment) if isinstance(moment, str) else moment

    @property
    def children(self) -> list[Any]:
        """The results of the tasks that the task has sent."""
        # Here, because of a real circle: children may be sets of results, and sets consist of results.
        from framework.client.results.sets import result_from_tuple

        return [result_from_tuple(child, self.app) for child in self._read().get("children") or ()]

    @property
    def name(self) -> str | None:
        """The name of the task (with extended results, or in the process that sent it)."""
        return self._read().get("name") or self._given_name

    @property
    def args(self) -> Any:
        """The arguments of the task (extended results only)."""
        return self._read().get("args")

    @property
    def kwargs(self) -> Any:
        """The keyword arguments of the task (extended results only)."""
        return self._read().get("kwargs")

    @property
    def worker(self) -> str | None:
        """The node that ran the task (extended results only)."""
        return self._read().get("worker")

    @property
    def retries(self) -> int | None:
        """The number of retries (extended results only)."""
        return self._read().get("retries")

    @property
    def queue(self) -> str | None:
        """The queue of the task (extended results only)."""
        return self._read().get("queue")

    @property
    def group_id(self) -> str | None:
        """The id of the task's group."""
        return self._read().get("group_id")

    @property
    def ignored(self) -> bool:
        """Whether the task was sent with ``ignore_result``, and so never has a result."""
        return self._ignored

    def exists(self) -> bool:
        """Whether the result store has a document of the task."""
        return self.state != "PENDING"

    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in READY_STATES

    def successful(self) -> bool:
        """Whether the task has succeeded."""
        return self.state == "SUCCESS"

    def failed(self) -> bool:
        """Whether the task has failed."""
        return self.state == "FAILURE"

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Wait for the end of the task and return its value.

        `timeout` is in seconds (None: no limit); `callback` is called with id and value, `on_message` with the document
        of each state meanwhile (``{"status", "result", …}``); `interval` and `no_ack` are ignored. Raises
        `framework.exceptions.TimeoutError`, with `propagate` the task's exception, and `RuntimeError` inside a task
        unless `disable_sync_subtasks` is false: waiting there can block every slot.
        """
        del interval, no_ack
        if self._ignored:
            return cast("R", None)
        refuse_inside_a_task(disable_sync_subtasks)
        document = self._document
        if document is None:
            document = self._wait(timeout, propagate and follow_parents, on_interval, on_message)
        value = result_of(document)
        if propagate and document.get("status") in PROPAGATE_STATES:
            raise raisable(value)
        if callback is not None:
            callback(self.id, value)
        return cast("R", value)

    wait = get

    async def aget(self, timeout: float | None = None, propagate: bool = True, **options: Any) -> R:
        """As `get`, from a coroutine: it waits in a thread and does not block the event loop."""
        import asyncio  # here: most programs do not need it

        return await asyncio.to_thread(self.get, timeout, propagate, **options)

    def _wait(
        self,
        timeout: float | None,
        parents: bool,
        on_interval: Callable[[], object] | None,
        on_message: OnMessage | None,
    ) -> dict[str, Any]:
        """Wait for the document; a failed parent in a chain ends the wait, because this task will never run."""
        is_final = ResultWatcher(self.app, on_message)
        waited = {self.id: self}
        parent = self.parent
        while parents and parent is not None:
            if isinstance(parent, AsyncResult) and parent._document is None:
                waited[parent.id] = parent
            parent = parent.parent
        deadline = None if timeout is None else time.monotonic() + timeout
        for task_id, raw in wait_for_results(self.app, waited, timeout, is_final, on_interval):
            document = waited[task_id]._take(raw)
            if task_id == self.id:
                return document
            if document.get("status") in PROPAGATE_STATES:
                # The worker stores failures for the rest of the chain later, or never if it dies in between.
                raise raisable(result_of(document))
            if deadline is not None and time.monotonic() > deadline:
                break
        raise TimeoutError(f"the result of task {self.id} did not arrive within {timeout} seconds")

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None) -> Any:
        """Return the current result; with `propagate`, raise that of a failure."""
        document = self._read()
        value = result_of(document)
        if propagate and document.get("status") in PROPAGATE_STATES:
            raise raisable(value)
        if callback is not None:
            callback(self.id, value)
        return value

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[AsyncResult[Any] | GroupResult | None, Any]]:
        """Yield ``(parent, result)`` for this result and all below it, level by level.

        Raises `IncompleteStream` at a task that has not ended, unless `intermediate`.
        """
        waiting: deque[tuple[Any, Any]] = deque([(None, self)])
        while waiting:
            parent, node = waiting.popleft()
            yield parent, node
            if node.ready():
                waiting.extend((node, child) for child in node.children)
            elif not intermediate:
                raise IncompleteStream(f"the task {node.id} has not ended")

    def collect(self, intermediate: bool = False, **options: Any) -> Iterator[tuple[Any, Any]]:
        """Wait for this result and all below it; yield ``(result, value)``; `options` are those of `get`."""
        for _, node in self.iterdeps(intermediate=True):
            if intermediate and not node.ready():
                continue
            yield node, node.get(**options)

    def get_leaf(self) -> Any:
        """Wait for this result and all below it; return the value of the last."""
        value = None
        for _, value in self.collect():  # noqa: B007 - the last one counts
            pass
        return value

    def forget(self) -> None:
        """Delete the result and those of its parents from the store."""
        self._document = None
        if self.parent is not None:
            self.parent.forget()
        store_of(self.app).forget([self.id])

    def revoke(
        self,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Make workers skip the task; with `terminate`, end it if it is running.

        With `wait`, returns the replies of workers, which may be `timeout` seconds apart (default 1).
        """
        return revoke(self.app, self.id, terminate, signal, wait, timeout, options)

    def as_tuple(self) -> Any:
        """Return ``((id, parent), None)``, the form in messages and documents."""
        return [[self.id, self.parent.as_tuple() if self.parent is not None else None], None]

    __json__ = as_tuple

    def as_list(self) -> list[str]:
        """Return its id and those of its parents."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return self.id == other.id
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.id, self.parent, self._given_name)


def _restore(
    kind: type[AsyncResult[Any]], task_id: str, parent: AsyncResult[Any] | None, name: str | None
) -> AsyncResult[Any]:
    return kind(task_id, parent=parent, task_name=name)


class EagerResult(AsyncResult[R]):
    """The result of an eager run."""

    __slots__ = ()

    def __init__(
        self,
        id: str,  # noqa: A002 - Celery's name
        value: Any,
        state: str,
        traceback: str | None = None,
        *,
        app: App | None = None,
        task_name: str | None = None,
        children: Sequence[Any] = (),
    ) -> None:
        super().__init__(id, app=app, task_name=task_name)
        self._document = {
            "status": state,
            "result": value,
            "traceback": traceback,
            "children": [child.as_tuple() for child in children],
            "date_done": None,
        }

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: Any = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Return the value of the task at once; with `propagate`, raise its exception."""
        return cast("R", self.maybe_throw(propagate, callback))

    def forget(self) -> None:
        """Do nothing: the store has no document."""

    def revoke(self, *_args: Any, **_options: Any) -> None:
        """Do nothing: the task has already run."""
