"""Functions that single results and sets share: reading documents from the result store, revoking."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from framework.api.backoff import STABLE, Backoff
from framework.client.request import parent_request
from framework.exceptions import (
    ConfigError,
    ConnectionLost,
    TimeoutError,  # noqa: A004 - the name users catch
)
from framework.wire.exception_document import decode_exception, decode_returned
from framework.wire.serialization import decode_result

if TYPE_CHECKING:
    from framework.api.result_store import ResultStore
    from framework.client.app import App

logger = logging.getLogger(__name__)

#: The result stores that this process has reached.
_reached: Final[weakref.WeakSet[ResultStore]] = weakref.WeakSet()
#: A callback for each document.
OnMessage = Callable[[dict[str, Any]], object]
READY_STATES: Final = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
EXCEPTION_STATES: Final = frozenset({"RETRY", "FAILURE", "REVOKED"})
PROPAGATE_STATES: Final = frozenset({"FAILURE", "REVOKED"})


def store_of(app: App) -> ResultStore:
    store = app.result_store
    if not store.traits.stores:
        raise ConfigError(
            'results are not kept: set backend under [result], for example backend = "redis://localhost:6379/0", '
            "or App(backend=…)"
        )
    return store


def look(app: App, task_ids: Sequence[str]) -> dict[str, bytes]:
    """Return the documents of `task_ids` that exist. Raises `ConnectionLost`."""
    store = store_of(app)
    documents = store.fetch(task_ids)
    _reached.add(store)
    return documents


def wait_for_results(
    app: App,
    task_ids: Iterable[str],
    timeout: float | None,
    is_final: Callable[[bytes], bool],
    on_interval: Callable[[], object] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yield ``(task id, document)`` as `ResultStore.wait` does, but connect again when the connection is lost.

    Raises `TimeoutError` at `timeout`, also while the store is away, and `ConnectionLost` once `app` is closed, or if
    this process has never reached the store.
    """
    store = store_of(app)
    missing = dict.fromkeys(task_ids)
    if missing and store not in _reached:
        look(app, list(missing)[:1])
    deadline = None if timeout is None else time.monotonic() + timeout
    # The first pause is short: what is sent to a reply queue that does not exist is lost.
    pauses = Backoff(0.02, 1.0)
    left = timeout
    while missing:
        began = time.monotonic()
        try:
            for task_id, document in store.wait(list(missing), left, is_final, on_interval):
                missing.pop(task_id, None)
                yield task_id, document
            return
        except ConnectionLost as error:
            if app.result_store is not store:
                raise  # the application was closed meanwhile
            lost = error
        except TimeoutError:
            if timeout is not None and pauses.attempts:
                # The store knows only the seconds that were left when the connection was back.
                raise TimeoutError(f"{len(missing)} results did not arrive within {timeout:g} s") from None
            raise
        if time.monotonic() - began > STABLE:
            pauses.reset()
        pause = pauses.next()
        if deadline is not None and (rest := deadline - time.monotonic()) <= pause:
            time.sleep(max(0.0, rest))
            raise TimeoutError(
                f"{len(missing)} results did not arrive within {timeout:g} s: the result store {store.display_url} "
                f"is away ({lost})"
            ) from lost
        if pauses.attempts == 1:
            logger.warning(
                "Connection to the result store %s lost: connecting again, and waiting on for %d results (%s)",
                store.display_url,
                len(missing),
                lost,
            )
        time.sleep(pause)
        if on_interval is not None:
            on_interval()
        if deadline is not None:
            left = max(0.0, deadline - time.monotonic())


def revoke(
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


def decode(app: App, raw: bytes) -> dict[str, Any]:
    settings = app.conf.settings
    return decode_result(raw, settings.result.serializer, settings.result.accept_content or settings.accept_content)


class ResultWatcher:
    """The `is_final` function for a wait: returns whether a document is final; calls `on_message` once with each."""

    def __init__(self, app: App, on_message: OnMessage | None) -> None:
        self._app = app
        self._on_message = on_message
        #: The last document of each task: a store may return the same document several times.
        self._last: dict[str, bytes] = {}

    def __call__(self, raw: bytes) -> bool:
        document = decode(self._app, raw)
        if self._on_message is not None:
            task_id = str(document.get("task_id"))
            if self._last.get(task_id) != raw:
                self._last[task_id] = raw
                self._on_message(document)
        return document.get("status") in READY_STATES


def result_of(document: dict[str, Any]) -> Any:
    value = document.get("result")
    if document.get("status") in EXCEPTION_STATES and value is not None:
        return decode_exception(value)
    return decode_returned(value)


def raisable(value: Any) -> BaseException:
    return value if isinstance(value, BaseException) else decode_exception(value)


def refuse_inside_a_task(refuse: bool) -> None:
    if refuse and parent_request() is not None:
        raise RuntimeError(
            "Never call result.get() within a task: every slot may end up waiting for a task that finds no slot. "
            "Chain the tasks instead, or pass disable_sync_subtasks=False"
        )
