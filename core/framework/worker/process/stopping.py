"""Stops the worker in phases, so that no message is lost and no task runs twice without need.

1. quiet: stop fetching and requeue the tasks that have not started, in order, so that other workers can run them.
2. drain: wait for running tasks and acknowledge late ones as they end. The worker still answers remote control. Results
   that the result store does not accept are waited for until `settle_timeout` is over.
3. soft (only if `soft_shutdown_timeout` is set): a cold stop first waits that long, or until no task runs.
4. hard stop (cold, or at `stop_timeout`): terminate the running tasks.
5. requeue: close the consumer, which requeues all unacknowledged messages; only then does the process end.

Signals and remote control request a stop; everything here runs in the loop.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from framework import exitcodes
from framework.api.loop import Loop
from framework.api.pool import Pool
from framework.server_url import mask
from framework.worker.intake.intake import Intake
from framework.worker.process.logs import write_stdout
from framework.worker.settle.settle import Settle

if TYPE_CHECKING:
    from framework._config.settings import WorkerSettings

logger = logging.getLogger(__name__)

#: Seconds that a cold stop waits until the pool has reported the tasks that it terminated.
_REPORT_TIMEOUT: Final = 2.0


class Stopper:
    """Runs the phases of a stop; a second request makes a warm stop a cold one."""

    def __init__(
        self,
        loop: Loop,
        intake: Intake,
        settle: Settle,
        pool: Pool,
        on_begin: Callable[[str, int], object],
        on_end: Callable[[int], object],
        worker: WorkerSettings,
    ) -> None:
        """`on_begin` is called with ``("warm" | "cold", exit code)``, `on_end` with the exit code.

        `worker` has the timeouts of the phases.
        """
        self._loop = loop
        self._intake = intake
        self._settle = settle
        self._pool = pool
        self._on_begin = on_begin
        self._on_end = on_end
        self._stop_timeout = worker.stop_timeout
        self._settle_timeout = worker.settle_timeout
        self._settling = False
        self._soft_timeout = worker.soft_shutdown_timeout
        self._soft_on_idle = worker.enable_soft_shutdown_on_idle
        self._remap_term = os.environ.get("REMAP_SIGTERM") == "SIGQUIT"
        self._phase: str | None = None
        self._ended = False
        self._exit_code = exitcodes.OK
        #: Whether the worker restarts when it has stopped.
        self.restarts = False

    def handle(self, signum: int) -> None:
        """Handle a signal: TERM stops warmly, QUIT coldly, INT first warmly and then coldly; HUP restarts."""
        if signum == signal.SIGHUP:
            self._handle_hup()
            return
        # A request to end the worker overrides an earlier HUP.
        self.restarts = False
        if signum == signal.SIGINT:
            self._exit_code = exitcodes.INTERRUPTED
            if self._phase is None:
                _print("worker: Hitting Ctrl+C again will initiate cold shutdown, terminating all running tasks!")
                self.warm()
            else:
                self.cold()
        elif signum == signal.SIGQUIT or (signum == signal.SIGTERM and self._remap_term):
            self.cold()
        else:
            self.warm()

    def _handle_hup(self) -> None:
        if self._phase is not None:
            return
        if sys.__stdout__ is not None and sys.__stdout__.isatty():
            logger.warning(
                "HUP restarts only a worker without a terminal; the terminal of this worker is closing: stopping"
            )
        elif sys.platform == "darwin":
            logger.warning("HUP is not supported on this platform: stop the worker and start it again")
            return
        else:
            _print(f"Restarting framework worker ({' '.join(map(mask, sys.argv))})")
            self.restarts = True
        self.warm()

    def warm(self) -> None:
        """Finish running tasks, then end. A repetition only prints the message again."""
        _print("worker: Warm shutdown (MainProcess)")
        if self._phase is not None:
            return
        self._phase = "warm"
        self._on_begin("warm", self._exit_code)
        self._intake.on_idle = self._on_idle
        self._intake.quiet()
        if self._stop_timeout is not None:
            self._loop.call_later(self._stop_timeout, self._on_stop_timeout)

    def _on_stop_timeout(self) -> None:
        if not self._ended and self._phase == "warm":
            logger.warning("Tasks still run after the stop_timeout of %s seconds", self._stop_timeout)
            self.cold()

    def cold(self) -> None:
        """Terminate running tasks: now, or after the soft phase if it is set; a repetition ends the soft phase."""
        if self._phase in ("soft", "cold"):
            self._hard()
            return
        if self._phase is None:
            self._on_begin("cold", self._exit_code)
        if self._soft_timeout > 0 and (self._soft_on_idle or not self._settle.idle):
            self._phase = "soft"
            logger.warning("Initiating Soft Shutdown, terminating in %g seconds", self._soft_timeout)
            if not self._soft_on_idle:
                self._intake.on_idle = self._on_idle
            self._intake.quiet()
            self._loop.call_later(self._soft_timeout, self._hard)
        else:
            self._hard()

    def _hard(self) -> None:
        """Terminate running tasks. Messages acknowledged late are requeued."""
        if self._phase == "cold" or self._ended:
            return
        self._phase = "cold"
        _print("worker: Cold shutdown (MainProcess)")
        self._settle.cold = True
        self._intake.on_idle = self._on_idle
        self._intake.quiet()
        self._pool.kill()
        # A task that cannot be stopped (a thread in C code) never reports; it ends with the process.
        self._loop.call_later(_REPORT_TIMEOUT, self._end)

    def _on_idle(self) -> None:
        """End, or wait until what the tasks have left is accepted, but no longer than `settle_timeout`."""
        if self._settle.idle:
            self._end()
        elif not self._settling:
            self._settling = True
            logger.warning(
                "All tasks have ended; waiting at most %g s (settle_timeout) until %d results and %d messages that "
                "follow tasks are accepted",
                self._settle_timeout,
                self._settle.unstored,
                len(self._settle.unsent),
            )
            self._loop.call_later(self._settle_timeout, self._end)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._intake.on_idle = None
            self._on_end(self._exit_code)


def _print(line: str) -> None:
    # Printed to the terminal, as in the guide: the text must be visible at every log level, and `sys.stdout` may be
    # redirected to the log.
    write_stdout(f"\n{line}\n" if sys.__stdout__ is not None and sys.__stdout__.isatty() else f"{line}\n")
