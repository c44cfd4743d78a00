"""Execute: runs one task where it runs, from the encoded body to its outcome.

1. Decodes the message; what cannot become a call is INVALID, and becomes a dead letter.
2. Calls the task with its request in place.
3. Hands what it returned or raised to `framework.worker.execute.finish`.
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
from framework.api.pool import Job, Outcome
from framework.client.request import Context, pop_request, push_request
from framework.exceptions import MessageError
from framework.message import read
from framework.wire.serialization import decode_task
from framework.worker.execute.finish import Finish, Run
from framework.worker.execute.plan import TaskPlans

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.api.coroutine import Call
    from framework.client.app import App

logger = logging.getLogger(__name__)

#: The task-execution wall: what a task may raise. Of `BaseException`s only those that it may have come by innocently:
#: the others are how a pool ends a job from outside.
_RAISED: Final = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)


class TaskWorkload:
    """The `framework.api.pool.Workload` of a worker."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        hostname: str,
        set_up: Callable[[], object],
        *,
        own_process: bool,
        task_errors: tuple[type[BaseException], ...] = (),
    ) -> None:
        """`set_up` sets up this process's log. `own_process`: it is not the worker's, and closes `app` when it ends.

        `task_errors`: what else a task may raise, see `framework.api.pool.Pool.task_errors`.
        """
        self._app = app
        self._set_up = set_up
        self._settings = settings
        self._hostname = hostname
        self._own_process = own_process
        self._raised: tuple[type[BaseException], ...] = (*_RAISED, *task_errors)
        self._accept = settings.accept_content
        self._max_size = settings.task.max_message_size
        self._max_nesting = settings.task.max_nesting
        self._look_who_listens()

    def _look_who_listens(self) -> None:
        self._finish = Finish(self._app, self._settings, self._hostname)
        self._plans = TaskPlans(self._app, self._finish.listeners)

    # ------------------------------------------------------------ a process's life

    def prepare(self) -> None:
        """Get this process ready for its first job."""
        self._set_up()
        self._look_who_listens()
        if (init := self._app.hooks.bind("worker_process_init")) is not None:
            init(app=self._app, hostname=self._hostname)

    def release(self) -> None:
        """Let go of what this process opened."""
        if (shutdown := self._app.hooks.bind("worker_process_shutdown")) is not None:
            shutdown(hostname=self._hostname, pid=os.getpid())
        if (coroutines := sys.modules.get("framework.client.coroutines")) is not None:
            coroutines.close_here()
        if self._own_process:
            self._app.close()

    # ------------------------------------------------------------ a job's life

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
            retval = plan.call(*run.args, **run.kwargs)
            return self._finish.success(run, retval, monotonic() - began)
        except BaseException as error:
            # What a task returned may also fail to be encoded, or its callbacks to be sent: the task has then failed.
            if not (isinstance(error, self._raised) or _is_library_timeout(error)):
                raise
            return self._finish.raised(run, error, monotonic() - began)
        finally:
            pop_request(token)

    def runs_async(self, task: str) -> bool:
        """Say whether `task` is a coroutine function."""
        return self._plans[task].acall is not None

    async def arun(self, job: Job, call: Call) -> Outcome:
        """Run `job`, a coroutine, in this asyncio task."""
        began = monotonic()
        try:
            run = self._open(job)
        except MessageError as error:
            return _invalid(job, error, began)
        assert run.plan.acall is not None
        run.later = []
        token = push_request(run.request)
        try:
            if run.plan.begins:
                self._begin(run)
            retval = await call.drive(run.plan.acall(*run.args, **run.kwargs))
            outcome = self._finish.success(run, retval, monotonic() - began)
            if run.later:
                await call.drive(self._finish.count_in_thread(run.later))
            return outcome
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - the task-execution wall, as in `run`
            # Not GeneratorExit: here it means that the coroutine is being closed.
            run.later.clear()
            outcome = self._finish.raised(run, error, monotonic() - began)
            if run.later:
                await self._finish.count_in_thread(run.later)
            return outcome
        finally:
            pop_request(token)

    def _open(self, job: Job) -> Run:
        """Make a call of `job`. Raises `MessageError`."""
        seq, payload, name, _id, _soft, _hard, wants_result_repr = job  # faster than asking for each by name
        incoming = read(payload)
        args, kwargs, embed = decode_task(
            incoming, accept=self._accept, max_size=self._max_size, max_nesting=self._max_nesting
        )
        request = Context.from_incoming(incoming, self._app, args, kwargs, embed, self._hostname)
        return Run(seq, wants_result_repr, self._plans[name], request, embed, args, kwargs)

    def interrupt(self, thread: int, exception: type[BaseException], frame: FrameType | None = None) -> bool:
        """Have `exception` end the coroutine that `thread` runs."""
        # Not imported here: a process that runs no coroutine does not load asyncio.
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


def _is_library_timeout(error: BaseException) -> bool:
    """Whether `error` is a library's time-out that is no `Exception`, as green libraries have one.

    A task may use such a library in a pool that knows nothing of it.
    """
    return any(kind.__name__ == "Timeout" for kind in type(error).__mro__)


def _invalid(job: Job, error: MessageError, began: float) -> Outcome:
    return Outcome(job.seq, outcomes.INVALID, monotonic() - began, None, f"{error.reason}: {error}")
