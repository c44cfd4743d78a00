"""Stopping, in phases, so that no message is lost and none is repeated without need.

1. quiet: stop fetching and give back what has not started, in order, so that others can take it while we finish.
2. drain: wait for running tasks; late acks are sent as they end. Remote control goes on being answered.
3. soft (only if `soft_shutdown_timeout` is set): a cold stop waits that long first, or until nothing runs any more.
4. hard stop (cold, or at `stop_timeout`): end what runs.
5. hand back: close the consumer, which returns everything still on loan; only then may the process go.

Requests come from signals and from remote control; everything here runs in the loop.
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
from framework.worker.intake.intake import Intake
from framework.worker.settle.settle import Settle

if TYPE_CHECKING:
    from framework._config.settings import WorkerSettings

logger = logging.getLogger(__name__)

#: Seconds that a cold stop waits for the pool to tell what it ended.
_LAST_WORDS: Final = 2.0


class Stopper:
    """Carries a stop through its phases, and from warm to cold when asked twice."""

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
        """`on_begin` hears ``("warm" | "cold", exit code)``.

        `on_end` hears the exit code. `worker` says how long the phases may take.
        """
        self._loop = loop
        self._intake = intake
        self._settle = settle
        self._pool = pool
        self._on_begin = on_begin
        self._on_end = on_end
        self._stop_timeout = worker.stop_timeout
        self._soft_timeout = worker.soft_shutdown_timeout
        self._soft_on_idle = worker.enable_soft_shutdown_on_idle
        self._remap_term = os.environ.get("REMAP_SIGTERM") == "SIGQUIT"
        self._how: str | None = None
        self._ended = False
        self._exit_code = exitcodes.OK
        #: The worker is to start again when it has stopped.
        self.restarts = False

    def handle(self, signum: int) -> None:
        """Do what `signum` asks for: TERM warm, QUIT cold, INT warm and then cold, HUP warm and then start again."""
        if signum == signal.SIGHUP:
            self._hang_up()
            return
        # Whatever was to come after the stop: who asks for an end gets an end.
        self.restarts = False
        if signum == signal.SIGINT:
            self._exit_code = exitcodes.INTERRUPTED
            if self._how is None:
                _say("worker: Hitting Ctrl+C again will initiate cold shutdown, terminating all running tasks!")
                self.warm()
            else:
                self.cold()
        elif signum == signal.SIGQUIT or (signum == signal.SIGTERM and self._remap_term):
            self.cold()
        else:
            self.warm()

    def _hang_up(self) -> None:
        if self._how is not None:
            return
        if sys.__stdout__ is not None and sys.__stdout__.isatty():
            logger.warning(
                "HUP restarts a worker that has no terminal only; this one has one, and it is closing: stopping"
            )
        elif sys.platform == "darwin":
            logger.warning("HUP is not supported on this platform: stop the worker and start it again")
            return
        else:
            _say(f"Restarting framework worker ({' '.join(sys.argv)})")
            self.restarts = True
        self.warm()

    def warm(self) -> None:
        """Finish what runs, then end. Repeating it only says so again."""
        _say("worker: Warm shutdown (MainProcess)")
        if self._how is not None:
            return
        self._how = "warm"
        self._on_begin("warm", self._exit_code)
        self._intake.on_idle = self._end
        self._intake.quiet()
        if self._stop_timeout is not None:
            self._loop.call_later(self._stop_timeout, self._time_is_up)

    def _time_is_up(self) -> None:
        if not self._ended and self._how == "warm":
            logger.warning("Tasks still run after the stop_timeout of %s seconds", self._stop_timeout)
            self.cold()

    def cold(self) -> None:
        """End what runs, now, or after the soft phase if there is one; asked again, now."""
        if self._how in ("soft", "cold"):
            self._hard()
            return
        if self._how is None:
            self._on_begin("cold", self._exit_code)
        if self._soft_timeout > 0 and (self._soft_on_idle or not self._settle.idle):
            self._how = "soft"
            logger.warning("Initiating Soft Shutdown, terminating in %g seconds", self._soft_timeout)
            if not self._soft_on_idle:
                self._intake.on_idle = self._end
            self._intake.quiet()
            self._loop.call_later(self._soft_timeout, self._hard)
        else:
            self._hard()

    def _hard(self) -> None:
        """End what runs. Late-ack messages go back to their queues."""
        if self._how == "cold" or self._ended:
            return
        self._how = "cold"
        _say("worker: Cold shutdown (MainProcess)")
        self._settle.cold = True
        self._intake.on_idle = self._end
        self._intake.quiet()
        self._pool.kill()
        # A task that cannot be stopped (a thread in C code) never reports; it ends with the process.
        self._loop.call_later(_LAST_WORDS, self._end)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._intake.on_idle = None
            self._on_end(self._exit_code)


def _say(line: str) -> None:
    # Straight to the terminal, as the guide has it: it must be seen at every log level, and `sys.stdout` may be the
    # log.
    stream = sys.__stdout__
    if stream is not None:
        stream.write(f"\n{line}\n" if stream.isatty() else f"{line}\n")
        stream.flush()
