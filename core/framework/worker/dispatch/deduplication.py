"""Successes: tasks that have ended well and whose message comes again, because its acknowledgement was lost.

Only where `deduplicate_successful_tasks` is on, and only for late ack.

1. Remembers by id what has ended well in this worker, once its result is stored: so many, for so long.
2. Asks the result store, once and not for long, about what came again and is not remembered. What it cannot tell for
   certain runs again: a store that is away, a member of a chord that may not have been counted, a retry.
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
from framework.worker.dispatch.redelivery import FinishedTask, came_back, past

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.api.result_store import ResultStore
    from framework.client.request import Context
    from framework.message import Payload
    from framework.worker.task_request import TaskRequest

logger = logging.getLogger(__name__)

#: Seconds that an answer of the store is waited for; the loop, and with it every lease, waits too.
_PATIENCE: Final = 2.0
#: Seconds for which a store that has failed to answer is not asked.
_PAUSE: Final = 10.0


class Deduplication:
    """Says what need not run again. Used in the loop only."""

    def __init__(
        self,
        settings: Settings,
        store: ResultStore,
        request_of: Callable[[Payload], Context],
        on_change: Callable[[], object],
    ) -> None:
        """`on_change` is called when there is an acknowledgement to be sent."""
        self._maximum = settings.worker.successful_max
        self._expires = settings.worker.successful_expires
        self._serializer = settings.result.serializer
        self._accept = settings.result.accept_content or settings.accept_content
        self._store = store if store.traits.stores and store.traits.shared else None
        self._request_of = request_of
        self._on_change = on_change
        #: By task id, oldest first.
        self._past: OrderedDict[str, FinishedTask] = OrderedDict()
        self._looking: threading.Thread | None = None
        #: When the store may be asked again.
        self._ask_at = 0.0

    def __len__(self) -> int:
        return len(self._past)

    def add(self, request: TaskRequest) -> None:
        """Remember that `request` has ended well."""
        self._past[request.task_id] = new = past(request)
        self._past.move_to_end(request.task_id)
        over = new.since - self._expires
        while self._past and (len(self._past) > self._maximum or next(iter(self._past.values())).since <= over):
            self._past.popitem(last=False)

    def skips(self, request: TaskRequest) -> bool:
        """Acknowledge `request`, which was just fetched, if it has come again and ended well before; say whether."""
        if not request.policy.acks_late or not came_back(request.delivery, request.head):
            return False
        known = self._past.get(request.task_id)
        remembered = (
            known is not None and monotonic() - known.since < self._expires and past(request).retries <= known.retries
        )
        if not remembered and not self._is_stored(request):
            return False
        logger.info("Task %r came again and has succeeded already: it is acknowledged, and does not run", request)
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
            if found.get("status") != SUCCESS or not _covers(found, past(request).retries):
                return False
            # Its result is stored before it is counted: it may have died in between, and the chord would wait for ever.
            return not self._request_of(request.delivery.payload).chord
        except MessageError as error:
            logger.warning("Whether %r has succeeded already cannot be read, so it runs: %s", request, error)
            return False

    def _fetch(self, task_id: str) -> bytes | None:
        store = self._store
        if store is None or monotonic() < self._ask_at or (self._looking is not None and self._looking.is_alive()):
            return None
        answers: list[dict[str, bytes] | Exception] = []

        def look() -> None:
            try:
                answers.append(store.fetch([task_id]))
            except Exception as error:  # noqa: BLE001 - whatever a store does about it, the task can run
                answers.append(error)

        # In a thread, because a store may take as long as its own time-out.
        self._looking = threading.Thread(target=look, name="framework-successes", daemon=True)
        self._looking.start()
        self._looking.join(_PATIENCE)
        answer = answers[0] if answers else TimeoutError(f"no answer within {_PATIENCE:g} s")
        if isinstance(answer, Exception):
            self._ask_at = monotonic() + _PAUSE
            logger.warning(
                "The result store cannot say what has succeeded already, so what comes again runs: %s", answer
            )
            return None
        return answer.get(task_id)


def _covers(document: dict[str, object], retries: int) -> bool:
    """Say whether the success of `document` is that of a message retried so often, or of one that came after it."""
    told = document.get("retries")
    # Documents tell it with the setting `result_extended`; without it only what was never retried is certain.
    return retries == 0 or (isinstance(told, int) and told >= retries)
