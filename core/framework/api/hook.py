"""Contract of hooks: functions of plugins that the framework calls at certain events (pluggy).

Write a module or class whose functions carry `@hookimpl` and are named as below, and offer it as an entry point of the
group ``framework.hooks``, or pass it to `App.register_hooks`. An implementation may take fewer arguments than listed.
Its exceptions are logged, except a `framework.exceptions.FrameworkError`, which reaches the caller of the hook: raised
in `worker_init`, it stops the start.

The worker and the client look up hooks once, when they start: a hook without implementations costs nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from framework.client.app import App
    from framework.message import Outgoing

PROJECT = "framework"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class HookSpecs:
    """All hooks, with their arguments."""

    # -------------------------------------------------------- the worker's life

    @hookspec
    def worker_init(self, app: App, hostname: str) -> None:
        """Called before any step starts."""

    @hookspec
    def worker_ready(self, app: App, hostname: str) -> None:
        """Called when the worker has started to consume, for the first time only."""

    @hookspec
    def worker_shutting_down(self, hostname: str, how: str, exitcode: int) -> None:
        """Called when the stop begins; `how` is ``warm`` or ``cold``."""

    @hookspec
    def worker_shutdown(self, hostname: str) -> None:
        """Called when everything has stopped."""

    @hookspec
    def worker_process_init(self, app: App, hostname: str) -> None:
        """Called in every process that runs tasks, before its first task."""

    @hookspec
    def worker_process_shutdown(self, hostname: str, pid: int) -> None:
        """Called in every process that ran tasks, before it exits."""

    @hookspec
    def setup_logging(self, loglevel: int, logfile: str | None) -> None:
        """Called instead of the worker's own logging set-up."""

    @hookspec
    def after_setup_logger(self, logger: logging.Logger, loglevel: int) -> None:
        """Called when the worker has set up the root logger."""

    # -------------------------------------------------------- a task's life, in the process that runs it

    @hookspec
    def task_prerun(self, task_id: str, task: Any, args: Any, kwargs: Any) -> None:
        """Called before the task's function."""

    @hookspec
    def task_postrun(self, task_id: str, task: Any, args: Any, kwargs: Any, retval: Any, state: str) -> None:
        """Called after the task has ended, in whatever state."""

    @hookspec
    def task_success(self, task_id: str, task: Any, result: Any, runtime: float) -> None:
        """Called when the task returned; `runtime` is in seconds."""

    @hookspec
    def task_retry(self, task_id: str, task: Any, reason: BaseException) -> None:
        """Called when the task is retried."""

    @hookspec
    def task_failure(
        self, task_id: str, task: Any, exception: BaseException, args: Any, kwargs: Any, traceback: str
    ) -> None:
        """Called when the task raised, timed out or lost its process; in the main process if its own is lost."""

    # -------------------------------------------------------- a task's life, in the main process

    @hookspec
    def task_received(self, task_id: str, name: str) -> None:
        """Called when the worker has received a task message."""

    @hookspec
    def task_revoked(self, task_id: str, name: str, terminated: bool, signum: int | None, expired: bool) -> None:
        """Called when a task was skipped or terminated."""

    @hookspec
    def task_rejected(self, task_id: str | None, reason: str) -> None:
        """Called when a message went to the dead-letter queue."""

    @hookspec
    def task_unknown(self, task_id: str | None, name: str) -> None:
        """Called when the worker receives an unknown task; not again for a message that was handed back."""

    # -------------------------------------------------------- a client's life

    @hookspec
    def before_task_publish(self, name: str, message: Outgoing) -> None:
        """Called before a task message is sent; it may change the message's headers and properties."""

    @hookspec
    def after_task_publish(self, name: str, message: Outgoing) -> None:
        """Called when the broker has the message."""
