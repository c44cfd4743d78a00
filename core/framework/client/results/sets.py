"""The results of many tasks: sets, groups, and results from stored tuples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from framework.client.current import AppBound, find_app
from framework.client.results._documents import (
    OnMessage,
    ResultWatcher,
    look,
    refuse_inside_a_task,
    revoke,
    store_of,
    wait_for_results,
)
from framework.client.results.single import AsyncResult, EagerResult
from framework.wire.serialization import decode_stored, encode

if TYPE_CHECKING:
    from framework.client.app import App


class ResultSet(AppBound):
    """A set of results, which may contain other sets."""

    def __init__(self, results: Iterable[AsyncResult[Any]] = (), app: App | None = None) -> None:
        #: `AsyncResult`s, and sets of them.
        self.results: list[Any] = list(results)
        self._app = app

    @property
    def app(self) -> App:
        """The application of its first result, else the current one."""
        if self._app is None and self.results:
            self._app = self.results[0].app
        return super().app

    def add(self, result: AsyncResult[Any]) -> None:
        """Add `result` if it is not in the set."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: AsyncResult[Any] | str) -> None:
        """Remove a result. Raises `KeyError` if it is not in the set."""
        found = next((one for one in self.results if one == result), None)
        if found is None:
            raise KeyError(str(result))
        self.results.remove(found)

    def discard(self, result: AsyncResult[Any] | str) -> None:
        """Remove a result if it is in the set."""
        with contextlib.suppress(KeyError):
            self.remove(result)

    def update(self, results: Iterable[AsyncResult[Any]]) -> None:
        """Add those of `results` that are not in the set."""
        present = set(self.results)
        self.results.extend(result for result in results if result not in present)

    def clear(self) -> None:
        """Remove all results."""
        self.results.clear()

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[AsyncResult[Any]]:
        return iter(self.results)

    def __getitem__(self, index: int) -> AsyncResult[Any]:
        found: AsyncResult[Any] = self.results[index]
        return found

    def _leaves(self) -> Iterator[AsyncResult[Any]]:
        """Yield the results of single tasks, also from inner sets."""
        for result in self.results:
            if isinstance(result, ResultSet):
                yield from result._leaves()
            else:
                yield result

    def _refresh(self) -> None:
        """Read the documents of all results that are not final yet, at once."""
        open_ = {result.id: result for result in self._leaves() if result._document is None}
        if open_:
            for task_id, raw in look(self.app, list(open_)).items():
                open_[task_id]._take(raw)

    def _final(self) -> list[str | None]:
        self._refresh()
        return [None if result._document is None else result._document.get("status") for result in self._leaves()]

    def completed_count(self) -> int:
        """Return the number of tasks that have succeeded."""
        return self._final().count("SUCCESS")

    def ready(self) -> bool:
        """Whether all tasks have ended."""
        return all(self._final())

    def successful(self) -> bool:
        """Whether all tasks have succeeded."""
        return all(state == "SUCCESS" for state in self._final())

    def failed(self) -> bool:
        """Whether a task has failed."""
        return "FAILURE" in self._final()

    def waiting(self) -> bool:
        """Whether a task has not ended."""
        return not self.ready()

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None) -> None:
        """Raise the exception of the first task that has failed."""
        for result in self.results:
            result.maybe_throw(propagate, callback)

    def iterate(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
        on_message: OnMessage | None = None,
    ) -> Iterator[tuple[AsyncResult[Any], Any]]:
        """Yield ``(result, value)`` as the tasks end; `timeout` is in seconds, for all tasks together.

        Raises `framework.exceptions.TimeoutError`, and with `propagate` the exception of a failed task.
        """
        refuse_inside_a_task(disable_sync_subtasks)
        open_: dict[str, AsyncResult[Any]] = {}
        for result in self._leaves():
            if result._ignored:
                continue
            if result._document is None:
                open_[result.id] = result
            else:
                yield result, result.maybe_throw(propagate)
        if not open_:
            return
        app = self.app
        is_final = ResultWatcher(app, on_message)
        for task_id, raw in wait_for_results(app, open_, timeout, is_final, on_interval):
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
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> list[Any]:
        """Wait for all tasks and return their values in the order of the results, see `iterate`."""
        del interval, no_ack
        values: dict[str, Any] = {}
        for result, value in self.iterate(timeout, propagate, disable_sync_subtasks, on_interval, on_message):
            values[result.id] = value
            if callback is not None:
                callback(result.id, value)
        return self._shaped(values)

    get = join_native = join

    def _shaped(self, values: Mapping[str, Any]) -> list[Any]:
        return [
            result._shaped(values) if isinstance(result, ResultSet) else values.get(result.id)
            for result in self.results
        ]

    def forget(self) -> None:
        """Delete the results from the store."""
        leaves = list(self._leaves())
        ids = [result.id for result in leaves if not isinstance(result, EagerResult)]
        for result in leaves:
            if not isinstance(result, EagerResult):
                result._document = None
        if ids:
            store_of(self.app).forget(ids)

    def revoke(
        self,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Make workers skip the tasks, by one message; arguments as in `AsyncResult.revoke`."""
        ids = [result.id for result in self._leaves()]
        return revoke(self.app, ids, terminate, signal, wait, timeout, options)

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

    def save(self) -> None:
        """Store the ids of its tasks in the result store, for `restore`; they expire like results.

        Raises `ConfigError` if the result store cannot store groups.
        """
        settings = self.app.conf.settings.result
        store_of(self.app).save_group(self.id, encode({"result": self.as_tuple()}, settings.serializer)[2])

    def delete(self) -> None:
        """Undo `save`. The results of the tasks stay in the store."""
        store_of(self.app).forget_group(self.id)

    @classmethod
    def restore(cls, id: str, app: App | None = None) -> GroupResult | None:  # noqa: A002 - Celery's name
        """Return the group that was saved with `id`, or None."""
        if app is None:
            app = find_app()
        raw = store_of(app).fetch_group(id)
        if raw is None:
            return None
        settings = app.conf.settings
        document = decode_stored(
            raw, settings.result.serializer, settings.result.accept_content or settings.accept_content
        )
        found: GroupResult = result_from_tuple(document["result"], app)
        return found

    def forget(self) -> None:
        """Delete the results and those of its parents from the store."""
        super().forget()
        if self.parent is not None:
            self.parent.forget()

    def as_list(self) -> list[str]:
        """Return its id and those of its parents."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

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


class Groups:
    """``app.GroupResult``: makes and restores group results of one application."""

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(self, *args: Any, **kwargs: Any) -> GroupResult:
        """Return a `GroupResult`."""
        return GroupResult(*args, **{"app": self._app, **kwargs})

    def restore(self, id: str) -> GroupResult | None:  # noqa: A002 - Celery's name
        """Return the group that was saved with `id`, or None."""
        return GroupResult.restore(id, self._app)


def result_from_tuple(value: Any, app: App | None = None) -> Any:
    """Return the result that ``((id, parent), members or None)`` describes. Raises `ValueError`."""
    try:
        own, members = value
        task_id, parent = own if isinstance(own, (list, tuple)) else (own, None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a result: {value!r:.200}") from error
    above = result_from_tuple(parent, app) if parent else None
    if members is not None:
        return GroupResult(str(task_id), [result_from_tuple(one, app) for one in members], parent=above, app=app)
    return AsyncResult(str(task_id), parent=above, app=app)
