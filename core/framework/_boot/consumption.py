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

from framework._boot.blueprint import Blueprint
from framework._boot.parts import blueprint
from framework.api.loop import Loop, Timer
from framework.api.step import Board, Step
from framework.api.transport import Consumer, Transport
from framework.exceptions import ConnectionLost, FrameworkError, TransportError
from framework.worker.adoption import Adoption
from framework.worker.backoff import PAUSE_MAX, Backoff
from framework.worker.intake import Intake
from framework.worker.recalls import Recalls
from framework.worker.revokes import Revokes
from framework.worker.subscriptions import Subscriptions

if TYPE_CHECKING:
    from framework._config.settings import Settings

logger = logging.getLogger(__name__)

#: A connection that lasted so long (s) was good: its loss is news, and the first attempt after it follows at once.
_GOOD: Final = 5.0
#: So many in a row that were not are told; the next ones only if they have another reason.
_TOLD_MAX: Final = 2


class ConnectionStep(Step):
    """Connects to the broker."""

    name = "connection"
    graph = "consumer"
    requires = ("transport", "loans")

    def start(self, board: Board) -> None:
        self._loans: Adoption = board.get("loans")
        self._consumer: Consumer = board.get("transport").consumer()
        board.put("connection", self._consumer)

    def close(self) -> None:
        if hasattr(self, "_consumer"):
            self._loans.leave(self._consumer)


class AdoptionStep(Step):
    """Takes over what the lost connection had on loan."""

    name = "adoption"
    graph = "consumer"
    requires = ("connection", "loans")

    def start(self, board: Board) -> None:
        loans: Adoption = board.get("loans")
        loans.pass_on(board.get("connection"))
        board.put("adoption", True)


class SubscriptionsStep(Step):
    """Declares the queues and consumes from them."""

    name = "subscriptions"
    graph = "consumer"
    requires = ("connection", "adoption", "queues", "intake")

    def start(self, board: Board) -> None:
        intake: Intake = board.get("intake")
        # A broker that pushes would else send what does not fit, and messages that go back lose their place.
        intake.tell(board.get("connection"))
        self._queues: Subscriptions = board.get("queues")
        self._queues.attach(board.get("connection"))
        board.put("subscriptions", True)

    def stop(self, deadline: float) -> None:
        self._queues.detach()


class FeedingStep(Step):
    """Lets the intake fetch."""

    name = "feeding"
    graph = "consumer"
    requires = ("connection", "subscriptions", "intake", "lost")

    def start(self, board: Board) -> None:
        self._intake: Intake = board.get("intake")
        self._intake.attach(board.get("connection"), board.get("lost"))
        board.put("feeding", True)

    def stop(self, deadline: float) -> None:
        self._intake.detach()


class LeasesStep(Step):
    """Renews leases and answers heartbeats, whatever tasks do."""

    name = "leases"
    graph = "consumer"
    requires = ("connection", "feeding", "loop", "lost")

    def start(self, board: Board) -> None:
        self._consumer: Consumer = board.get("connection")
        self._loop: Loop = board.get("loop")
        self._lost: Callable[[TransportError], object] = board.get("lost")
        self._timer: Timer | None = None
        self._arm()
        board.put("leases", True)

    def _arm(self) -> None:
        interval = self._consumer.heartbeat_interval
        self._timer = self._loop.call_later(interval, self._beat) if interval else None

    def _beat(self) -> None:
        try:
            self._consumer.heartbeat()
        except TransportError as error:
            self._lost(error)
            return
        self._arm()

    def stop(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()


class RecallsStep(Step):
    """Has what is revoked come back from where it is parked, on transports that find it there."""

    name = "recalls"
    graph = "consumer"
    requires = ("connection", "feeding", "loop", "transport", "intake", "queues", "revokes", "lost")

    def start(self, board: Board) -> None:
        self._recalls: Recalls | None = None
        transport: Transport = board.get("transport")
        if transport.traits.recalls:
            self._revokes: Revokes = board.get("revokes")
            intake: Intake = board.get("intake")
            self._recalls = Recalls(board.get("loop"), board.get("connection"), intake.take_aside, board.get("lost"))
            self._queues: Subscriptions = board.get("queues")
            self._revokes.on_added = self._recalls.want
            self._queues.on_more = self._ask_for_all
            self._ask_for_all()
        board.put("recalls", True)

    def stop(self, deadline: float) -> None:
        if self._recalls is not None:
            self._recalls.close()
            self._revokes.on_added = self._queues.on_more = None

    def _ask_for_all(self) -> None:
        assert self._recalls is not None
        self._recalls.want(self._revokes.list())


def consumer_steps() -> list[Step]:
    """Return the built-in steps of the consumer's graph."""
    return [ConnectionStep(), AdoptionStep(), SubscriptionsStep(), FeedingStep(), RecallsStep(), LeasesStep()]


class Consumption:
    """The consumer graph's keeper. Everything but the constructor runs in the loop."""

    def __init__(
        self,
        loop: Loop,
        transport: Transport,
        intake: Intake,
        loans: Adoption,
        queues: Subscriptions,
        revokes: Revokes,
        settings: Settings,
        hostname: str,
        on_fatal: Callable[[FrameworkError | None], object],
    ) -> None:
        """`on_fatal` hears None once the worker consumes, or the error that makes it give up before that."""
        self._loop = loop
        self._transport = transport
        self._intake = intake
        self._loans = loans
        self._queues = queues
        self._revokes = revokes
        self._settings = settings
        self._hostname = hostname
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
            "loans": self._loans,
            "queues": self._queues,
            "revokes": self._revokes,
            "lost": self._lost,
        }
        graph = blueprint("consumer", consumer_steps(), self._settings, given)
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
        self._loans.end()
        self._take_down()
