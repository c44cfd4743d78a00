"""Execute: runs one task in its slot, from the encoded message to the outcome.

1. Decodes the message; a message that cannot become a call is INVALID and becomes a dead letter.
2. Calls the task with its request as the current request.
3. Passes the return value or the exception to `framework.worker.execute.finish`.
4. Ends the copies of this process that user code makes with `os.fork`, see `framework.worker.execute.copies`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Final

from framework.api import pool as outcomes
from framework.api.interrupt import unpacking_calls
from framework.api.pool import Job, Outcome
from framework.client.publisher import wait
from framework.client.request import Context, pop_request, push_request
from framework.exceptions import MessageError
from framework.message import read
from framework.wire.serialization import decode_task
from framework.worker.execute.copies import end_copy, process
from framework.worker.execute.finish import Finish, Run
from framework.worker.execute.plan import COROUTINE_CALL, TaskPlans

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.api.coroutine import Call
    from framework.client.app import App
    from framework.worker.process.logs import LogStream

logger = logging.getLogger(__name__)


class TaskWorkload:
    """The `framework.api.pool.Workload` of a worker."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        hostname: str,
        set_up: Callable[[], LogStream | None],
        *,
        own_process: bool,
        interrupts: tuple[type[BaseException], ...] = (),
    ) -> None:
        """`set_up` sets up the log of this process, and returns the stream that logs what tasks print.

        `own_process`: not the worker's process; `release` closes `app`. `interrupts`: see
        `framework.api.pool.Pool.interrupts`.
        """
        self._app = app
        self._set_up = set_up
        self._output: LogStream | None = None
        self._settings = settings
        self._hostname = hostname
        self._own_process = own_process
        self._interrupts = interrupts
        self._accept = settings.accept_content
        self._max_size = settings.task.max_message_size
        self._max_nesting = settings.task.max_nesting
        self._bind_hooks()

    def _bind_hooks(self) -> None:
        self._finish = Finish(self._app, self._settings, self._hostname)
        self._plans = TaskPlans(self._app, self._finish.listeners)

    # ------------------------------------------------------------ start and end of a process

    def prepare(self) -> None:
        """Prepare this process for its first job."""
        process.copy_of = 0  # a child of a fork server is not a copy that a task has made
        self._output = self._set_up()
        self._bind_hooks()
        if (init := self._app.hooks.bind("worker_process_init")) is not None:
            init(app=self._app, hostname=self._hostname)
        if process.copy_of:
            end_copy("worker_process_init")

    def release(self) -> None:
        """Release the resources of this process."""
        if (shutdown := self._app.hooks.bind("worker_process_shutdown")) is not None:
            shutdown(hostname=self._hostname, pid=os.getpid())
        if (coroutines := sys.modules.get("framework.client.coroutines")) is not None:
            coroutines.close_here()
        if self._own_process:
            self._app.close()

    # ------------------------------------------------------------ running a job

    def run(self, job: Job) -> Outcome:
        """Run `job`."""
        began = monotonic()
        try:
            run = self._open(job)
        except MessageError as error:
            return _invalid(job, error, began)
        plan = run.plan
        token = push_request(run.request)
        try:
            if plan.begins:
                self._begin(run)
                if process.copy_of:
                    end_copy(_place(job))
            retval = plan.call(*run.args, **run.kwargs)
            if process.copy_of:
                end_copy(_place(job))
            return self._finish.success(run, retval, monotonic() - began)
        except BaseException as error:  # the task-execution wall; what a pool threw in is raised again
            if process.copy_of:
                end_copy(_place(job), error)
            # A task also fails if its return value cannot be encoded or its callbacks cannot be sent.
            if not self._is_of_task(error):
                raise
            return self._finish.raised(run, error, monotonic() - began)
        finally:
            if process.copy_of:  # made by a handler or a hook
                end_copy(_place(job))
            if (output := self._output) is not None and output.begun:
                output.flush()
            pop_request(token)

    def _is_of_task(self, error: BaseException) -> bool:
        """Whether the task has raised `error`, and not the pool to end its job; of a group, whether all parts are."""
        if isinstance(error, BaseExceptionGroup):
            return all(map(self._is_of_task, error.exceptions))
        return not isinstance(error, self._interrupts)

    def runs_async(self, task: str) -> bool:
        """Return whether `task` is a coroutine function."""
        return self._plans[task].acall is not None

    async def arun(self, job: Job, call: Call) -> Outcome:
        """Run `job`, whose task is a coroutine function, in this asyncio task."""
        began = monotonic()
        try:
            run = self._open(job)
        except MessageError as error:
            return _invalid(job, error, began)
        assert run.plan.acall is not None
        run.later, run.sends = [], []
        token = push_request(run.request)
        try:
            if run.plan.begins:
                self._begin(run)
            retval = await call.drive(run.plan.acall(*run.args, **run.kwargs))
            if process.copy_of:
                end_copy(_place(job))
            if run.embed or run.request.unsent:
                await call.drive(self._finish.send_all(self._finish.follow_ups(run, retval), run.request))
            outcome = self._finish.success(run, retval, monotonic() - began)
            if run.later:
                # Not driven: an interrupted thread would go on counting.
                await self._finish.count_in_thread(run.later)
            return outcome
        except BaseException as error:  # the task-execution wall, as in `run`
            # Not these: they mean that the coroutine is being closed, or that the pool cancels it.
            if type(error).__name__ in ("GeneratorExit", "CancelledError") or not self._is_of_task(error):
                raise
            if process.copy_of:
                end_copy(_place(job), error)
            run.later.clear()
            request, end = run.request, error
            try:
                await call.drive(self._finish.send_all(request.unsent, request))
            except Exception as failed:  # noqa: BLE001 - a message that cannot be sent makes the task fail
                end = failed
            outcome = self._finish.raised(run, end, monotonic() - began)
            if run.later:
                await self._finish.count_in_thread(run.later)
            try:
                await call.drive(self._finish.send_all(run.sends, request))
            except Exception as failed:  # noqa: BLE001 - errbacks come from the message and may raise anything
                self._finish.report_unsent(request, failed)
            return outcome
        finally:
            if process.copy_of:
                end_copy(_place(job))
            if (output := self._output) is not None and output.begun:
                output.flush()
            pop_request(token)

    def _open(self, job: Job) -> Run:
        """Decode the message of `job` into a call. Raises `MessageError`."""
        seq, payload, name, _id, _soft, _hard, wants_result_repr = job  # faster than attribute access
        incoming = read(payload)
        args, kwargs, embed = decode_task(
            incoming, accept=self._accept, max_size=self._max_size, max_nesting=self._max_nesting
        )
        request = Context.from_incoming(incoming, self._app, args, kwargs, embed, self._hostname)
        return Run(seq, wants_result_repr, self._plans[name], request, embed, args, kwargs)

    def task_frame(self, frame: FrameType) -> FrameType | None:
        """Return the frame of the task's own function that has called the code of `frame`; None: none has.

        The waits of this project in which a task may be interrupted count as its own functions.
        """
        # Not imported: a process that runs no coroutine does not load asyncio.
        coroutines = sys.modules.get("framework.client.coroutines")
        steps, end = (coroutines.STEPS, coroutines.wait.__code__) if coroutines else (None, None)
        while (caller := frame.f_back) is not None:
            if frame.f_code is _PAUSE or frame.f_code is end or caller.f_code is steps:
                return frame
            if caller.f_code is _RUN:
                of_task = caller.f_lasti in _TASK_CALLS and frame.f_code is not COROUTINE_CALL
                return frame if of_task else None
            frame = caller
        return None

    def interrupt(self, thread: int, exception: type[BaseException], frame: FrameType | None = None) -> bool:
        """Raise `exception` in the coroutine that `thread` runs; return whether it ran one."""
        # Not imported: a process that runs no coroutine does not load asyncio.
        coroutines = sys.modules.get("framework.client.coroutines")
        return coroutines is not None and bool(coroutines.interrupt(thread, exception, frame))

    def _begin(self, run: Run) -> None:
        plan, request, on = run.plan, run.request, self._finish.listeners
        if plan.track_started:
            self._finish.store_started(request)
        if on.prerun is not None:
            on.prerun(task_id=request.id, task=plan.task, args=run.args, kwargs=run.kwargs)
        if plan.before_start is not None:
            plan.before_start(request.id, run.args, run.kwargs)


_RUN: Final = TaskWorkload.run.__code__
#: Where `TaskWorkload.run` calls the task: the one call with unpacked arguments.
_TASK_CALLS: Final = unpacking_calls(TaskWorkload.run)
_PAUSE: Final = wait.__code__


def _place(job: Job) -> str:
    return f"{job.task}[{job.id}]"


def _invalid(job: Job, error: MessageError, began: float) -> Outcome:
    return Outcome(job.seq, outcomes.INVALID, monotonic() - began, None, f"{error.reason}: {error}")
