"""Stopping, in phases, so that no message is lost and none is repeated without need.

1. quiet: stop fetching and give back what has not started, in order, so that others can take it while we finish.
2. drain: wait for running tasks; late acks are sent as they end. Remote control goes on being answered.
3. hard stop (cold, or at `stop_timeout`): end what runs.
4. hand back: close the consumer, which returns everything still on loan; only then may the process go.

Requests come from signals and from remote control; everything here runs in the loop.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from typing import Final

from framework import exitcodes
from framework.api.loop import Loop
from framework.api.pool import Pool
from framework.worker.intake import Intake
from framework.worker.settle import Settle

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
        stop_timeout: float | None = None,
        remap_term: bool = False,
    ) -> None:
        """`on_begin` hears ``("warm" | "cold", exit code)``.

        `on_end` hears the exit code. `stop_timeout`: seconds to drain.
        """
        self._loop = loop
        self._intake = intake
        self._settle = settle
        self._pool = pool
        self._on_begin = on_begin
        self._on_end = on_end
        self._stop_timeout = stop_timeout
        self._remap_term = remap_term
        self._how: str | None = None
        self._ended = False
        self._exit_code = exitcodes.OK

    def handle(self, signum: int) -> None:
        """Do what `signum` asks for: TERM warm, QUIT cold, INT warm and then cold."""
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
        """End what runs, now. Late-ack messages go back to their queues."""
        if self._how == "cold":
            return
        if self._how is None:
            self._on_begin("cold", self._exit_code)
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
