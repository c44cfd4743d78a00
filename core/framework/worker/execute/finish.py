"""Finish: sorts what a run of a task came to into one `Outcome`.

1. Logs it, tells the task's handlers and the hooks.
2. Sends what follows (callbacks, the rest of a chain, error callbacks) before the result is stored, as peers expect.
3. Builds the result document. Writing it is the main process's work, in batches, except for a member of a chord: its
   result is stored and counted here.
"""

from __future__ import annotations

import logging
import os
import traceback as tracebacks
from typing import TYPE_CHECKING, Any, Final

import msgspec

from framework.api import pool as outcomes
from framework.api.pool import Outcome
from framework.api.result_store import Record
from framework.client.after_end import Action
from framework.client.canvas.documents import Member
from framework.client.canvas.errbacks import call_errbacks
from framework.client.publisher import publish_until_accepted, retry_until_connected
from framework.client.request import Context
from framework.client.task import Task
from framework.client.workflow import callbacks, chord_counting
from framework.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from framework.wire.exception_document import ExceptionInfo
from framework.wire.result_document import FAILURE, RETRY, STARTED, SUCCESS, Documents
from framework.wire.safe_repr import safe_repr
from framework.worker.execute.plan import Handler, Listeners, TaskPlan

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.client.app import App

logger = logging.getLogger(__name__)

#: States that hooks are told and nothing stores: the task asked for no result, or its message is not done with.
IGNORED: Final = "IGNORED"
REJECTED: Final = "REJECTED"
#: Characters of an exception that logs and events show.
_ERROR_MAX: Final = 64 * 1024
#: Their frames say nothing about a task.
_OWN_FILES: Final = tuple(
    os.path.join("framework", *parts)
    for parts in (("worker", "execute.py"), ("_coroutines.py",), ("api", "coroutine.py"))
)

#: Arguments of `framework.client.workflow.chord_counting.conclude`.
Counted = tuple[Member, str, Any, Record | None]


class Run(msgspec.Struct, gc=False):
    """One call of a task, from its message."""

    seq: int
    #: Somebody wants to know what a success returned.
    wants_result_repr: bool
    plan: TaskPlan
    request: Context
    #: What the message says about callbacks, chain and chord.
    embed: Any
    args: Any
    kwargs: Any
    #: Where a coroutine puts the results that are to be counted: that may take a while, and all would wait for it.
    later: list[Counted] | None = None


class Finish:
    """Ends the runs of a worker's tasks where they ran."""

    def __init__(self, app: App, settings: Settings, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self._documents = Documents.of(settings.result)
        self.listeners = Listeners.bind(app, logger)

    # ------------------------------------------------------------ the ends

    def success(self, run: Run, retval: Any, runtime: float) -> Outcome:
        """End a run that returned `retval` after `runtime` seconds."""
        plan, request = run.plan, run.request
        follows = run.embed and any(run.embed.values())
        if follows:
            with publish_until_accepted():
                callbacks.follow_up(self._app, request, retval)
        document = None
        if not plan.policy.ignores(request.ignore_result):
            document = self._document(SUCCESS, retval, request)
        if follows:
            document = self._count(SUCCESS, retval, run, document)
        if plan.ends:
            self._tell_success(run, retval, runtime)
        if run.wants_result_repr:
            note = safe_repr(retval, plan.policy.resultrepr_maxsize)
            return Outcome(run.seq, outcomes.SUCCESS, runtime, document, note)
        return Outcome(run.seq, outcomes.SUCCESS, runtime, document)

    def _tell_success(self, run: Run, retval: Any, runtime: float) -> None:
        plan, request, on = run.plan, run.request, self.listeners
        if plan.on_success is not None:
            plan.on_success(retval, request.id, request.args, request.kwargs)
        if on.log_info:
            logger.info("Task %s[%s] succeeded in %ss: %s", _name(request), request.id, runtime, safe_repr(retval))
        if on.succeeded is not None:
            on.succeeded(task_id=request.id, task=plan.task, result=retval, runtime=runtime)
        self._after(SUCCESS, retval, run, None)

    def raised(self, run: Run, error: BaseException, runtime: float) -> Outcome:
        """End a run that raised `error` after `runtime` seconds."""
        request, seq = run.request, run.seq
        if isinstance(error, Ignore):
            if self.listeners.log_info:
                logger.info("Task %s[%s] ignored", _name(request), request.id)
            self._tell_postrun(IGNORED, error, run)
            return Outcome(seq, outcomes.IGNORED, runtime)
        if isinstance(error, Reject):
            return self._rejected(run, error, runtime)
        if isinstance(error, Retry):
            return Outcome(seq, outcomes.RETRY, runtime, *self._retry(run, error))
        soft = isinstance(error, SoftTimeLimitExceeded)
        ends = run.plan.policy.ends
        action = ends.soft_timeout if soft else ends.failure
        if action is Action.REQUEUE:
            logger.warning("Task %s[%s] is given back: %s", _name(request), request.id, _told(error))
            self._tell_postrun(REJECTED, error, run)
            return Outcome(seq, outcomes.REQUEUED, runtime, None, safe_repr(error, _ERROR_MAX))
        if action is Action.RETRY:
            last = _try_again(run.plan.task, error)
            if isinstance(last, Retry | Reject):
                return self.raised(run, last, runtime)
            error = last
        code = outcomes.SOFT_TIMED_OUT if soft else outcomes.FAILURE
        return Outcome(seq, code, runtime, *self._failure(run, error))

    def _rejected(self, run: Run, error: Reject, runtime: float) -> Outcome:
        request = run.request
        logger.warning("Task %s[%s] %s", _name(request), request.id, _told(error))
        note = error.reason if isinstance(error.reason, str) else safe_repr(error.reason)
        self._tell_postrun(REJECTED, error, run)
        if error.requeue:
            return Outcome(run.seq, outcomes.REQUEUED, runtime, None, note)
        document = self._count(FAILURE, error, run, self._document(FAILURE, error, request))
        return Outcome(run.seq, outcomes.REJECTED, runtime, document, note)

    def _retry(self, run: Run, error: Retry) -> tuple[bytes | None, str, str]:
        plan, request, on = run.plan, run.request, self.listeners
        reason = error.exc if error.exc is not None else error
        trace = _trace(error)
        logger.info("Task %s[%s] retry: %s", _name(request), request.id, _told(error))
        if plan.on_retry is not None:
            einfo = ExceptionInfo.of(reason, trace)
            _quietly(plan.on_retry, reason, request.id, request.args, request.kwargs, einfo)
        if on.retried is not None:
            on.retried(task_id=request.id, task=plan.task, reason=reason)
        self._tell_postrun(RETRY, reason, run)
        ignored = plan.policy.ignores(request.ignore_result)
        document = None if ignored else self._document(RETRY, reason, request, trace)
        return document, safe_repr(reason, _ERROR_MAX), trace

    def _failure(self, run: Run, error: BaseException) -> tuple[bytes | None, str, str]:
        plan, request = run.plan, run.request
        trace = _trace(error)
        told = safe_repr(error, _ERROR_MAX)
        self._tell_failure(run, error, told, trace)
        document: bytes | None = None
        if not plan.policy.ignores(request.ignore_result) or plan.policy.store_errors_even_if_ignored:
            document = self._document(FAILURE, error, request, trace)
        try:
            document = self._count(FAILURE, error, run, document)
            if request.chain or request.errbacks:
                self._fail_others(request, error, trace)
        except Exception as failed:  # noqa: BLE001 - what follows comes from the message, and may be anything
            logger.error("What follows the failure of %s[%s] was not done: %s", _name(request), request.id, failed)
        return document, told, trace

    def _fail_others(self, request: Context, error: BaseException, trace: str) -> None:
        with publish_until_accepted():
            retry_until_connected(
                lambda: chord_counting.fail_rest(self._app, request, error, trace),
                f"The failure of what comes after {_name(request)}[{request.id}]",
            )
            if request.errbacks:
                call_errbacks(self._app, request, error, trace)

    def _tell_failure(self, run: Run, error: BaseException, told: str, trace: str) -> None:
        plan, request, on = run.plan, run.request, self.listeners
        if isinstance(error, plan.throws):
            logger.info("Task %s[%s] raised expected: %s", _name(request), request.id, told)
        else:
            logger.error("Task %s[%s] raised unexpected: %s\n%s", _name(request), request.id, told, trace)
        if plan.on_failure is not None:
            einfo = ExceptionInfo.of(error, trace)
            _quietly(plan.on_failure, error, request.id, request.args, request.kwargs, einfo)
        if on.failed is not None:
            on.failed(
                task_id=request.id,
                task=plan.task,
                exception=error,
                args=request.args,
                kwargs=request.kwargs,
                traceback=trace,
            )
        self._after(FAILURE, error, run, trace)

    def _after(self, state: str, value: Any, run: Run, trace: str | None) -> None:
        if run.plan.after_return is not None:
            request = run.request
            einfo = None if trace is None else ExceptionInfo.of(value, trace)
            _quietly(run.plan.after_return, state, value, request.id, request.args, request.kwargs, einfo)
        self._tell_postrun(state, value, run)

    def _tell_postrun(self, state: str, value: Any, run: Run) -> None:
        postrun, request = self.listeners.postrun, run.request
        if postrun is not None:
            args, kwargs = request.args, request.kwargs
            postrun(task_id=request.id, task=run.plan.task, args=args, kwargs=kwargs, retval=value, state=state)

    # ------------------------------------------------------------ chords

    def _count(self, state: str, value: Any, run: Run, document: bytes | None) -> bytes | None:
        """Store and count the result if the task belongs to a chord; return what is left to be stored."""
        request = run.request
        if not request.chord or (member := Member.of(request)) is None:
            return document
        record = None
        if document is not None:
            record = Record(member.task_id, document, state, request.reply_to, request.correlation_id or member.task_id)
        if run.later is None:
            chord_counting.conclude(self._app, member, state, value, record)
        else:
            run.later.append((member, state, value, record))
        return None

    async def count_in_thread(self, later: list[Counted]) -> None:
        """Store and count what coroutines left in `Run.later`."""
        import asyncio  # start-up time and memory: only a process that runs coroutines loads it

        for counted in later:
            await asyncio.to_thread(chord_counting.conclude, self._app, *counted)

    # ------------------------------------------------------------ results

    def _document(self, state: str, value: Any, request: Context, trace: str | None = None) -> bytes:
        return self._documents.build_for(state, value, request, self._hostname, trace)

    def store_started(self, request: Context) -> None:
        """Store that the task of `request` runs here."""
        task_id = str(request.id)
        document = self._document(STARTED, {"pid": os.getpid(), "hostname": self._hostname}, request)
        self._app.result_store.store(
            [Record(task_id, document, STARTED, request.reply_to, request.correlation_id or task_id)]
        )


def _quietly(handler: Handler, *arguments: Any) -> None:
    try:
        handler(*arguments)
    except Exception:  # the hook-call wall: the task has ended, its handler cannot change how
        logger.exception("The handler %r failed", handler)


def _name(request: Context) -> str | None:
    """Return the name that logs show."""
    return request.shadow or request.task


def _try_again(task: Task[..., Any], error: BaseException) -> BaseException:
    """Have the running call retried because of `error`; return how it ends: `Retry`, or `error` after too many."""
    try:
        task.retry(exc=error)
    except BaseException as end:  # noqa: BLE001 - it is how `retry` answers, with `error` too, whatever that is
        return end
    return error


def _told(error: object) -> str:
    """Return the text of an exception, whose own methods may fail."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a stranger's __str__ may raise anything
        return safe_repr(error, _ERROR_MAX)


def _trace(error: BaseException) -> str:
    """Return the traceback as text, without the frames of this module."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.endswith(_OWN_FILES):
        trace = trace.tb_next
    return "".join(tracebacks.format_exception(type(error), error, trace))
