"""Runs a worker, from its main thread.

1. Resolves defaults that depend on the machine (node name, concurrency, paths) and builds the worker's graph.
2. Starts the graph, takes the signals (see `framework.worker.process.signals`), and runs tasks if the pool runs them in
   the main thread.
3. Stops the graph when the loop has ended the stop, and returns a named exit code.
4. After HUP, runs the program again in the same process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from framework import exitcodes
from framework._boot import loader
from framework._boot.blueprint import Blueprint, blueprint
from framework._config.autoscale import autoscale_range
from framework._config.nodename import file_path, node_name
from framework.exceptions import FrameworkError
from framework.worker.autoscaler.system_load import cpus
from framework.worker.process.logs import write_to
from framework.worker.process.signals import Signals
from framework.worker.process.stacks import stacks
from framework.worker.process.stopping import Stopper

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework._config.sources import Config
    from framework.api.loop import Loop
    from framework.api.pool import Pool
    from framework.api.step import Step
    from framework.client.app import App
    from framework.client.locate import LocatedApp
    from framework.worker.process.background import Background
    from framework.worker.process.notify import Notifier
    from framework.worker.settle.settle import Settle

logger = logging.getLogger(__name__)

#: Seconds for stopping the steps, after the tasks have ended.
_STEPS_TIMEOUT = 10.0
#: Seconds after which the main thread wakes although nothing happened: USR1 or USR2 that arrives just before it sleeps
#: does not wake it, and only the main thread can run the handler.
_WAKE_INTERVAL = 1.0


class WorkerRun:
    """One run of a worker; steps read its settings and names here."""

    def __init__(
        self,
        located: LocatedApp,
        config: Config,
        steps: Iterable[Step],
        quiet: bool = False,
        background: Background | None = None,
        directory: str | None = None,
    ) -> None:
        """`steps`: the built-in ones. `quiet`: print no banner. `directory`: where it was started; default: current."""
        self.quiet = quiet
        self._background = background
        self.app: App = located.app
        self.target = located.target
        self.settings: Settings = config.settings
        self.hostname = node_name(self.settings.worker.hostname)
        self.concurrency = _concurrency(self.settings)
        self.logfile = file_path(self.settings.worker.logfile, self.hostname) if self.settings.worker.logfile else ""
        self.pidfile = file_path(self.settings.worker.pidfile, self.hostname) if self.settings.worker.pidfile else ""
        self.statedb = file_path(self.settings.worker.state_db, self.hostname) if self.settings.worker.state_db else ""
        self.recipe: Mapping[str, Any] = {
            "factory": "framework.worker.process.child:from_recipe",
            "app": located.target,
            "path": list(located.path),
            "sources": msgspec.to_builtins(config.sources),
            "hostname": self.hostname,
        }
        self.began = time.monotonic()
        self.graph: Blueprint = blueprint("worker", steps, self.settings, {"run": self})
        self.exit_code = exitcodes.OK
        self._error: FrameworkError | None = None
        self._done = threading.Event()
        self._stopper: Stopper | None = None
        #: Notifies the service manager; None: no service manager listens.
        self.notifier: Notifier | None = None
        #: The working directory for a restart.
        self._directory = directory or os.getcwd()

    @property
    def stopper(self) -> Stopper:
        """The stopper; only after the start."""
        assert self._stopper is not None
        return self._stopper

    # ------------------------------------------------------------ the main thread

    def run(self, signals: Signals) -> int:
        """Start, work, and stop on request; return the exit code. Raises `FrameworkError` when the start fails."""
        if self._background is not None:
            self._background.detach(self.logfile)
        signals.install(self._on_signal, {signal.SIGUSR1: self._show_stacks, signal.SIGUSR2: self._debug})
        try:
            self.graph.start()
            if self._background is not None:
                self._background.report_started(self.hostname, self.logfile)
            pool: Pool = self.graph.get("pool")
            self._stopper = Stopper(
                self.graph.get("loop"),
                self.graph.get("intake"),
                self.graph.get("settle"),
                pool,
                self._begin_stop,
                self._end_stop,
                self.settings.worker,
            )
            loop: Loop = self.graph.get("loop")
            loop.call_soon_threadsafe(signals.attach, loop)
            if pool.traits.main_thread:
                pool.run_main()
            while not self._done.wait(_WAKE_INTERVAL):
                pass
        finally:
            self.graph.stop(time.monotonic() + _STEPS_TIMEOUT)
        if self._error is not None:
            raise self._error
        return self.exit_code

    # ------------------------------------------------------------ signals, and callbacks in the loop

    def _on_signal(self, signum: int) -> None:
        self.stopper.handle(signum)

    def _show_stacks(self, _frame: FrameType | None) -> None:
        # Written to the descriptor: the interrupted code may hold the lock of the log or of the stream.
        with contextlib.suppress(OSError):  # a dead pipe
            write_to(2, stacks().encode(errors="replace"))

    def _debug(self, frame: FrameType | None) -> None:
        from framework.contrib import rdb  # start-up time: only a signal needs it, and it imports pdb

        if rdb.is_enabled():
            rdb.set_trace(frame)

    def restart(self) -> NoReturn:
        """Replace this process's program by a new run of it, with the same arguments."""
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os.chdir(self._directory)
        os.execv(sys.executable, sys.orig_argv)

    def ready(self) -> None:
        """Notify the service manager that the worker consumes. Called in the loop."""
        if self.notifier is not None:
            self.notifier.ready()

    def fail(self, error: FrameworkError) -> None:
        """End the worker, which could not begin to consume, with `error`. Called in the loop."""
        self._error = error
        self._end_stop(error.exit_code)

    def _begin_stop(self, how: str, exit_code: int) -> None:
        if self.notifier is not None:
            self.notifier.stopping(self.stopper.restarts)
        if (hook := self.app.hooks.bind("worker_shutting_down")) is not None:
            hook(hostname=self.hostname, how=how, exitcode=exit_code)

    def _end_stop(self, exit_code: int) -> None:
        self.exit_code = exit_code
        settle: Settle = self.graph.get("settle")
        # Read from the graph: a start may fail before `run` has returned from starting it.
        pool: Pool = self.graph.get("pool")
        try:
            settle.end()
            # In the loop, because the consumer is not thread-safe, and before the transport and the pool close.
            self.graph.get("consumption").close()
        finally:
            # Also after an error: the main thread would wait forever.
            if pool.traits.main_thread:
                pool.stop(time.monotonic())
            self._done.set()


#: Default number of slots of a pool with an event loop: its tasks wait more than they compute.
ASYNC_CONCURRENCY: Final = 100


def _concurrency(settings: Settings) -> int:
    """Return the number of slots: the setting, by default the number of CPUs.

    1 if the pool runs tasks in the main thread, the lower bound if it is scaled.
    """
    traits = loader.load("pool", settings.worker.pool).traits
    if traits.main_thread:
        return 1
    if settings.worker.autoscale is not None:
        return autoscale_range(settings.worker.autoscale).start
    wanted = settings.worker.concurrency
    if wanted is None and traits.async_tasks:
        return ASYNC_CONCURRENCY
    if wanted is None or wanted == "auto":
        return cpus()
    return wanted


def run_worker(
    located: LocatedApp,
    config: Config,
    steps: Iterable[Step],
    signals: Signals,
    quiet: bool = False,
    background: Background | None = None,
    directory: str | None = None,
) -> int:
    """Run a worker until it stops; return its exit code. Raises `FrameworkError` when it cannot start.

    Does not return after HUP: the process runs the program again. `signals` are held already.
    """
    run = WorkerRun(located, config, steps, quiet, background, directory)
    code = exitcodes.SOFTWARE
    restarts = False
    try:
        code = run.run(signals)
        restarts = run.stopper.restarts and signals.may_restart()
    except FrameworkError as error:
        code = error.exit_code
        raise
    finally:
        if not restarts:
            signals.fix_exit_code(code)
    if restarts:
        run.restart()
    return code
