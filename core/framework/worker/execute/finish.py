"""Finish: turns the return value or exception of a task into one `Outcome`.

1. Logs the end, and calls the task's handlers and the hooks.
2. Sends callbacks, the rest of a chain and error callbacks before the result is stored, as Celery does.
3. Builds the result document. The main process stores documents in batches, except for a member of a chord: its result
   is stored and counted here.
"""

from __future__ import annotations

import itertools
import logging
import os
import traceback as tracebacks
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from framework.api import pool as outcomes
from framework.api.pool import Outcome
from framework.api.result_store import Record
from framework.client.after_end import Action
from framework.client.canvas.documents import Member
from framework.client.canvas.errbacks import errback_calls
from framework.client.publisher import accepted, retry_until_accepted
from framework.client.request import Context
from framework.client.task import Task, retry_without_message
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

#: States passed to hooks and never stored: the task raised `Ignore`, or its message was rejected or requeued.
IGNORED: Final = "IGNORED"
REJECTED: Final = "REJECTED"
#: The most characters of an exception in logs and events.
_ERROR_MAX: Final = 64 * 1024
#: Files whose frames are cut from the top of a traceback.
_OWN_FILES: Final = tuple(
    os.path.join("framework", *parts)
    for parts in (("worker", "execute", "execute.py"), ("client", "coroutines.py"), ("api", "coroutine.py"))
)

#: Arguments of `framework.client.workflow.chord_counting.conclude`.
Counted = tuple[Member, str, Any, Record | None]


class Run(msgspec.Struct, gc=False):
    """One call of a task, decoded from its message."""

    seq: int
    #: Whether the outcome of a success carries a repr of the return value, for events.
    wants_result_repr: bool
    plan: TaskPlan
    request: Context
    #: The embed of the message: callbacks, chain and chord.
    embed: Any
    args: Any
    kwargs: Any
    #: Chord results of a coroutine, counted later in a thread: counting here would block the other coroutines.
    later: list[Counted] | None = None
    #: What a coroutine sends after its end, as waiting here would block the others; see `Finish.send_all`.
    sends: list[Callable[[], object]] | None = None


class Finish:
    """Builds the outcomes of a worker's tasks in the process that ran them."""

    def __init__(self, app: App, settings: Settings, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self._documents = Documents.of(settings.result)
        self.listeners = Listeners.bind(app, logger)

    # ------------------------------------------------------------ the ends

    def success(self, run: Run, retval: Any, runtime: float) -> Outcome:
        """Return the outcome of a run that returned `retval` after `runtime` seconds."""
        plan, request = run.plan, run.request
        follows = run.embed and any(run.embed.values())
        if run.sends is None and (follows or request.unsent):
            self._send(self.follow_ups(run, retval), request)
        document = None
        if not plan.policy.ignores(request.ignore_result):
            document = self._document(SUCCESS, retval, request)
        if follows:
            document = self._count(SUCCESS, retval, run, document)
        if plan.ends:
            self._report_success(run, retval, runtime)
        if run.wants_result_repr:
            note = safe_repr(retval, plan.policy.resultrepr_maxsize)
            return Outcome(run.seq, outcomes.SUCCESS, runtime, document, note)
        return Outcome(run.seq, outcomes.SUCCESS, runtime, document)

    def _send(self, sends: Iterable[Callable[[], object]], request: Context) -> None:
        for send in sends:
            retry_until_accepted(send, f"What follows {_name(request)}[{request.id}]")

    async def send_all(self, sends: Iterable[Callable[[], object]], request: Context) -> None:
        """Send what follows a coroutine."""
        for send in sends:
            await accepted(send, f"What follows {_name(request)}[{request.id}]")

    def follow_ups(self, run: Run, retval: Any) -> Iterable[Callable[[], object]]:
        """Return functions that send what follows a run that returned `retval`."""
        unsent, run.request.unsent = run.request.unsent, ()
        if run.embed and any(run.embed.values()):
            return itertools.chain(unsent, callbacks.follow_ups(self._app, run.request, retval))
        return unsent

    def _report_success(self, run: Run, retval: Any, runtime: float) -> None:
        plan, request, on = run.plan, run.request, self.listeners
        if plan.on_success is not None:
            plan.on_success(retval, request.id, request.args, request.kwargs)
        if on.log_info:
            logger.info("Task %s[%s] succeeded in %ss: %s", _name(request), request.id, runtime, safe_repr(retval))
        if on.succeeded is not None:
            on.succeeded(task_id=request.id, task=plan.task, result=retval, runtime=runtime)
        self._call_after_return(SUCCESS, retval, run, None)

    def raised(self, run: Run, error: BaseException, runtime: float) -> Outcome:
        """Return the outcome of a run that raised `error` after `runtime` seconds."""
        request, seq = run.request, run.seq
        if request.unsent and run.sends is None:
            unsent, request.unsent = request.unsent, ()
            try:
                self._send(unsent, request)
            except Exception as failed:  # noqa: BLE001 - a message that cannot be sent makes the task fail
                error = failed
        if isinstance(error, Ignore):
            if self.listeners.log_info:
                logger.info("Task %s[%s] ignored", _name(request), request.id)
            self._call_postrun(IGNORED, error, run)
            return Outcome(seq, outcomes.IGNORED, runtime)
        if isinstance(error, Reject):
            return self._rejected(run, error, runtime)
        if isinstance(error, Retry):
            if error.is_sent:
                return Outcome(seq, outcomes.RETRY, runtime, *self._retry(run, error))
            error = retry_without_message(error)
        soft = isinstance(error, SoftTimeLimitExceeded)
        ends = run.plan.policy.ends
        action = ends.soft_timeout if soft else ends.failure
        if action is Action.REQUEUE:
            logger.warning("Task %s[%s] failed and is requeued: %s", _name(request), request.id, _text(error))
            self._call_postrun(REJECTED, error, run)
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
        logger.warning("Task %s[%s] %s", _name(request), request.id, _text(error))
        note = error.reason if isinstance(error.reason, str) else safe_repr(error.reason)
        self._call_postrun(REJECTED, error, run)
        if error.requeue:
            return Outcome(run.seq, outcomes.REQUEUED, runtime, None, note)
        document = self._count(FAILURE, error, run, self._document(FAILURE, error, request))
        return Outcome(run.seq, outcomes.REJECTED, runtime, document, note)

    def _retry(self, run: Run, error: Retry) -> tuple[bytes | None, str, str]:
        plan, request, on = run.plan, run.request, self.listeners
        reason = error.exc if error.exc is not None else error
        trace = _trace(error)
        logger.info("Task %s[%s] retry: %s", _name(request), request.id, _text(error))
        if plan.on_retry is not None:
            einfo = ExceptionInfo.of(reason, trace)
            _call_handler(plan.on_retry, reason, request.id, request.args, request.kwargs, einfo)
        if on.retried is not None:
            on.retried(task_id=request.id, task=plan.task, reason=reason)
        self._call_postrun(RETRY, reason, run)
        ignored = plan.policy.ignores(request.ignore_result)
        document = None if ignored else self._document(RETRY, reason, request, trace)
        return document, safe_repr(reason, _ERROR_MAX), trace

    def _failure(self, run: Run, error: BaseException) -> tuple[bytes | None, str, str]:
        plan, request = run.plan, run.request
        trace = _trace(error)
        text = safe_repr(error, _ERROR_MAX)
        self._report_failure(run, error, text, trace)
        document: bytes | None = None
        if not plan.policy.ignores(request.ignore_result) or plan.policy.store_errors_even_if_ignored:
            document = self._document(FAILURE, error, request, trace)
        try:
            document = self._count(FAILURE, error, run, document)
            if request.chain or request.errbacks:
                rest = partial(chord_counting.fail_rest, self._app, request, error, trace)
                sends: list[Callable[[], object]] = [rest, *errback_calls(self._app, request, error, trace)]
                if run.sends is None:
                    self._send(sends, request)
                else:
                    run.sends += sends
        except Exception as failed:  # noqa: BLE001 - errbacks come from the message and may raise anything
            self.report_unsent(request, failed)
        return document, text, trace

    def report_unsent(self, request: Context, failed: Exception) -> None:
        """Log that the callbacks of a failed task could not be sent."""
        logger.error("Callbacks of the failed task %s[%s] could not be sent: %s", _name(request), request.id, failed)

    def _report_failure(self, run: Run, error: BaseException, text: str, trace: str) -> None:
        plan, request, on = run.plan, run.request, self.listeners
        if isinstance(error, plan.throws):
            logger.info("Task %s[%s] raised expected: %s", _name(request), request.id, text)
        else:
            logger.error("Task %s[%s] raised unexpected: %s\n%s", _name(request), request.id, text, trace)
        if plan.on_failure is not None:
            einfo = ExceptionInfo.of(error, trace)
            _call_handler(plan.on_failure, error, request.id, request.args, request.kwargs, einfo)
        if on.failed is not None:
            on.failed(
                task_id=request.id,
                task=plan.task,
                exception=error,
                args=request.args,
                kwargs=request.kwargs,
                traceback=trace,
            )
        self._call_after_return(FAILURE, error, run, trace)

    def _call_after_return(self, state: str, value: Any, run: Run, trace: str | None) -> None:
        if run.plan.after_return is not None:
            request = run.request
            einfo = None if trace is None else ExceptionInfo.of(value, trace)
            _call_handler(run.plan.after_return, state, value, request.id, request.args, request.kwargs, einfo)
        self._call_postrun(state, value, run)

    def _call_postrun(self, state: str, value: Any, run: Run) -> None:
        postrun, request = self.listeners.postrun, run.request
        if postrun is not None:
            args, kwargs = request.args, request.kwargs
            postrun(task_id=request.id, task=run.plan.task, args=args, kwargs=kwargs, retval=value, state=state)

    # ------------------------------------------------------------ chords

    def _count(self, state: str, value: Any, run: Run, document: bytes | None) -> bytes | None:
        """Store and count the result of a chord member; return the document that the caller must still store."""
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
        """Store and count the chord results in `Run.later`."""
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


def _call_handler(handler: Handler, *arguments: Any) -> None:
    try:
        handler(*arguments)
    except Exception:  # the hook-call wall: a handler cannot change how its task ended
        logger.exception("The handler %r raised an exception", handler)


def _name(request: Context) -> str | None:
    """Return the name to log."""
    return request.shadow or request.task


def _try_again(task: Task[..., Any], error: BaseException) -> BaseException:
    """Retry the running call because of `error`; return the exception that ends it: `Retry`, or `error` itself."""
    try:
        task.retry(exc=error)
    except BaseException as end:  # noqa: BLE001 - `retry` always raises, and may raise `error`
        return end
    return error


def _text(error: object) -> str:
    """Return the text of an exception, also if its `__str__` fails."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - __str__ of a user's class may raise anything
        return safe_repr(error, _ERROR_MAX)


def _trace(error: BaseException) -> str:
    """Return the traceback as text, from the first frame outside `_OWN_FILES`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.endswith(_OWN_FILES):
        trace = trace.tb_next
    return "".join(tracebacks.format_exception(type(error), error, trace))
