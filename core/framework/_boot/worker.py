"""A worker's life, seen from its main thread.

1. Resolves what the settings leave open (node name, concurrency, paths) and builds the worker's graph.
2. Starts it, keeps the signals (handlers only hand them to the loop), and runs tasks where the pool wants the main
   thread.
3. Stops it when the loop says that everything has been handed back, and returns a named exit code.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from framework import exitcodes
from framework._boot.blueprint import Blueprint
from framework._boot.parts import blueprint
from framework._boot.steps import worker_steps
from framework._config.nodename import file_path, node_name
from framework._plugins import loader
from framework.exceptions import FrameworkError
from framework.routing import select_queues
from framework.worker.banner import banner, task_list
from framework.worker.stopping import Stopper

if TYPE_CHECKING:
    from framework._boot.locate import LocatedApp
    from framework._config.settings import Settings
    from framework._config.sources import Config
    from framework.api.pool import Pool
    from framework.app import App
    from framework.worker.settle import Settle

logger = logging.getLogger(__name__)

#: Seconds for the last phase of a stop, when nothing runs any more.
_WIND_DOWN = 10.0
#: Seconds between two looks of the main thread at nothing: a signal that comes just before it falls asleep does not
#: wake it, and its handler, which only this thread can run, would wait for the next signal.
_NAP = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class WorkerRun:
    """One run of a worker; the steps find what they need of it here."""

    def __init__(self, located: LocatedApp, config: Config, quiet: bool = False) -> None:
        """`quiet`: print no banner."""
        self._quiet = quiet
        self.app: App = located.app
        self.target = located.target
        self.settings: Settings = config.settings
        self.hostname = node_name(self.settings.worker.hostname)
        self.concurrency = _concurrency(self.settings)
        self.pidfile = file_path(self.settings.worker.pidfile, self.hostname) if self.settings.worker.pidfile else ""
        self.recipe: Mapping[str, Any] = {
            "factory": "framework.worker.execute:from_recipe",
            "app": located.target,
            "path": list(located.path),
            "sources": msgspec.to_builtins(config.sources),
            "hostname": self.hostname,
        }
        self.began = time.monotonic()
        self.graph: Blueprint = blueprint("worker", worker_steps(self.settings), self.settings, {"run": self})
        self.exit_code = exitcodes.OK
        self._error: FrameworkError | None = None
        self._done = threading.Event()
        self._stopper: Stopper | None = None
        self._early: list[int] = []

    @property
    def stopper(self) -> Stopper:
        """What carries the stop through."""
        assert self._stopper is not None
        return self._stopper

    # ------------------------------------------------------------ the main thread

    def run(self) -> int:
        """Start, work until told to stop, stop; return the exit code. Raises `FrameworkError` when the start fails."""
        previous = {signum: signal.signal(signum, self._on_signal) for signum in _SIGNALS}
        try:
            if not self._quiet:
                self._announce()
            self.graph.start()
            pool: Pool = self.graph.get("pool")
            self._stopper = Stopper(
                self.graph.get("loop"),
                self.graph.get("intake"),
                self.graph.get("settle"),
                pool,
                self._begin_stop,
                self._end_stop,
                self.settings.worker.stop_timeout,
                os.environ.get("REMAP_SIGTERM") == "SIGQUIT",
            )
            for signum in self._early:
                self._hand_over(signum)
            if pool.traits.main_thread:
                pool.run_main()
            while not self._done.wait(_NAP):
                pass
        finally:
            self.graph.stop(time.monotonic() + _WIND_DOWN)
            for signum, handler in previous.items():
                signal.signal(signum, handler)
        if self._error is not None:
            raise self._error
        return self.exit_code

    def _announce(self) -> None:
        settings = self.settings
        worker = settings.worker
        transport = loader.make_transport(settings)
        store = loader.make_result_store(settings, transport)
        queues = select_queues(settings, worker.queues, worker.exclude_queues)
        sys.stdout.write(
            banner(
                settings,
                self.hostname,
                self.target,
                self.concurrency,
                transport.display_url,
                store.display_url,
                queues,
            )
        )
        if worker.loglevel in ("DEBUG", "INFO"):
            sys.stdout.write("\n" + task_list(self.app.tasks, builtins=worker.loglevel == "DEBUG"))
        sys.stdout.write("\n")
        sys.stdout.flush()

    # ------------------------------------------------------------ signals and the loop's word

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        # A handler only enqueues: it may interrupt anything, the logging module's lock included.
        if self._stopper is None:
            self._early.append(signum)
        else:
            self._hand_over(signum)

    def _hand_over(self, signum: int) -> None:
        self.graph.get("loop").call_soon_threadsafe(self.stopper.handle, signum)

    def ready(self, error: FrameworkError | None) -> None:
        """Hear, in the loop, that the worker consumes (None), or why it never will."""
        if error is not None:
            self._error = error
            self._end_stop(error.exit_code)

    def _begin_stop(self, how: str, exit_code: int) -> None:
        if (hook := self.app.hooks.bind("worker_shutting_down")) is not None:
            hook(hostname=self.hostname, how=how, exitcode=exit_code)

    def _end_stop(self, exit_code: int) -> None:
        self.exit_code = exit_code
        settle: Settle = self.graph.get("settle")
        # From the graph: a start that fails at once is heard here before the main thread has come to know them.
        pool: Pool = self.graph.get("pool")
        try:
            settle.flush()
            if settle.unstored:
                logger.error(
                    "%d results are lost: the result store is away, and the worker ends; "
                    "messages acknowledged late go back to their queues",
                    settle.unstored,
                )
            # In the loop, as the consumer wants it, and before anything else goes.
            self.graph.get("consumption").close()
        finally:
            # Whatever went wrong before: a main thread that is not told waits for ever.
            if pool.traits.main_thread:
                pool.stop(time.monotonic())
            self._done.set()


#: Slots of a pool with an event loop, when nobody says: its tasks wait more than they compute.
ASYNC_CONCURRENCY: Final = 100


def _concurrency(settings: Settings) -> int:
    """Return the number of slots: what was asked for, else the CPUs; one where a pool runs tasks in the main thread."""
    traits = loader.load("pool", settings.worker.pool).traits
    if traits.main_thread:
        return 1
    wanted = settings.worker.concurrency
    if wanted is None and traits.async_tasks:
        return ASYNC_CONCURRENCY
    if wanted is None or wanted == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted


def run_worker(located: LocatedApp, config: Config, quiet: bool = False) -> int:
    """Run a worker until it is told to stop; return its exit code. Raises `FrameworkError` when it cannot start."""
    return WorkerRun(located, config, quiet).run()
