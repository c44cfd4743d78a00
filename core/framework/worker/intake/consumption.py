"""Consumption: keeps the worker connected to the broker and consuming.

1. Starts the consumer graph in the loop: connection, adopt, subscriptions, fetching, recalls, leases.
2. When the connection is lost it stops the graph and starts a new one, with back-off; tasks keep running, and the new
   connection takes over their unacknowledged messages.
3. Logs each reason of an outage once, and logs that the worker is ready when it consumes for the first time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from framework import exitcodes
from framework._boot.blueprint import Blueprint, blueprint
from framework.api.backoff import PAUSE_MAX, STABLE, Backoff
from framework.api.loop import Loop
from framework.api.step import Step
from framework.api.transport import Transport
from framework.exceptions import ConfigError, ConnectionLost, FrameworkError, TransportError
from framework.worker.dispatch.redelivery import Redelivery
from framework.worker.dispatch.revoked import Revokes
from framework.worker.intake.intake import Intake
from framework.worker.intake.subscriptions import Subscriptions

if TYPE_CHECKING:
    from framework._config.settings import Settings

logger = logging.getLogger(__name__)

#: Log at most this many unstable connections in a row; later ones only for another reason.
_LOGGED_MAX: Final = 2


class Consumption:
    """Starts and restarts the consumer graph. Everything but the constructor runs in the loop."""

    def __init__(
        self,
        loop: Loop,
        transport: Transport,
        intake: Intake,
        redelivery: Redelivery,
        queues: Subscriptions,
        revokes: Revokes,
        settings: Settings,
        hostname: str,
        steps: Callable[[], list[Step]],
        on_ready: Callable[[], object],
        on_fatal: Callable[[FrameworkError], object],
    ) -> None:
        """`steps` makes the built-in steps of the consumer graph.

        `on_ready` is called once, when the worker first consumes; `on_fatal` with the error that ends it before that.
        """
        self._loop = loop
        self._transport = transport
        self._intake = intake
        self._redelivery = redelivery
        self._queues = queues
        self._revokes = revokes
        self._settings = settings
        self._hostname = hostname
        self._steps = steps
        self._on_ready = on_ready
        self._on_fatal = on_fatal
        self._backoff = Backoff(maximum=PAUSE_MAX)
        self._blueprint: Blueprint | None = None
        self._closed = False
        self._was_ready = False
        #: The loop's time at which the latest connection began to consume.
        self._since = 0.0
        #: Number of unstable connections in a row.
        self._short = 0
        #: The reasons logged since the connection was stable.
        self._reasons_logged: set[str] = set()
        #: Called when a connection is lost, before the next attempt.
        self.on_loss: Callable[[], object] | None = None

    def start(self) -> None:
        """Connect and consume; on failure try again with back-off."""
        if self._closed or self._blueprint is not None:
            return
        given: dict[str, Any] = {
            "loop": self._loop,
            "transport": self._transport,
            "intake": self._intake,
            "redelivery": self._redelivery,
            "queues": self._queues,
            "revokes": self._revokes,
            "lost": self._lost,
        }
        graph = blueprint("consumer", self._steps(), self._settings, given)
        try:
            graph.start()
        except FrameworkError as error:
            lost = isinstance(error, ConnectionLost) and error.exit_code != exitcodes.CONFIG
            if self._was_ready or lost:
                self._try_again(error)
            else:
                # The broker refused: an operator must act, so the worker ends, with a code that ends restarts too.
                logger.error("consumer: %s", error)
                self._on_fatal(ConfigError(str(error)) if isinstance(error, TransportError) else error)
            return
        self._blueprint = graph
        self._since = self._loop.time()
        logger.log(
            logging.DEBUG if self._short > _LOGGED_MAX else logging.INFO, "Connected to %s", self._transport.display_url
        )
        if not self._was_ready:
            self._was_ready = True
            self._on_ready()
            logger.info("%s ready.", self._hostname)

    def _try_again(self, error: FrameworkError) -> None:
        broker = self._settings.broker
        maximum = broker.connection_max_retries
        retry = broker.connection_retry if self._was_ready else broker.connection_retry_on_startup
        if retry is None:
            retry = broker.connection_retry
        # Attempts are limited at start only: a worker that has been connected reconnects for ever.
        if not self._was_ready and (not retry or (maximum is not None and self._backoff.attempts >= maximum)):
            self._on_fatal(error)
            return
        delay = self._backoff.next()
        # Each attempt is made, but a reason is logged once, until another reason comes or the broker is back.
        logger.log(
            self._level(error, logging.ERROR),
            "consumer: Cannot connect to %s: %s. Trying again in %.2f seconds... (%s/%s)",
            self._transport.display_url,
            # The text of the transport names the URL, too, for callers that show the error alone.
            str(error).removeprefix(f"{self._transport.display_url} cannot be reached: "),
            delay,
            self._backoff.attempts,
            maximum if maximum is not None else "no limit",
        )
        self._loop.call_later(delay, self.start)

    def _level(self, error: FrameworkError, level: int) -> int:
        reason = str(error)
        if reason in self._reasons_logged:
            return logging.DEBUG
        self._reasons_logged.add(reason)
        return level

    def _lost(self, error: TransportError) -> None:
        if self._blueprint is None:
            return
        if self._loop.time() - self._since >= STABLE:
            self._backoff.reset()
            self._short = 0
        else:
            self._short += 1
        if self._short <= _LOGGED_MAX:
            self._reasons_logged.clear()
        logger.log(
            self._level(error, logging.WARNING),
            "consumer: Connection to broker lost. Trying to re-establish the connection... (%s)",
            error,
        )
        self._take_down()
        if self.on_loss is not None:
            self.on_loss()
        if self._short <= 1:
            self.start()
        else:
            # The second unstable connection in a row: the cause persists, so back off.
            self._loop.call_later(self._backoff.next(), self.start)

    def _take_down(self) -> None:
        graph, self._blueprint = self._blueprint, None
        if graph is not None:
            graph.stop(time.monotonic())

    def close(self) -> None:
        """Stop consuming for good; unacknowledged messages return to the broker."""
        self._closed = True
        self._redelivery.end()
        self._take_down()
