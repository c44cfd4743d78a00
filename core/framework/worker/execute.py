"""Execute: runs one task where it runs, from the encoded body to the encoded result.

1. Decodes the message; what cannot become a call is INVALID, and becomes a dead letter.
2. Calls the task with its request in place; sorts what happened into one outcome code.
3. Sends what follows (callbacks, the rest of a chain, error callbacks) before the result is stored, as peers expect.
4. Builds the result document. Writing it is the main process's work, in batches.

What a task does not use is not paid for: a `Plan` per task, made at its first run, holds None for every hook, handler
and log line that nobody asked for.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import traceback as tracebacks
from collections.abc import Callable, Mapping
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from framework import _chords, _followups
from framework._documents import FAILURE, RETRY, STARTED, SUCCESS, Documents
from framework._ends import Action
from framework._policy import TaskPolicy
from framework._request import Context, pop_request, push_request
from framework._saferepr import safe_repr
from framework.api import pool as outcomes
from framework.api.pool import Job, Outcome
from framework.api.result_store import Record
from framework.exceptions import Ignore, MessageError, Reject, Retry, SoftTimeLimitExceeded
from framework.message import Incoming, read
from framework.serialization import decode_task
from framework.task import Task
from framework.worker.logs import redirect_stdouts, setup_logging

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.api.coroutine import Call
    from framework.app import App

logger = logging.getLogger(__name__)

Handler = Callable[..., Any]
#: Arguments of `framework._chords.conclude`.
Counted = tuple[_chords.Member, str, Any, Record | None]

#: The task-execution wall: what a task may raise. Of `BaseException`s only those that it may have come by innocently:
#: the others are how a pool ends a job from outside.
_RAISED: Final = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)
#: Libraries whose `Timeout`, of their own making, a task may let out.
_TIMEOUTS: Final = ("gevent", "eventlet")
#: Characters of an exception that logs and events show.
_ERROR_MAX: Final = 64 * 1024
#: Their frames say nothing about a task.
_OWN_FILES = (__file__, os.path.join("framework", "_coroutines.py"), os.path.join("framework", "api", "coroutine.py"))


class Plan(msgspec.Struct, gc=False):
    """What running one task takes; None is what nobody asked for."""

    task: Any
    call: Handler
    policy: TaskPolicy
    track_started: bool
    throws: tuple[type[BaseException], ...]
    before_start: Handler | None
    on_success: Handler | None
    on_failure: Handler | None
    on_retry: Handler | None
    after_return: Handler | None
    #: Something is to be done before the task, or after it succeeded.
    begins: bool
    ends: bool
    #: Makes the coroutine of an `async def` task; `call` then runs one to its end.
    acall: Handler | None


class TaskWorkload:
    """The `framework.api.pool.Workload` of a worker."""

    def __init__(self, app: App, settings: Settings, hostname: str, *, own_process: bool) -> None:
        """`own_process`: this is a process of its own, which sets up its log and reopens its connections."""
        self._app = app
        self._settings = settings
        self._hostname = hostname
        self._own_process = own_process
        self._accept = settings.accept_content
        self._max_size = settings.task.max_message_size
        self._max_nesting = settings.task.max_nesting
        self._extended = settings.result.extended
        self._documents = Documents(settings.result.serializer, settings.result.compression)
        self._plans: dict[str, Plan] = {}
        self._bind()

    def _bind(self) -> None:
        bind = self._app.hooks.bind
        self._prerun = bind("task_prerun")
        self._postrun = bind("task_postrun")
        self._succeeded = bind("task_success")
        self._failed = bind("task_failure")
        self._retried = bind("task_retry")
        self._log_info = logger.isEnabledFor(logging.INFO)
        self._plans.clear()  # they know which hooks there are

    # ------------------------------------------------------------ a process's life

    def prepare(self) -> None:
        """Get this process ready for its first job."""
        if self._own_process:
            # A pool of processes numbers them, for %i and %I in the name of the log file.
            index = int(os.environ.get("FRAMEWORK_PROCESS_INDEX", "0"))
            setup_logging(self._settings.worker, self._hostname, self._app.hooks, index)
        if self._settings.worker.redirect_stdouts:
            redirect_stdouts(self._settings.worker.redirect_stdouts_level)
        self._bind()
        if (init := self._app.hooks.bind("worker_process_init")) is not None:
            init(app=self._app, hostname=self._hostname)

    def release(self) -> None:
        """Let go of what this process opened."""
        if (shutdown := self._app.hooks.bind("worker_process_shutdown")) is not None:
            shutdown(hostname=self._hostname, pid=os.getpid())
        if (coroutines := sys.modules.get("framework._coroutines")) is not None:
            coroutines.close_here()
        if self._own_process:
            self._app.close()

    # ------------------------------------------------------------ a job's life

    def run(self, job: Job) -> Outcome:
        """Run `job`."""
        began = monotonic()
        try:
            incoming, embed, plan, request, args, kwargs = self._open(job)
        except MessageError as error:
            return _invalid(job, error, began)
        token = push_request(request)
        try:
            if plan.begins:
                self._begin(plan, request, args, kwargs)
            retval = plan.call(*args, **kwargs)
            return self._end_success(job, plan, request, incoming, embed, retval, monotonic() - began)
        except _raised() as error:
            # What a task returned may also fail to be encoded, or its callbacks to be sent: the task has then failed.
            return self._end_raised(job.seq, plan, request, incoming, error, monotonic() - began)
        finally:
            pop_request(token)

    def runs_async(self, task: str) -> bool:
        """Say whether `task` is a coroutine function."""
        return (self._plans.get(task) or self._plan(task)).acall is not None

    async def arun(self, job: Job, call: Call) -> Outcome:
        """Run `job`, a coroutine, in this asyncio task."""
        began = monotonic()
        try:
            incoming, embed, plan, request, args, kwargs = self._open(job)
        except MessageError as error:
            return _invalid(job, error, began)
        assert plan.acall is not None
        later: list[Counted] = []
        token = push_request(request)
        try:
            if plan.begins:
                self._begin(plan, request, args, kwargs)
            retval = await call.drive(plan.acall(*args, **kwargs))
            outcome = self._end_success(job, plan, request, incoming, embed, retval, monotonic() - began, later)
            if later:
                await call.drive(self._count_in_thread(later))
            return outcome
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - the task-execution wall, as in `run`
            # Not GeneratorExit: here it means that the coroutine is being closed.
            later.clear()
            outcome = self._end_raised(job.seq, plan, request, incoming, error, monotonic() - began, later)
            if later:
                await self._count_in_thread(later)
            return outcome
        finally:
            pop_request(token)

    def _open(self, job: Job) -> tuple[Incoming, Any, Plan, Context, Any, Any]:
        """Make a call of `job`: message, embedded followers, plan, request, arguments. Raises `MessageError`."""
        _seq, payload, name, _id, _soft, _hard, _tell = job  # faster than asking for each by name
        incoming = read(payload)
        args, kwargs, embed = decode_task(
            incoming, accept=self._accept, max_size=self._max_size, max_nesting=self._max_nesting
        )
        plan = self._plans.get(name) or self._plan(name)
        request = Context.from_incoming(incoming, self._app, args, kwargs, embed, self._hostname)
        return incoming, embed, plan, request, args, kwargs

    def interrupt(self, thread: int, exception: type[BaseException], frame: FrameType | None = None) -> bool:
        """Have `exception` end the coroutine that `thread` runs."""
        # Not imported here: a process that runs no coroutine does not load asyncio.
        coroutines = sys.modules.get("framework._coroutines")
        return coroutines is not None and bool(coroutines.interrupt(thread, exception, frame))

    def _plan(self, name: str) -> Plan:
        task = self._app.tasks[name]
        policy = task.policy
        kind = type(task)

        def own(handler: str) -> Handler | None:
            """Return the task's own `handler`; the base class's does nothing and is not called."""
            return getattr(task, handler) if getattr(kind, handler) is not getattr(Task, handler) else None

        call = task if kind.__call__ is not Task.__call__ else task.run
        acall = None
        if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(task.run):
            from framework import _coroutines

            acall = call

            def call(*args: Any, **kwargs: Any) -> Any:
                return _coroutines.run_here(acall(*args, **kwargs))

        track_started = policy.track_started and not policy.ignore_result
        before_start, on_success, after_return = own("before_start"), own("on_success"), own("after_return")
        asked_before = (self._prerun, before_start)
        asked_after = (self._succeeded, self._postrun, on_success, after_return)
        plan = self._plans[name] = Plan(
            task,
            call,
            policy,
            track_started,
            tuple(task.throws),
            before_start,
            on_success,
            own("on_failure"),
            own("on_retry"),
            after_return,
            track_started or any(handler is not None for handler in asked_before),
            self._log_info or any(handler is not None for handler in asked_after),
            acall,
        )
        return plan

    # ------------------------------------------------------------ the beginning and the ends

    def _begin(self, plan: Plan, request: Context, args: Any, kwargs: Any) -> None:
        if plan.track_started:
            self._store_started(request)
        if self._prerun is not None:
            self._prerun(task_id=request.id, task=plan.task, args=args, kwargs=kwargs)
        if plan.before_start is not None:
            plan.before_start(request.id, args, kwargs)

    def _end_success(
        self,
        job: Job,
        plan: Plan,
        request: Context,
        incoming: Incoming,
        embed: Any,
        retval: Any,
        runtime: float,
        later: list[Counted] | None = None,
    ) -> Outcome:
        follows = embed and any(embed.values())
        if follows:
            _followups.follow_up(self._app, request, retval)
        document = None
        if not plan.policy.ignores(request.ignore_result):
            document = self._document(SUCCESS, retval, request, incoming)
        if follows:
            document = self._count(request, SUCCESS, retval, document, later)
        if plan.ends:
            args, kwargs = request.args, request.kwargs
            if plan.on_success is not None:
                plan.on_success(retval, request.id, args, kwargs)
            if self._log_info:
                logger.info("Task %s[%s] succeeded in %ss: %s", _name(request), request.id, runtime, safe_repr(retval))
            if self._succeeded is not None:
                self._succeeded(task_id=request.id, task=plan.task, result=retval, runtime=runtime)
            self._after(plan, request, SUCCESS, retval, args, kwargs, None)
        if job.tell:
            note = safe_repr(retval, plan.policy.resultrepr_maxsize)
            return Outcome(job.seq, outcomes.SUCCESS, runtime, document, note)
        return Outcome(job.seq, outcomes.SUCCESS, runtime, document)

    def _end_raised(
        self,
        seq: int,
        plan: Plan,
        request: Context,
        incoming: Incoming,
        error: BaseException,
        runtime: float,
        later: list[Counted] | None = None,
    ) -> Outcome:
        if isinstance(error, Ignore):
            if self._log_info:
                logger.info("Task %s[%s] ignored", _name(request), request.id)
            return Outcome(seq, outcomes.IGNORED, runtime)
        if isinstance(error, Reject):
            logger.warning("Task %s[%s] %s", _name(request), request.id, _told(error))
            note = error.reason if isinstance(error.reason, str) else safe_repr(error.reason)
            if error.requeue:
                return Outcome(seq, outcomes.REQUEUED, runtime, None, note)
            document = self._document(FAILURE, error, request, incoming)
            left = self._count(request, FAILURE, error, document, later)
            return Outcome(seq, outcomes.REJECTED, runtime, left, note)
        if isinstance(error, Retry):
            return Outcome(seq, outcomes.RETRY, runtime, *self._end_retry(plan, request, incoming, error))
        soft = isinstance(error, SoftTimeLimitExceeded)
        action = plan.policy.ends.soft_timeout if soft else plan.policy.ends.failure
        if action is Action.REQUEUE:
            logger.warning("Task %s[%s] is given back: %s", _name(request), request.id, _told(error))
            return Outcome(seq, outcomes.REQUEUED, runtime, None, safe_repr(error, _ERROR_MAX))
        if action is Action.RETRY:
            last = _retry(plan.task, error)
            if isinstance(last, Retry | Reject):
                return self._end_raised(seq, plan, request, incoming, last, runtime, later)
            error = last
        code = outcomes.SOFT_TIMED_OUT if soft else outcomes.FAILURE
        return Outcome(seq, code, runtime, *self._end_failure(plan, request, incoming, error, later))

    def _end_retry(
        self, plan: Plan, request: Context, incoming: Incoming, error: Retry
    ) -> tuple[bytes | None, str, str]:
        reason = error.exc if error.exc is not None else error
        trace = _trace(error)
        logger.info("Task %s[%s] retry: %s", _name(request), request.id, _told(error))
        if plan.on_retry is not None:
            self._quietly(plan.on_retry, reason, request.id, request.args, request.kwargs, trace)
        if self._retried is not None:
            self._retried(task_id=request.id, task=plan.task, reason=reason)
        self._after(plan, request, RETRY, reason, request.args, request.kwargs, trace)
        ignored = plan.policy.ignores(request.ignore_result)
        document = None if ignored else self._document(RETRY, reason, request, incoming, trace)
        return document, safe_repr(reason, _ERROR_MAX), trace

    def _end_failure(
        self,
        plan: Plan,
        request: Context,
        incoming: Incoming,
        error: BaseException,
        later: list[Counted] | None = None,
    ) -> tuple[bytes | None, str, str]:
        trace = _trace(error)
        told = safe_repr(error, _ERROR_MAX)
        if isinstance(error, plan.throws):
            logger.info("Task %s[%s] raised expected: %s", _name(request), request.id, told)
        else:
            logger.error("Task %s[%s] raised unexpected: %s\n%s", _name(request), request.id, told, trace)
        if plan.on_failure is not None:
            self._quietly(plan.on_failure, error, request.id, request.args, request.kwargs, trace)
        if self._failed is not None:
            self._failed(
                task_id=request.id,
                task=plan.task,
                exception=error,
                args=request.args,
                kwargs=request.kwargs,
                traceback=trace,
            )
        self._after(plan, request, FAILURE, error, request.args, request.kwargs, trace)
        document: bytes | None = None
        if not plan.policy.ignores(request.ignore_result) or plan.policy.store_errors_even_if_ignored:
            document = self._document(FAILURE, error, request, incoming, trace)
        try:
            document = self._count(request, FAILURE, error, document, later)
            _followups.fail_rest(self._app, request, error, trace)
            if request.errbacks:
                _followups.call_errbacks(self._app, request, error, trace)
        except Exception as failed:  # noqa: BLE001 - what follows comes from the message, and may be anything
            logger.error("What follows the failure of %s[%s] was not done: %s", _name(request), request.id, failed)
        return document, told, trace

    def _count(
        self, request: Context, state: str, value: Any, document: bytes | None, later: list[Counted] | None
    ) -> bytes | None:
        """Store and count the result here if the task belongs to a chord; return what is left to be stored.

        With `later`, which a coroutine gives, it is only noted there: that may take a while, and all would wait for it.
        """
        if not request.chord or (member := _chords.Member.of(request)) is None:
            return document
        record = None
        if document is not None:
            record = Record(member.task_id, document, state, request.reply_to, request.correlation_id or member.task_id)
        if later is None:
            _chords.conclude(self._app, member, state, value, record)
        else:
            later.append((member, state, value, record))
        return None

    async def _count_in_thread(self, later: list[Counted]) -> None:
        import asyncio

        for counted in later:
            await asyncio.to_thread(_chords.conclude, self._app, *counted)

    def _after(
        self, plan: Plan, request: Context, state: str, value: Any, args: Any, kwargs: Any, trace: str | None
    ) -> None:
        if plan.after_return is not None:
            self._quietly(plan.after_return, state, value, request.id, args, kwargs, trace)
        if self._postrun is not None:
            self._postrun(task_id=request.id, task=plan.task, args=args, kwargs=kwargs, retval=value, state=state)

    @staticmethod
    def _quietly(handler: Handler, *arguments: Any) -> None:
        try:
            handler(*arguments)
        except Exception:  # the hook-call wall: the task has ended, its handler cannot change how
            logger.exception("The handler %r failed", handler)

    # ------------------------------------------------------------ results

    def _document(
        self, state: str, value: Any, request: Context, incoming: Incoming, trace: str | None = None
    ) -> bytes:
        extended = None
        if self._extended:
            extended = {
                "name": request.task,
                "args": request.args,
                "kwargs": request.kwargs,
                "worker": self._hostname,
                "retries": request.retries,
                "queue": (incoming.properties.get("delivery_info") or {}).get("routing_key"),
            }
        return self._documents.build(
            state,
            value,
            str(request.id),
            traceback=trace,
            children=request.children_as_tuples(),
            group_id=request.group,
            parent_id=request.parent_id,
            extended=extended,
        )

    def _store_started(self, request: Context) -> None:
        task_id = str(request.id)
        document = self._documents.build(STARTED, {"pid": os.getpid(), "hostname": self._hostname}, task_id)
        self._app.result_store.store(
            [Record(task_id, document, STARTED, request.reply_to, request.correlation_id or task_id)]
        )


def _invalid(job: Job, error: MessageError, began: float) -> Outcome:
    return Outcome(job.seq, outcomes.INVALID, monotonic() - began, None, f"{error.reason}: {error}")


def _raised() -> tuple[type[BaseException], ...]:
    """Return what a task may raise: also the time-outs of libraries that make theirs no `Exception`."""
    found = [getattr(sys.modules.get(library), "Timeout", None) for library in _TIMEOUTS]
    return (*_RAISED, *(timeout for timeout in found if isinstance(timeout, type)))


def _name(request: Context) -> str | None:
    """Return the name that logs show."""
    return request.shadow or request.task


def _retry(task: Task[..., Any], error: BaseException) -> BaseException:
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


def make(app: App, settings: Settings, hostname: str) -> TaskWorkload:
    """Make the workload of the worker's own process."""
    return TaskWorkload(app, settings, hostname, own_process=False)


def from_recipe(recipe: Mapping[str, Any]) -> TaskWorkload:
    """Make the workload of a process that starts from nothing: import the application the recipe names."""
    # By name: `_boot` is above the worker, and only this entry into a new process turns around.
    from importlib import import_module

    locate = import_module("framework._boot.locate")
    app = locate.load_app(recipe["app"], recipe["path"], recipe["sources"])
    # Here, once, and not in each child: looking for installed hooks reads the metadata of every distribution, and
    # setting up the log imports this.
    app.hooks.load_installed()
    import_module("framework._config.nodename")
    return TaskWorkload(app, app.conf.settings, recipe["hostname"], own_process=True)
