"""Abnormal ends: outcomes and callbacks of tasks that did not end by themselves.

1. `AbnormalEnds` builds the outcome of a task whose process died or was killed at a time limit or by a signal.
2. `FailurePropagation` finds the callbacks of a task that ended without a run or abnormally: chord, chain, errbacks.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from framework.api import pool as outcomes
from framework.api.pool import Job, Outcome
from framework.client.after_end import Action
from framework.client.canvas.documents import Member
from framework.client.canvas.errbacks import errback_calls
from framework.client.request import Context
from framework.client.workflow import chord_counting
from framework.exceptions import (
    MessageError,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from framework.message import Payload, read
from framework.wire.identity import new_id
from framework.wire.result_document import FAILURE, RETRY, REVOKED, Documents
from framework.worker.settle.settle import Settle

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.client.app import App
    from framework.client.task_policy import TaskPolicy


logger = logging.getLogger(__name__)


class AbnormalEnds:
    """Builds the outcomes of tasks that the pool ended, in the main process."""

    def __init__(self, settle: Settle, app: App, settings: Settings) -> None:
        self._settle = settle
        self._app = app
        self._failure_propagation = FailurePropagation(app)
        self._documents = Documents.of(settings.result)
        self._on_failure = app.hooks.bind("task_failure")
        self._on_revoked = app.hooks.bind("task_revoked")

    def outcome_for(self, job: Job, code: int, text: str, runtime: float) -> Outcome:
        """Return the outcome of `job`, which the pool ended with `code` because of `text`.

        TIMED_OUT, SOFT_TIMED_OUT: `text` is the limit in seconds; WORKER_LOST: what happened; TERMINATED: the signal's
        name.
        """
        error: Exception
        if code == outcomes.TIMED_OUT:
            seconds = float(text)
            error = TimeLimitExceeded(int(seconds) if seconds.is_integer() else seconds)
        elif code == outcomes.SOFT_TIMED_OUT:
            error = SoftTimeLimitExceeded()
        elif code == outcomes.WORKER_LOST:
            error = WorkerLostError(text)
        else:
            error = TaskRevokedError("terminated")
        task_request = self._settle.running.get(job.seq)
        action = Action.ACK if task_request is None else self._settle.follows(task_request, code)
        if (code == outcomes.TERMINATED and job.seq in self._settle.terminated) or (
            task_request is not None and self._settle.goes_back(task_request, code, action)
        ):
            # The task runs again: no result to store.
            return Outcome(job.seq, code, runtime)
        state = REVOKED if code == outcomes.TERMINATED else FAILURE
        if code == outcomes.TERMINATED and self._on_revoked is not None:
            signum = getattr(signal, text, None)
            self._on_revoked(task_id=job.id, name=job.task, terminated=True, signum=signum, expired=False)
        if action is Action.RETRY:
            state = RETRY
        document = None
        try:
            request = Context.from_incoming(read(job.payload), self._app)
            wish = request.ignore_result
        except MessageError:
            request, wish = None, None
        if task_request is not None and self._keeps(task_request.policy, wish, state):
            if request is None:
                document = self._documents.build(state, error, job.id)
            else:
                document = self._documents.build_for(state, error, request, self._settle.hostname)
        if state == FAILURE:
            # A task that runs again has not failed yet; after a time limit it counts as failed, as in Celery.
            runs_again = action is Action.REQUEUE and code == outcomes.WORKER_LOST
            if not runs_again and request is not None:
                self._report_failure(job, error, request)
        if action not in (Action.REQUEUE, Action.RETRY):
            for follow in self._failure_propagation(job.payload, state, error, errbacks=False):
                self._settle.afterwards(follow)
        return Outcome(job.seq, code, runtime, document, repr(error), text if code == outcomes.TERMINATED else "")

    @staticmethod
    def _keeps(policy: TaskPolicy, wish: bool | None, state: str) -> bool:
        return not policy.ignores(wish) or (state == FAILURE and policy.store_errors_even_if_ignored)

    def _report_failure(self, job: Job, error: Exception, request: Context) -> None:
        if self._on_failure is not None:
            self._on_failure(
                task_id=job.id,
                task=self._app.tasks.get(job.task),
                exception=error,
                args=None,
                kwargs=None,
                traceback="",
            )
        try:
            for call in errback_calls(self._app, request, error, None):
                self._settle.afterwards(call)
        except Exception as failed:  # noqa: BLE001 - errbacks come from the message and may raise anything
            logger.error("The error callbacks of task %s[%s] could not be read: %s", job.task, job.id, failed)


# ---------------------------------------------------------------- callbacks


class FailurePropagation:
    """Finds the callbacks of a task that did not end by itself."""

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(
        self, payload: Payload, state: str, error: BaseException, *, errbacks: bool = True
    ) -> list[Callable[[], object]]:
        """Return functions to call once the result of the task in `payload` is stored; again if one cannot send now.

        They count the chord member, fail the rest of the chain and, with `errbacks`, call the error callbacks of a
        failed task.
        """
        follows: list[Callable[[], object]] = []
        try:
            request = Context.from_incoming(read(payload), self._app)
            if request.chord and (member := Member.of(request)) is not None:
                token = new_id().replace("-", "")
                follows.append(partial(chord_counting.count, self._app, member, state, error, token))
            if request.chain:
                follows.append(partial(chord_counting.fail_rest, self._app, request, error))
            if errbacks and state == FAILURE and request.errbacks:
                follows += errback_calls(self._app, request, error, None)
        except MessageError:
            pass  # an unreadable message names no callbacks
        except Exception as failed:  # noqa: BLE001 - callbacks come from the message and may be anything
            logger.error("Callbacks of a task that did not end by itself cannot be read: %s", failed)
        return follows
