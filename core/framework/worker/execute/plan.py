"""Plans: everything to call for one task, computed once per task and process.

A field is None, and costs nothing, for a hook without implementation and a handler that the task does not override.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from framework.client.task import Task, called_by_message
from framework.client.task_policy import TaskPolicy

if TYPE_CHECKING:
    from framework.client.app import App

Handler = Callable[..., Any]


class TaskPlan(msgspec.Struct, gc=False):
    """The callables and settings that run one task; None: nothing to call."""

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
    #: Whether there is work before the task, and after its success.
    begins: bool
    ends: bool
    #: Returns the coroutine of an `async def` task; `call` then runs it to its end.
    acall: Handler | None


class Listeners(msgspec.Struct):
    """The hooks around a task, each bound to its implementations; None: no implementation."""

    prerun: Handler | None
    postrun: Handler | None
    succeeded: Handler | None
    failed: Handler | None
    retried: Handler | None
    #: Whether ends of tasks are logged at INFO.
    log_info: bool

    @classmethod
    def bind(cls, app: App, logger: logging.Logger) -> Listeners:
        """Bind the hooks of `app`; `logger` logs the ends of tasks."""
        bind = app.hooks.bind
        return cls(
            bind("task_prerun"),
            bind("task_postrun"),
            bind("task_success"),
            bind("task_failure"),
            bind("task_retry"),
            logger.isEnabledFor(logging.INFO),
        )


class _CoroutineCall:
    """Runs the coroutine of a task to its end."""

    def __init__(self, acall: Handler, run: Handler) -> None:
        self._acall = acall
        self._run = run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self._acall(*args, **kwargs))


#: Calls what runs coroutines, which is not the task's own function.
COROUTINE_CALL: Final = _CoroutineCall.__call__.__code__


class TaskPlans(dict[str, TaskPlan]):
    """The plans of an application's tasks by name, each made on first access."""

    def __init__(self, app: App, listeners: Listeners) -> None:
        """`listeners`: the hooks that the plans depend on."""
        self._app = app
        self._listeners = listeners

    def __missing__(self, name: str) -> TaskPlan:
        task = self._app.tasks[name]
        policy = task.policy
        kind = type(task)

        def own(handler: str) -> Handler | None:
            """Return the task's `handler`, or None if it is the base class's, which does nothing."""
            return getattr(task, handler) if getattr(kind, handler) is not getattr(Task, handler) else None

        call = called_by_message(task)
        acall = None
        if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(task.run):
            # Start-up time and memory: a process that runs no coroutine does not load asyncio.
            from framework.client import coroutines

            acall, call = call, _CoroutineCall(call, coroutines.run_here)

        on = self._listeners
        track_started = policy.track_started and not policy.ignore_result
        before_start, on_success, after_return = own("before_start"), own("on_success"), own("after_return")
        before = (on.prerun, before_start)
        after = (on.succeeded, on.postrun, on_success, after_return)
        plan = self[name] = TaskPlan(
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
            track_started or any(handler is not None for handler in before),
            on.log_info or any(handler is not None for handler in after),
            acall,
        )
        return plan
