"""Consequences: what follows a task that did not end by itself, because it was never run or was ended from outside.

The rest of its chain will not run, its chord must not wait for it, its error callbacks want to know. Only the body of
its message says whether there is any of that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from framework.client.request import Context
from framework.client.workflow import callbacks, chord_counting
from framework.exceptions import ConnectionLost, MessageError
from framework.message import Payload, read
from framework.wire.identity import new_id
from framework.wire.result_document import FAILURE

if TYPE_CHECKING:
    from framework.client.app import App

logger = logging.getLogger(__name__)


class Consequences:
    """Finds them out."""

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(
        self, payload: Payload, state: str, error: BaseException, *, errbacks: bool = True
    ) -> Callable[[], None] | None:
        """Return what to do once the result of the task in `payload` is stored, None for nothing.

        `errbacks`: call the error callbacks of one that has failed.
        """
        try:
            request = Context.from_incoming(read(payload), self._app)
            follows = request.chord or request.chain or (errbacks and state == FAILURE and request.errbacks)
        except MessageError:
            return None
        return partial(self._follow, request, state, error, errbacks) if follows else None

    def _follow(self, request: Context, state: str, error: BaseException, errbacks: bool) -> None:
        """Raises `ConnectionLost`; to be called again then."""
        if request.chord and (member := chord_counting.Member.of(request)) is not None:
            chord_counting.count(self._app, member, state, error, new_id().replace("-", ""))
        callbacks.fail_rest(self._app, request, error)
        if errbacks and state == FAILURE and request.errbacks:
            try:
                callbacks.call_errbacks(self._app, request, error, None)
            except ConnectionLost as lost:
                # Some were called already: none is to be called twice.
                logger.error("The error callbacks of task %s were not sent: %s", request.id, lost)
