"""Adoption: tasks that run while the connection to the broker is lost keep their messages, and run once.

1. When a connection is lost it is kept, closed or not, until there is a new one: only its consumer knows what it had on
   loan, and which settlements it could not send.
2. The new consumer takes those loans over, before it consumes. Tasks that had not begun are given back.
3. What no consumer can take over, because the broker took it back with the connection or gave it out when the lease
   was over, is known again by its id when it is redelivered here: a running task gets the new delivery, and one that
   has ended is settled as it ended. Neither runs again.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from framework.api.transport import Consumer, Delivery
from framework.message import Head
from framework.worker.task_request import TaskRequest

logger = logging.getLogger(__name__)

#: Tasks remembered by their id, the latest; and for how long (s) once they have ended.
_MOST: Final = 10_000
_LONGEST: Final = 3600.0


class DetachedDelivery(Delivery):
    """Stands for a delivery whose connection is lost: settles it where that helps, and tells how it was settled."""

    __slots__ = ("lost", "on_settled", "task_id")

    def __init__(self, lost: Delivery, task_id: str, on_settled: Callable[[DetachedDelivery, bool], object]) -> None:
        """`on_settled` is told whether the message is done with; else it was given back."""
        #: None: it has been settled.
        self.lost: Delivery | None = lost
        self.task_id = task_id
        self.payload = lost.payload
        self.queue = lost.queue
        self.deliveries = lost.deliveries
        self.on_settled = on_settled

    def ack(self) -> None:
        """The message is done with."""
        self._settle(lambda lost: lost.ack(), done=True)

    def reject(self, *, requeue: bool) -> None:
        """Give the message back, or drop it."""
        self._settle(lambda lost: lost.reject(requeue=requeue), done=not requeue)

    def release(self) -> None:
        """Give the message back as if it had never been fetched."""
        self._settle(lambda lost: lost.release(), done=False)

    def _settle(self, how: Callable[[Delivery], object], *, done: bool) -> None:
        # Some transports note it, though its connection is gone: how often it was tried, for one.
        lost, self.lost = self.lost, None
        if lost is not None:
            how(lost)
            self.on_settled(self, done)


class FinishedTask(NamedTuple):
    """What is left of a task that is done with: a few bytes, whatever it was given."""

    retries: int
    since: float


class Redelivery:
    """Keeps what is on loan across the loss of a connection. Used in the loop only."""

    def __init__(self, unsettled: Callable[[], Iterable[TaskRequest]]) -> None:
        """`unsettled`: every task that runs, or has ended and waits to be settled."""
        self._unsettled = unsettled
        self._lost: list[Consumer] = []
        self._final = False
        #: By task id: whose delivery is `DetachedDelivery`, and what is left of it once that is settled.
        self.orphans: OrderedDict[str, TaskRequest | FinishedTask] = OrderedDict()

    # ------------------------------------------------------------ the connection's going

    def leave(self, consumer: Consumer) -> None:
        """Part with `consumer`: until the next one, or for good after `end`."""
        if self._final:
            consumer.close(requeue=True)
            return
        self._lost.append(consumer)
        over = time.monotonic() - _LONGEST
        for task_id, orphan in list(self.orphans.items()):
            if isinstance(orphan, FinishedTask) and orphan.since < over:
                del self.orphans[task_id]
        for request in self._unsettled():
            if not isinstance(request.delivery, DetachedDelivery):
                request.delivery = DetachedDelivery(request.delivery, request.task_id, self._settled)
                self.orphans[request.task_id] = request
                self.orphans.move_to_end(request.task_id)
                if request.acknowledged:
                    # Whether the broker has heard of that is not known.
                    request.delivery.lost = None
                    self._settled(request.delivery, True)
        while len(self.orphans) > _MOST:
            self.orphans.popitem(last=False)

    def _settled(self, remembered: DetachedDelivery, done: bool) -> None:
        orphan = self.orphans.get(remembered.task_id)
        if isinstance(orphan, TaskRequest) and orphan.delivery is remembered:
            if done:
                self.orphans[remembered.task_id] = past(orphan)
            else:
                del self.orphans[remembered.task_id]

    def end(self) -> None:
        """There will be no other connection: give everything back that is on loan."""
        self._final = True
        self._forget_lost(requeue=True)

    def _forget_lost(self, *, requeue: bool) -> None:
        lost, self._lost = self._lost, []
        for consumer in lost:
            consumer.close(requeue=requeue)

    # ------------------------------------------------------------ and its coming back

    def pass_on(self, consumer: Consumer) -> None:
        """Have `consumer`, which is new and has no queues yet, take over what the lost ones had on loan."""
        if not self._lost:
            return
        wanted: dict[Delivery, TaskRequest] = {}
        for request in self._unsettled():
            if isinstance(request.delivery, DetachedDelivery) and request.delivery.lost is not None:
                wanted[request.delivery.lost] = request
        count = 0
        for lost in self._lost:
            for delivery in consumer.adopt(lost, wanted.keys()):
                request = wanted[delivery]
                request.delivery = delivery
                self.orphans.pop(request.task_id, None)
                count += 1
        self._forget_lost(requeue=False)
        if count:
            logger.info("Still on loan: the messages of %d tasks that ran on while the broker was away", count)

    def recognises(self, delivery: Delivery, head: Head, task_id: str) -> bool:
        """Settle `delivery`, or leave it to the task that runs for it, if it is an orphan's; return whether it is."""
        orphan = self.orphans.get(task_id)
        # A retry has the id of what it repeats, and is another message.
        if orphan is None or not came_back(delivery, head) or (head.headers.retries or 0) != _retries(orphan):
            return False
        if isinstance(orphan, FinishedTask):
            del self.orphans[task_id]
            logger.info(
                "Task %s[%s] came again and has run here already: it is acknowledged", head.headers.task, task_id
            )
            delivery.ack()
        elif isinstance(orphan.delivery, DetachedDelivery):
            del self.orphans[task_id]
            logger.info("Task %r came again while it runs here: it goes on", orphan)
            orphan.delivery = delivery
        else:
            return False
        return True


def _retries(orphan: TaskRequest | FinishedTask) -> int:
    return orphan.retries if isinstance(orphan, FinishedTask) else orphan.head.headers.retries or 0


def past(request: TaskRequest) -> FinishedTask:
    """Return what is to be remembered of `request`, which is over just now."""
    return FinishedTask(_retries(request), time.monotonic())


def came_back(delivery: Delivery, head: Head) -> bool:
    """Say whether the broker has handed this message out before."""
    information = head.properties.delivery_info
    return delivery.deliveries > 0 or bool(information is not None and information.redelivered)
