"""The steps of the process: hooks, the log, the pidfile, the loop, the banner, the service manager."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from framework._boot.hooks import Hooks
from framework._boot.loop import EventLoop
from framework.api.step import Board, Step
from framework.worker.process.banner import banner, task_list
from framework.worker.process.logs import setup_logging, write_stdout
from framework.worker.process.notify import Notifier
from framework.worker.process.pidfile import Pidfile
from framework.worker.process.privileges import is_root

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.api.result_store import ResultStore
    from framework.api.transport import Transport
    from framework.worker.intake.subscriptions import Subscriptions
    from framework.worker.process.run import WorkerRun

logger = logging.getLogger(__name__)


class HooksStep(Step):
    """Loads the installed hooks and calls `worker_init`."""

    name = "hooks"
    requires = ("run",)

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        hooks: Hooks = run.app.hooks
        hooks.load_installed()
        if (worker_init := hooks.bind("worker_init")) is not None:
            worker_init(app=run.app, hostname=run.hostname)
        board.put("hooks", hooks)
        self._on_shutdown = hooks.bind("worker_shutdown")
        self._hostname = run.hostname

    def close(self) -> None:
        if self._on_shutdown is not None:
            self._on_shutdown(hostname=self._hostname)


class LoggingStep(Step):
    """Sets up the log."""

    name = "logging"
    requires = ("run", "hooks")

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        setup_logging(run.settings.worker, run.hostname, board.get("hooks"))
        if is_root():
            logger.warning("The worker runs as root, and so do its tasks: run it as another user, such as with --uid")
        board.put("logging", True)


class PidfileStep(Step):
    """Keeps the pidfile while the worker runs."""

    name = "pidfile"
    requires = ("run",)

    def enabled(self, settings: Settings) -> str | None:
        return None if settings.worker.pidfile else "no --pidfile"

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        self._pidfile = Pidfile(run.pidfile)
        self._pidfile.take()
        board.put("pidfile", self._pidfile)

    def close(self) -> None:
        self._pidfile.release()


class LoopStep(Step):
    """Creates the event loop; `loop-thread` runs it."""

    name = "loop"
    requires = ("logging",)

    def start(self, board: Board) -> None:
        self._loop = EventLoop()
        board.put("loop", self._loop)

    def close(self) -> None:
        self._loop.close()


class BannerStep(Step):
    """Prints the banner: the application, the broker, the queues and the tasks."""

    name = "banner"
    requires = ("run", "transport", "results", "queues")

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        transport: Transport = board.get("transport")
        store: ResultStore = board.get("results")
        queues: Subscriptions = board.get("queues")
        if run.quiet:
            return
        urls = (transport.display_url, store.display_url)
        text = banner(run.settings, run.hostname, run.target, run.concurrency, *urls, list(queues))
        level = run.settings.worker.loglevel
        if level in ("DEBUG", "INFO"):
            text += "\n" + task_list(run.app.tasks, builtins=level == "DEBUG")
        write_stdout(f"{text}\n")


class NotifyStep(Step):
    """Notifies the service manager when the worker is ready, stops or restarts, and answers its watchdog."""

    name = "notify"
    policy = "degrade"
    requires = ("run", "loop", "loop-thread")

    def enabled(self, settings: Settings) -> str | None:
        return None if os.environ.get("NOTIFY_SOCKET") else "no service manager: NOTIFY_SOCKET is not set"

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        self._loop: EventLoop = board.get("loop")
        #: None: the connection to the service manager failed.
        self._notifier: Notifier | None = None
        self._notifier = run.notifier = Notifier(os.environ["NOTIFY_SOCKET"], self._loop, os.environ)
        self._loop.call_soon_threadsafe(self._notifier.begin)
        board.put("notify", self._notifier)

    def close(self) -> None:
        if self._notifier is not None:
            self._notifier.close()
