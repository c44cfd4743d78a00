"""Consumption: keeps the consumer graph up while there is a broker.

1. Starts the consumer's blueprint in the loop: connection, adoption, subscriptions, feeding, recalls, leases.
2. When the connection is lost it tears that down and builds it anew, with back-off; running tasks go on, and the new
   connection takes over what they have on loan.
3. Says each reason of an outage once, however often it tries, and that it is ready when it consumes for the first time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from framework._boot.blueprint import Blueprint, blueprint
from framework.api.backoff import PAUSE_MAX, Backoff
from framework.api.loop import Loop
from framework.api.step import Step
from framework.api.transport import Transport
from framework.exceptions import ConnectionLost, FrameworkError, TransportError
from framework.worker.dispatch.redelivery import Redelivery
from framework.worker.dispatch.revoked import Revokes
from framework.worker.intake.intake import Intake
from framework.worker.intake.subscriptions import Subscriptions

if TYPE_CHECKING:
    from framework._config.settings import Settings

logger = logging.getLogger(__name__)

#: A connection that lasted so long (s) was good: its loss is news, and the first attempt after it follows at once.
_GOOD: Final = 5.0
#: So many in a row that were not are told; the next ones only if they have another reason.
_TOLD_MAX: Final = 2


class Consumption:
    """The consumer graph's keeper. Everything but the constructor runs in the loop."""

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
        on_fatal: Callable[[FrameworkError | None], object],
    ) -> None:
        """`steps` makes the built-in steps of the consumer's graph.

        `on_fatal` hears None once the worker consumes, or the error that makes it give up before that.
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
        self._verdict = on_fatal
        self._backoff = Backoff(maximum=PAUSE_MAX)
        self._blueprint: Blueprint | None = None
        self._closed = False
        self._was_ready = False
        #: The loop's time at which the latest connection began to consume.
        self._since = 0.0
        #: Connections in a row that did not last.
        self._short = 0
        #: The reason that was told last.
        self._told = ""
        self.on_ready: Callable[[], object] | None = None
        #: Called when a connection is lost, while there is none.
        self.on_loss: Callable[[], object] | None = None

    def start(self) -> None:
        """Connect and consume, now or as soon as the broker lets us."""
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
        except ConnectionLost as error:
            self._try_again(error)
            return
        except FrameworkError as error:
            # The broker answered and said no: trying again changes nothing before somebody does something.
            if not self._was_ready:
                logger.error("consumer: %s", error)
            if self._was_ready:
                self._try_again(error)
            else:
                self._verdict(error)
            return
        self._blueprint = graph
        self._since = self._loop.time()
        logger.log(
            logging.DEBUG if self._short > _TOLD_MAX else logging.INFO, "Connected to %s", self._transport.display_url
        )
        if not self._was_ready:
            self._was_ready = True
            if self.on_ready is not None:
                self.on_ready()
            self._verdict(None)
            logger.info("%s ready.", self._hostname)

    def _try_again(self, error: FrameworkError) -> None:
        broker = self._settings.broker
        maximum = broker.connection_max_retries
        retry = broker.connection_retry if self._was_ready else broker.connection_retry_on_startup
        if retry is None:
            retry = broker.connection_retry
        # The worker never gives up a broker that it once had; at start it says so and ends.
        if not self._was_ready and (not retry or (maximum is not None and self._backoff.attempts >= maximum)):
            self._verdict(error)
            return
        delay = self._backoff.next()
        # Trying goes on, telling does not: a reason is told once, until another comes or the broker is back.
        logger.log(
            self._level(error, logging.ERROR),
            "consumer: Cannot connect to %s: %s. Trying again in %.2f seconds... (%s/%s)",
            self._transport.display_url,
            # Transports name the URL too, for those who hear nothing but the error.
            str(error).removeprefix(f"{self._transport.display_url} cannot be reached: "),
            delay,
            self._backoff.attempts,
            maximum if maximum is not None else "no limit",
        )
        self._loop.call_later(delay, self.start)

    def _level(self, error: FrameworkError, level: int) -> int:
        reason = str(error)
        if reason == self._told:
            return logging.DEBUG
        self._told = reason
        return level

    def _lost(self, error: TransportError) -> None:
        if self._blueprint is None:
            return
        if self._loop.time() - self._since >= _GOOD:
            self._backoff.reset()
            self._short = 0
        else:
            self._short += 1
        if self._short <= _TOLD_MAX:
            self._told = ""
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
            # Lost as soon as it was there, again: what is wrong is not over yet.
            self._loop.call_later(self._backoff.next(), self.start)

    def _take_down(self) -> None:
        graph, self._blueprint = self._blueprint, None
        if graph is not None:
            graph.stop(time.monotonic())

    def close(self) -> None:
        """Stop consuming for good: everything still on loan goes back to the broker."""
        self._closed = True
        self._redelivery.end()
        self._take_down()
