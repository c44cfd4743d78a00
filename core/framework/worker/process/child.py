"""Creates the workload of a process that runs tasks: the worker's own process, or one that a pool starts.

1. `make` creates the workload of the worker's own process.
2. `from_recipe` creates the workload of a fresh process: it imports the application.
3. Both processes set up their log before their first job.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from framework.api.originals import is_replaced
from framework.client.locate import load_app
from framework.worker.execute.execute import TaskWorkload
from framework.worker.process import log_locks
from framework.worker.process.logs import LogStream, pass_on_limits, redirect_stdouts, setup_logging

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.client.app import App


def make(app: App, settings: Settings, hostname: str, interrupts: tuple[type[BaseException], ...]) -> TaskWorkload:
    """Create the workload of the worker's own process. `interrupts` are the pool's."""
    return TaskWorkload(
        app, settings, hostname, lambda: _set_up_own_output(settings), own_process=False, interrupts=interrupts
    )


def _set_up_own_output(settings: Settings) -> LogStream | None:
    if not is_replaced():  # to greenlets no lock is lost
        log_locks.install()
    return _set_up_output(settings)


def from_recipe(recipe: Mapping[str, Any]) -> TaskWorkload:
    """Create the workload of a fresh process: import the application that `recipe` names."""
    app = load_app(recipe["app"], recipe["path"], recipe["sources"])
    # Done once, before children are forked: finding the installed hooks reads the metadata of every distribution.
    app.hooks.load_installed()
    settings: Settings = app.conf.settings
    hostname: str = recipe["hostname"]

    def set_up() -> LogStream | None:
        # A pool of processes numbers its children; %i and %I in the name of the log file are replaced by the number.
        index = int(os.environ.get("FRAMEWORK_PROCESS_INDEX", "0"))
        setup_logging(settings.worker, hostname, app.hooks, index)
        return _set_up_output(settings)

    return TaskWorkload(app, settings, hostname, set_up, own_process=True)


def _set_up_output(settings: Settings) -> LogStream | None:
    pass_on_limits()
    if settings.worker.redirect_stdouts:
        return redirect_stdouts(settings.worker.redirect_stdouts_level)
    return None
