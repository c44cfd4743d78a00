"""The steps of the consumer's graph, which lives as long as a connection to the broker."""

from __future__ import annotations

from collections.abc import Callable

from framework.api.loop import Loop, Timer
from framework.api.step import Board, Step
from framework.api.transport import Consumer, Transport
from framework.exceptions import TransportError
from framework.worker.dispatch.recall import Recall
from framework.worker.dispatch.redelivery import Redelivery
from framework.worker.dispatch.revoked import Revokes
from framework.worker.intake.intake import Intake
from framework.worker.intake.subscriptions import Subscriptions


class ConnectionStep(Step):
    """Connects to the broker."""

    name = "connection"
    graph = "consumer"
    requires = ("transport", "redelivery")

    def start(self, board: Board) -> None:
        self._redelivery: Redelivery = board.get("redelivery")
        self._consumer: Consumer = board.get("transport").consumer()
        board.put("connection", self._consumer)

    def close(self) -> None:
        if hasattr(self, "_consumer"):
            self._redelivery.leave(self._consumer)


class AdoptStep(Step):
    """Takes over the deliveries that were unacknowledged when the last connection was lost."""

    name = "adopt"
    graph = "consumer"
    requires = ("connection", "redelivery")

    def start(self, board: Board) -> None:
        redelivery: Redelivery = board.get("redelivery")
        redelivery.adopt(board.get("connection"))
        board.put("adopt", True)


class SubscriptionsStep(Step):
    """Declares the queues and consumes from them."""

    name = "subscriptions"
    graph = "consumer"
    requires = ("connection", "adopt", "queues", "intake")

    def start(self, board: Board) -> None:
        intake: Intake = board.get("intake")
        # Before subscribing: a broker that pushes would exceed the capacity, and requeued messages lose their position.
        intake.set_prefetch(board.get("connection"))
        self._queues: Subscriptions = board.get("queues")
        self._queues.attach(board.get("connection"))
        board.put("subscriptions", True)

    def stop(self, deadline: float) -> None:
        self._queues.detach()


class FetchingStep(Step):
    """Lets the intake fetch."""

    name = "fetching"
    graph = "consumer"
    requires = ("connection", "subscriptions", "intake", "lost")

    def start(self, board: Board) -> None:
        self._intake: Intake = board.get("intake")
        self._intake.attach(board.get("connection"), board.get("lost"))
        board.put("fetching", True)

    def stop(self, deadline: float) -> None:
        self._intake.detach()


class LeasesStep(Step):
    """Renews leases and sends heartbeats, independent of running tasks."""

    name = "leases"
    graph = "consumer"
    requires = ("connection", "fetching", "loop", "lost")

    def start(self, board: Board) -> None:
        self._consumer: Consumer = board.get("connection")
        self._loop: Loop = board.get("loop")
        self._lost: Callable[[TransportError], object] = board.get("lost")
        self._timer: Timer | None = None
        self._schedule()
        board.put("leases", True)

    def _schedule(self) -> None:
        interval = self._consumer.heartbeat_interval
        self._timer = self._loop.call_later(interval, self._heartbeat) if interval else None

    def _heartbeat(self) -> None:
        try:
            self._consumer.heartbeat()
        except TransportError as error:
            self._lost(error)
            return
        self._schedule()

    def stop(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()


class RecallsStep(Step):
    """Recalls the parked messages of revoked tasks, on transports that can find them."""

    name = "recalls"
    graph = "consumer"
    requires = ("connection", "fetching", "loop", "transport", "intake", "queues", "revokes", "lost")

    def start(self, board: Board) -> None:
        self._recalls: Recall | None = None
        transport: Transport = board.get("transport")
        if transport.traits.recalls:
            self._revokes: Revokes = board.get("revokes")
            intake: Intake = board.get("intake")
            self._recalls = Recall(board.get("loop"), board.get("connection"), intake.take_extra, board.get("lost"))
            self._queues: Subscriptions = board.get("queues")
            self._revokes.on_added = self._recalls.request
            self._queues.on_more = self._recall_all
            self._recall_all()
        board.put("recalls", True)

    def stop(self, deadline: float) -> None:
        if self._recalls is not None:
            self._recalls.close()
            self._revokes.on_added = self._queues.on_more = None

    def _recall_all(self) -> None:
        assert self._recalls is not None
        self._recalls.request(self._revokes.list())


def consumer_steps() -> list[Step]:
    """Return the built-in steps of the consumer's graph."""
    return [ConnectionStep(), AdoptStep(), SubscriptionsStep(), FetchingStep(), RecallsStep(), LeasesStep()]
