"""Makes the workload of a process that runs tasks: of the worker's own, and of one that a pool starts.

1. `make` is for the worker's own process.
2. `from_recipe` is for a process that starts from nothing: it imports the application.
3. Either process sets its log up before its first job.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from framework.client.locate import load_app
from framework.worker.execute.execute import TaskWorkload
from framework.worker.process.logs import redirect_stdouts, setup_logging

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.client.app import App


def make(
    app: App, settings: Settings, hostname: str, task_errors: tuple[type[BaseException], ...] = ()
) -> TaskWorkload:
    """Make the workload of the worker's own process. `task_errors` are the pool's."""
    return TaskWorkload(
        app, settings, hostname, lambda: _redirect(settings), own_process=False, task_errors=task_errors
    )


def from_recipe(recipe: Mapping[str, Any]) -> TaskWorkload:
    """Make the workload of a process that starts from nothing: import the application that `recipe` names."""
    app = load_app(recipe["app"], recipe["path"], recipe["sources"])
    # Here, once, and not in each child: looking for installed hooks reads the metadata of every distribution.
    app.hooks.load_installed()
    settings: Settings = app.conf.settings
    hostname: str = recipe["hostname"]

    def set_up() -> None:
        # A pool of processes numbers them, for %i and %I in the name of the log file.
        index = int(os.environ.get("FRAMEWORK_PROCESS_INDEX", "0"))
        setup_logging(settings.worker, hostname, app.hooks, index)
        _redirect(settings)

    return TaskWorkload(app, settings, hostname, set_up, own_process=True)


def _redirect(settings: Settings) -> None:
    if settings.worker.redirect_stdouts:
        redirect_stdouts(settings.worker.redirect_stdouts_level)
