"""Deduplication: skips redelivered messages of tasks that have succeeded but whose acknowledgement was lost.

Only with `deduplicate_successful_tasks`, and only for late ack.

1. Remembers, by id, tasks that succeeded in this worker, once their result is stored: limited in number and time.
2. Asks the result store, once and with a short time-out, about a redelivered task that is not remembered. The task runs
   again when in doubt: the store is away, the task belongs to a chord and may not be counted, or it was retried.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from framework.exceptions import MessageError
from framework.wire.result_document import SUCCESS
from framework.wire.serialization import decode_result
from framework.worker.dispatch.redelivery import FinishedTask, finished, is_redelivered

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.api.result_store import ResultStore
    from framework.client.request import Context
    from framework.message import Payload
    from framework.worker.task_request import TaskRequest

logger = logging.getLogger(__name__)

#: Seconds to wait for the store: the loop, and with it the renewal of leases, waits too.
_FETCH_TIMEOUT: Final = 2.0
#: Seconds to wait after the store failed before it is asked again.
_PAUSE: Final = 10.0


class Deduplication:
    """Recognises redelivered messages of tasks that have succeeded. Used in the loop only."""

    def __init__(
        self,
        settings: Settings,
        store: ResultStore,
        request_of: Callable[[Payload], Context],
        on_change: Callable[[], object],
    ) -> None:
        """`on_change` is called after an acknowledgement, which the next tick sends."""
        self._maximum = settings.worker.successful_max
        self._expires = settings.worker.successful_expires
        self._serializer = settings.result.serializer
        self._accept = settings.result.accept_content or settings.accept_content
        self._store = store if store.traits.stores and store.traits.shared else None
        self._request_of = request_of
        self._on_change = on_change
        #: By task id, oldest first.
        self._tasks: OrderedDict[str, FinishedTask] = OrderedDict()
        self._fetching: threading.Thread | None = None
        #: When the store may be asked again.
        self._ask_at = 0.0

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, request: TaskRequest) -> None:
        """Remember that `request` has succeeded."""
        self._tasks[request.task_id] = new = finished(request)
        self._tasks.move_to_end(request.task_id)
        over = new.since - self._expires
        while self._tasks and (len(self._tasks) > self._maximum or next(iter(self._tasks.values())).since <= over):
            self._tasks.popitem(last=False)

    def skips(self, request: TaskRequest) -> bool:
        """Acknowledge `request`, just fetched, if it was redelivered after a success; return whether it was."""
        if not request.policy.acks_late or not is_redelivered(request.delivery, request.head):
            return False
        known = self._tasks.get(request.task_id)
        remembered = (
            known is not None
            and monotonic() - known.since < self._expires
            and finished(request).retries <= known.retries
        )
        if not remembered and not self._is_stored(request):
            return False
        logger.info("Task %r was redelivered after it had succeeded: acknowledged, not run again", request)
        request.acknowledge()
        self._on_change()
        return True

    # ------------------------------------------------------------ the store

    def _is_stored(self, request: TaskRequest) -> bool:
        try:
            document = self._fetch(request.task_id)
            if document is None:
                return False
            found = decode_result(document, self._serializer, self._accept)
            if found.get("status") != SUCCESS or not _covers(found, finished(request).retries):
                return False
            # A chord member stores its result before it is counted: if it died in between, the chord would never end.
            return not self._request_of(request.delivery.payload).chord
        except MessageError as error:
            logger.warning("The result of %r cannot be read, so the redelivered task runs again: %s", request, error)
            return False

    def _fetch(self, task_id: str) -> bytes | None:
        store = self._store
        if store is None or monotonic() < self._ask_at or (self._fetching is not None and self._fetching.is_alive()):
            return None
        answers: list[dict[str, bytes] | Exception] = []

        def fetch() -> None:
            try:
                answers.append(store.fetch([task_id]))
            except Exception as error:  # noqa: BLE001 - whatever a store raises, the task can run
                answers.append(error)

        # In a thread, because the time-out of the store itself may be longer.
        self._fetching = threading.Thread(target=fetch, name="framework-deduplication", daemon=True)
        self._fetching.start()
        self._fetching.join(_FETCH_TIMEOUT)
        answer = answers[0] if answers else TimeoutError(f"no answer within {_FETCH_TIMEOUT:g} s")
        if isinstance(answer, Exception):
            self._ask_at = monotonic() + _PAUSE
            logger.warning(
                "The result store cannot be asked for earlier successes, so redelivered tasks run again: %s", answer
            )
            return None
        return answer.get(task_id)


def _covers(document: dict[str, object], retries: int) -> bool:
    """Return whether `document` is the success of a message with `retries` retries, or of a later retry."""
    stored = document.get("retries")
    # Documents hold the number only with `result_extended`; without it only a task that was never retried is certain.
    return retries == 0 or (isinstance(stored, int) and stored >= retries)
