"""A worker's life, seen from its main thread.

1. Resolves what the settings leave open (node name, concurrency, paths) and builds the worker's graph.
2. Starts it, takes the signals (see `framework.worker.process.signals`), and runs tasks where the pool wants the main
   thread.
3. Stops it when the loop says that everything has been handed back, and returns a named exit code.
4. After HUP, starts the program anew in the same process.
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

#: Seconds for the last phase of a stop, when nothing runs any more.
_WIND_DOWN = 10.0
#: Seconds between two looks of the main thread at nothing: USR1 or USR2 that comes just before it falls asleep does not
#: wake it, and only this thread can run the handler.
_NAP = 1.0


class WorkerRun:
    """One run of a worker; the steps find what they need of it here."""

    def __init__(
        self,
        located: LocatedApp,
        config: Config,
        steps: Iterable[Step],
        quiet: bool = False,
        background: Background | None = None,
        directory: str | None = None,
    ) -> None:
        """`steps`: the built-in ones. `quiet`: print no banner. `directory`: where it was started; None: here."""
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
        #: The service manager's ear, if one listens.
        self.notifier: Notifier | None = None
        #: Where the program was started, for starting it again.
        self._directory = directory or os.getcwd()

    @property
    def stopper(self) -> Stopper:
        """What carries the stop through."""
        assert self._stopper is not None
        return self._stopper

    # ------------------------------------------------------------ the main thread

    def run(self, signals: Signals) -> int:
        """Start, work until told to stop, stop; return the exit code. Raises `FrameworkError` when the start fails."""
        if self._background is not None:
            self._background.leave(self.logfile)
        signals.install(self._on_signal, {signal.SIGUSR1: self._show_stacks, signal.SIGUSR2: self._debug})
        try:
            self.graph.start()
            if self._background is not None:
                self._background.begun(self.hostname, self.logfile)
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
            while not self._done.wait(_NAP):
                pass
        finally:
            self.graph.stop(time.monotonic() + _WIND_DOWN)
        if self._error is not None:
            raise self._error
        return self.exit_code

    # ------------------------------------------------------------ signals and the loop's word

    def _on_signal(self, signum: int) -> None:
        self.stopper.handle(signum)

    def _show_stacks(self, _frame: FrameType | None) -> None:
        # Straight to the descriptor: this may have interrupted whoever holds the log's or the stream's lock.
        os.write(2, stacks().encode(errors="replace"))

    def _debug(self, frame: FrameType | None) -> None:
        from framework.contrib import rdb  # start-up time: only a signal needs it, and it imports pdb

        if rdb.is_enabled():
            rdb.set_trace(frame)

    def restart(self) -> NoReturn:
        """Start the program that this process runs again, in this process, with the same arguments."""
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os.chdir(self._directory)
        os.execv(sys.executable, sys.orig_argv)

    def ready(self, error: FrameworkError | None) -> None:
        """Hear, in the loop, that the worker consumes (None), or why it never will."""
        if error is not None:
            self._error = error
            self._end_stop(error.exit_code)
        elif self.notifier is not None:
            self.notifier.ready()

    def _begin_stop(self, how: str, exit_code: int) -> None:
        if self.notifier is not None:
            self.notifier.stopping(self.stopper.restarts)
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
    """Return the number of slots: what was asked for, else the CPUs.

    One where a pool runs tasks in the main thread, the smallest where it is scaled.
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
    """Run a worker until it is told to stop; return its exit code. Raises `FrameworkError` when it cannot start.

    On HUP it does not return: the process goes on as a new run of the program. `signals` are held already.
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
            signals.leave(code)
    if restarts:
        run.restart()
    return code
