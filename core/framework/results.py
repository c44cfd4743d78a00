"""Results: what became of a task, for whoever sent it.

1. `AsyncResult` reads a task's document from the result store, and waits for it without polling where the store can
   push.
2. `EagerResult` is the same for a task that ran here and now.
3. `ResultSet` waits for many at once; `GroupResult` is one with an id.
4. A failure is raised again as the class that it was, see `framework.serialization.decode_exception`.

Source: the result documents of Celery 5.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from framework._request import parent_request
from framework.exceptions import ConfigError, IncompleteStream, TimeoutError  # noqa: A004 - the name users catch
from framework.serialization import decode_exception, decode_result

if TYPE_CHECKING:
    from framework.api.result_store import ResultStore
    from framework.app import App

__all__ = ["AsyncResult", "EagerResult", "GroupResult", "ResultSet"]

R = TypeVar("R")

READY_STATES = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
EXCEPTION_STATES = frozenset({"RETRY", "FAILURE", "REVOKED"})
PROPAGATE_STATES = frozenset({"FAILURE", "REVOKED"})
_PENDING: dict[str, Any] = {"status": "PENDING", "result": None}


class AsyncResult(Generic[R]):
    """The result of a task that was sent. `R` is what the task returns."""

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
        #: The document once it is final.
        self._document: dict[str, Any] | None = None

    # ------------------------------------------------ reading

    @property
    def app(self) -> App:
        """The application whose result store is asked."""
        if self._app is None:
            from framework._apps import current_app

            self._app = current_app()
        return self._app

    @property
    def task_id(self) -> str:
        """As `id`."""
        return self.id

    @property
    def backend(self) -> ResultStore:
        """The result store that is asked."""
        return self.app.result_store

    def _read(self) -> dict[str, Any]:
        """Return the document as it is now. Raises `ConnectionLost`, and `MessageError` for what is no document."""
        if self._document is not None:
            return self._document
        raw = _store(self.app).fetch([self.id]).get(self.id)
        return _PENDING if raw is None else self._take(raw)

    def _take(self, raw: bytes) -> dict[str, Any]:
        document = _decode(self.app, raw)
        if document.get("status") in READY_STATES:
            self._document = document
        return document

    @property
    def state(self) -> str:
        """PENDING (or unknown), STARTED, RETRY, SUCCESS, FAILURE, REVOKED, or a state of the task's own."""
        return str(self._read().get("status"))

    status = state

    @property
    def result(self) -> Any:
        """What the task returned, or the exception it raised; None while there is neither."""
        return _result_of(self._read())

    @property
    def info(self) -> Any:
        """As `result`; for a state of the task's own, what it gave with it."""
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
        """The results of what the task has sent."""
        return [result_from_tuple(child, self.app) for child in self._read().get("children") or ()]

    @property
    def name(self) -> str | None:
        """The task's name: with extended results, or when this process has sent it."""
        return self._read().get("name") or self._given_name

    @property
    def args(self) -> Any:
        """Its arguments (extended results only)."""
        return self._read().get("args")

    @property
    def kwargs(self) -> Any:
        """Its keyword arguments (extended results only)."""
        return self._read().get("kwargs")

    @property
    def worker(self) -> str | None:
        """The node that ran it (extended results only)."""
        return self._read().get("worker")

    @property
    def retries(self) -> int | None:
        """How often it was retried (extended results only)."""
        return self._read().get("retries")

    @property
    def queue(self) -> str | None:
        """The queue it came from (extended results only)."""
        return self._read().get("queue")

    @property
    def group_id(self) -> str | None:
        """The group it belongs to."""
        return self._read().get("group_id")

    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in READY_STATES

    def successful(self) -> bool:
        """Whether it has ended well."""
        return self.state == "SUCCESS"

    def failed(self) -> bool:
        """Whether it has failed."""
        return self.state == "FAILURE"

    # ------------------------------------------------ waiting

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
        """Wait for the task and return what it returned.

        `timeout` is in seconds (None: for ever); `callback` is called with id and result; `interval`, `no_ack` and
        `on_message` are accepted and not needed. Raises `framework.exceptions.TimeoutError`, the task's exception if
        `propagate`, and `RuntimeError` inside a task unless `disable_sync_subtasks` is false: waiting there can
        block every slot.
        """
        del interval, no_ack, on_message
        if self._ignored:
            return cast("R", None)
        _refuse_inside_a_task(disable_sync_subtasks)
        document = self._document
        if document is None:
            document = self._wait(timeout, propagate and follow_parents, on_interval)
        value = _result_of(document)
        if propagate and document.get("status") in PROPAGATE_STATES:
            raise _raisable(value)
        if callback is not None:
            callback(self.id, value)
        return cast("R", value)

    wait = get

    async def aget(self, timeout: float | None = None, propagate: bool = True, **options: Any) -> R:
        """As `get`, from a coroutine: the wait happens in a thread and does not block the event loop."""
        import asyncio

        return await asyncio.to_thread(self.get, timeout, propagate, **options)

    def _wait(self, timeout: float | None, parents: bool, on_interval: Callable[[], object] | None) -> dict[str, Any]:
        """Wait for this one; a parent in a chain that fails ends the wait, as this one will then never run."""
        before = []
        parent = self.parent
        while parents and parent is not None:
            if isinstance(parent, AsyncResult) and parent._document is None:
                before.append(parent)
            parent = parent.parent
        if not before:
            for _task_id, raw in _store(self.app).wait([self.id], timeout, self._is_final, on_interval):
                return self._take(raw)
            raise TimeoutError(f"the result of task {self.id} did not arrive")
        waited = {result.id: result for result in [self, *before]}
        deadline = None if timeout is None else time.monotonic() + timeout
        for task_id, raw in _store(self.app).wait(list(waited), timeout, self._is_final, on_interval):
            document = waited[task_id]._take(raw)
            if task_id == self.id:
                return document
            if document.get("status") in PROPAGATE_STATES:
                # The worker marks the rest of the chain as failed: a moment later, or never if it dies between the
                # two.
                raise _raisable(_result_of(document))
            if deadline is not None and time.monotonic() > deadline:
                break
        raise TimeoutError(f"the result of task {self.id} did not arrive within {timeout} seconds")

    def _is_final(self, raw: bytes) -> bool:
        return _decode(self.app, raw).get("status") in READY_STATES

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None) -> Any:
        """Return the result as it is now; raise it if it is a failure."""
        document = self._read()
        value = _result_of(document)
        if propagate and document.get("status") in PROPAGATE_STATES:
            raise _raisable(value)
        if callback is not None:
            callback(self.id, value)
        return value

    # ------------------------------------------------ those below it

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[AsyncResult[Any] | GroupResult | None, Any]]:
        """Yield ``(parent, result)`` of this result and of what its task has sent, level by level.

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
        """Wait for this result and for all below it: yield ``(result, value)``; `options` are those of `get`."""
        for _, node in self.iterdeps(intermediate=True):
            if intermediate and not node.ready():
                continue
            yield node, node.get(**options)

    def get_leaf(self) -> Any:
        """Wait for this result and for all below it; return the value of the last."""
        value = None
        for _, value in self.collect():  # noqa: B007 - the last one counts
            pass
        return value

    # ------------------------------------------------ doing something about it

    def forget(self) -> None:
        """Drop the result from the store, and that of its parents."""
        self._document = None
        if self.parent is not None:
            self.parent.forget()
        _store(self.app).forget([self.id])

    def revoke(
        self,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Have workers skip the task; with `terminate`, end it if it runs already.

        With `wait` it returns what workers reply, at most `timeout` seconds apart (default 1).
        """
        return _revoke(self.app, self.id, terminate, signal, wait, timeout, options)

    # ------------------------------------------------ identity

    def as_tuple(self) -> Any:
        """Return ``((id, parent), None)``, the form that travels in messages and documents."""
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
    """The result of a task that ran where it was called."""

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
        """Return what the task returned, or raise its exception if `propagate`. There is nothing to wait for."""
        return cast("R", self.maybe_throw(propagate, callback))

    def forget(self) -> None:
        """Do nothing: nothing is stored."""

    def revoke(self, *_args: Any, **_options: Any) -> None:
        """Do nothing: the task has run."""


class ResultSet:
    """Results that are waited for together."""

    def __init__(self, results: Iterable[AsyncResult[Any]] = (), app: App | None = None) -> None:
        self.results: list[AsyncResult[Any]] = list(results)
        self._app = app

    @property
    def app(self) -> App:
        """The application of its first result, else the current one."""
        if self._app is None:
            self._app = self.results[0].app if self.results else None
        if self._app is None:
            from framework._apps import current_app

            self._app = current_app()
        return self._app

    # ------------------------------------------------ members

    def add(self, result: AsyncResult[Any]) -> None:
        """Add `result` if it is not in the set."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: AsyncResult[Any] | str) -> None:
        """Take a result out. Raises `KeyError` when it is not in the set."""
        found = next((one for one in self.results if one == result), None)
        if found is None:
            raise KeyError(str(result))
        self.results.remove(found)

    discard = remove

    def update(self, results: Iterable[AsyncResult[Any]]) -> None:
        """Add those of `results` that are not in the set."""
        present = set(self.results)
        self.results.extend(result for result in results if result not in present)

    def clear(self) -> None:
        """Take all results out."""
        self.results.clear()

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[AsyncResult[Any]]:
        return iter(self.results)

    def __getitem__(self, index: int) -> AsyncResult[Any]:
        return self.results[index]

    # ------------------------------------------------ how far they are

    def _refresh(self) -> None:
        """Read all documents that are not final, in one go."""
        open_ = {result.id: result for result in self.results if result._document is None}
        if open_:
            for task_id, raw in _store(self.app).fetch(list(open_)).items():
                open_[task_id]._take(raw)

    def _final(self) -> list[str | None]:
        self._refresh()
        return [None if result._document is None else result._document.get("status") for result in self.results]

    def completed_count(self) -> int:
        """Return how many have succeeded."""
        return self._final().count("SUCCESS")

    def ready(self) -> bool:
        """Whether all tasks have ended."""
        return all(self._final())

    def successful(self) -> bool:
        """Whether all have succeeded."""
        return all(state == "SUCCESS" for state in self._final())

    def failed(self) -> bool:
        """Whether one has failed."""
        return "FAILURE" in self._final()

    def waiting(self) -> bool:
        """Whether one has not ended."""
        return not self.ready()

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None) -> None:
        """Raise the exception of one that has failed."""
        for result in self.results:
            result.maybe_throw(propagate, callback)

    # ------------------------------------------------ waiting

    def iterate(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> Iterator[tuple[AsyncResult[Any], Any]]:
        """Yield ``(result, value)`` as the tasks end; `timeout` in seconds is for all of them.

        Raises `framework.exceptions.TimeoutError`, and if `propagate` the exception of a task that failed.
        """
        _refuse_inside_a_task(disable_sync_subtasks)
        open_: dict[str, AsyncResult[Any]] = {}
        for result in self.results:
            if result._ignored:
                continue
            if result._document is None:
                open_[result.id] = result
            else:
                yield result, result.maybe_throw(propagate)
        if not open_:
            return
        app = self.app

        def is_final(raw: bytes) -> bool:
            return _decode(app, raw).get("status") in READY_STATES

        for task_id, raw in _store(app).wait(list(open_), timeout, is_final, on_interval):
            result = open_[task_id]
            result._take(raw)
            yield result, result.maybe_throw(propagate)

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: Any = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> list[Any]:
        """Wait for all tasks and return their results in the order they were sent, see `iterate`."""
        del interval, no_ack, on_message
        values: dict[str, Any] = {}
        for result, value in self.iterate(timeout, propagate, disable_sync_subtasks, on_interval):
            values[result.id] = value
            if callback is not None:
                callback(result.id, value)
        return [values.get(result.id) for result in self.results]

    get = join_native = join

    def forget(self) -> None:
        """Drop the results from the store."""
        ids = [result.id for result in self.results if not isinstance(result, EagerResult)]
        for result in self.results:
            if not isinstance(result, EagerResult):
                result._document = None
        if ids:
            _store(self.app).forget(ids)

    def revoke(
        self,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Have workers skip the tasks, by one message; arguments as in `AsyncResult.revoke`."""
        ids = [result.id for result in self.results]
        return _revoke(self.app, ids, terminate, signal, wait, timeout, options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self.results)} results>"


class GroupResult(ResultSet):
    """The results of a group."""

    def __init__(
        self,
        id: str,  # noqa: A002 - Celery's name
        results: Iterable[AsyncResult[Any]] = (),
        *,
        parent: AsyncResult[Any] | None = None,
        app: App | None = None,
    ) -> None:
        super().__init__(results, app)
        self.id = id
        self.parent = parent

    @property
    def children(self) -> list[AsyncResult[Any]]:
        """The results of its tasks."""
        return self.results

    def as_tuple(self) -> Any:
        """Return ``((id, parent), [result tuples])``."""
        parent = self.parent.as_tuple() if self.parent is not None else None
        return [[self.id, parent], [result.as_tuple() for result in self.results]]

    __json__ = as_tuple

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return self.id == other.id and self.results == other.results
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)


def result_from_tuple(value: Any, app: App | None = None) -> Any:
    """Return the result that ``((id, parent), members or None)`` stands for. Raises `ValueError`."""
    try:
        own, members = value
        task_id, parent = own if isinstance(own, (list, tuple)) else (own, None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a result: {value!r:.200}") from error
    above = result_from_tuple(parent, app) if parent else None
    if members is not None:
        return GroupResult(str(task_id), [result_from_tuple(one, app) for one in members], parent=above, app=app)
    return AsyncResult(str(task_id), parent=above, app=app)


# ---------------------------------------------------------------- documents


def _store(app: App) -> ResultStore:
    store = app.result_store
    if not store.traits.stores:
        raise ConfigError(
            'results are not kept: set backend under [result], for example backend = "redis://localhost:6379/0", '
            "or App(backend=…)"
        )
    return store


def _revoke(
    app: App,
    ids: str | list[str],
    terminate: bool,
    signal: str | int | None,
    wait: bool,
    timeout: float | None,
    options: Mapping[str, Any],
) -> Any:
    waiting: dict[str, Any] = {"reply": True, "timeout": 1.0 if timeout is None else timeout} if wait else {}
    return app.control.revoke(ids, terminate=terminate, signal=signal, **{**waiting, **options})


def _decode(app: App, raw: bytes) -> dict[str, Any]:
    settings = app.conf.settings
    return decode_result(raw, settings.result.serializer, settings.result.accept_content or settings.accept_content)


def _result_of(document: dict[str, Any]) -> Any:
    value = document.get("result")
    if document.get("status") in EXCEPTION_STATES and value is not None:
        return decode_exception(value)
    return value


def _raisable(value: Any) -> BaseException:
    return value if isinstance(value, BaseException) else decode_exception(value)


def _refuse_inside_a_task(refuse: bool) -> None:
    if refuse and parent_request() is not None:
        raise RuntimeError(
            "Never call result.get() within a task: every slot may end up waiting for a task that finds no slot. "
            "Chain the tasks instead, or give disable_sync_subtasks=False"
        )
