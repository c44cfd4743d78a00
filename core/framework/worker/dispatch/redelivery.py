"""Redelivery: tasks that run while the connection to the broker is lost keep their messages and run once.

1. Keeps a lost consumer until the next one connects: it holds the unacknowledged messages and the unsent settlements.
2. The new consumer adopts the messages of running tasks before it consumes. Tasks that had not begun are requeued.
3. Recognises, by task id, messages that could not be adopted because the broker requeued them: when such a message is
   redelivered here, a running task gets the new delivery and a finished task acknowledges it. Neither runs again.
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

#: The most tasks to remember, and how long (s) to remember one that has ended.
_TASKS_MAX: Final = 10_000
_FINISHED_MAX: Final = 3600.0


class DetachedDelivery(Delivery):
    """A delivery whose connection is lost: passes a settlement to the lost delivery and reports it."""

    __slots__ = ("lost", "on_settled", "task_id")

    def __init__(self, lost: Delivery, task_id: str, on_settled: Callable[[DetachedDelivery, bool], object]) -> None:
        """`on_settled` is called with this delivery and True when it was acknowledged or dropped, False if requeued."""
        #: None: settled.
        self.lost: Delivery | None = lost
        self.task_id = task_id
        self.payload = lost.payload
        self.queue = lost.queue
        self.deliveries = lost.deliveries
        self.on_settled = on_settled

    def ack(self) -> None:
        """Acknowledge the message."""
        self._settle(lambda lost: lost.ack(), done=True)

    def reject(self, *, requeue: bool) -> None:
        """Requeue or drop the message."""
        self._settle(lambda lost: lost.reject(requeue=requeue), done=not requeue)

    def release(self) -> None:
        """Requeue the message without counting the delivery."""
        self._settle(lambda lost: lost.release(), done=False)

    def _settle(self, how: Callable[[Delivery], object], *, done: bool) -> None:
        # Some transports record a settlement without a connection, for example to count deliveries.
        lost, self.lost = self.lost, None
        if lost is not None:
            how(lost)
            self.on_settled(self, done)


class FinishedTask(NamedTuple):
    """A finished task, kept to recognise its redelivery: a few bytes, whatever its message held."""

    retries: int
    since: float


class Redelivery:
    """Keeps unacknowledged messages across the loss of a connection. Used in the loop only."""

    def __init__(self, unsettled: Callable[[], Iterable[TaskRequest]]) -> None:
        """`unsettled` yields every task that runs, or has ended and waits to be settled."""
        self._unsettled = unsettled
        self._lost: list[Consumer] = []
        self._final = False
        #: By task id: requests with a `DetachedDelivery`, and finished tasks once that is settled.
        self.tasks: OrderedDict[str, TaskRequest | FinishedTask] = OrderedDict()

    # ------------------------------------------------------------ losing a connection

    def leave(self, consumer: Consumer) -> None:
        """Keep the lost `consumer` until the next one adopts its messages; after `end` close it."""
        if self._final:
            consumer.close(requeue=True)
            return
        self._lost.append(consumer)
        over = time.monotonic() - _FINISHED_MAX
        for task_id, task in list(self.tasks.items()):
            if isinstance(task, FinishedTask) and task.since < over:
                del self.tasks[task_id]
        for request in self._unsettled():
            if not isinstance(request.delivery, DetachedDelivery):
                request.delivery = DetachedDelivery(request.delivery, request.task_id, self._settled)
                self.tasks[request.task_id] = request
                self.tasks.move_to_end(request.task_id)
                if request.acknowledged:
                    # The broker may not have received the acknowledgement.
                    request.delivery.lost = None
                    self._settled(request.delivery, True)
        while len(self.tasks) > _TASKS_MAX:
            self.tasks.popitem(last=False)

    def _settled(self, detached: DetachedDelivery, done: bool) -> None:
        task = self.tasks.get(detached.task_id)
        if isinstance(task, TaskRequest) and task.delivery is detached:
            if done:
                self.tasks[detached.task_id] = finished(task)
            else:
                del self.tasks[detached.task_id]

    def end(self) -> None:
        """Requeue all unacknowledged messages: the worker will not reconnect."""
        self._final = True
        self._forget_lost(requeue=True)

    def _forget_lost(self, *, requeue: bool) -> None:
        lost, self._lost = self._lost, []
        for consumer in lost:
            consumer.close(requeue=requeue)

    # ------------------------------------------------------------ reconnecting

    def adopt(self, consumer: Consumer) -> None:
        """Have the new `consumer`, without queues yet, adopt the messages of tasks that run."""
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
                self.tasks.pop(request.task_id, None)
                count += 1
        self._forget_lost(requeue=False)
        if count:
            logger.info("Kept the messages of %d tasks across the reconnect", count)

    def recognises(self, delivery: Delivery, head: Head, task_id: str) -> bool:
        """Return whether `delivery` is a remembered task's; if so, give it to the running task or acknowledge it."""
        task = self.tasks.get(task_id)
        # A retry is another message with the same id.
        if task is None or not is_redelivered(delivery, head) or (head.headers.retries or 0) != _retries(task):
            return False
        if isinstance(task, FinishedTask):
            del self.tasks[task_id]
            logger.info("Task %s[%s] was redelivered after it ended here: acknowledged", head.headers.task, task_id)
            delivery.ack()
        elif isinstance(task.delivery, DetachedDelivery):
            del self.tasks[task_id]
            logger.info("Task %r was redelivered while it runs here: not run again", task)
            task.delivery = delivery
        else:
            return False
        return True


def _retries(task: TaskRequest | FinishedTask) -> int:
    return task.retries if isinstance(task, FinishedTask) else task.head.headers.retries or 0


def finished(request: TaskRequest) -> FinishedTask:
    """Return the record of `request`, which ends now."""
    return FinishedTask(_retries(request), time.monotonic())


def is_redelivered(delivery: Delivery, head: Head) -> bool:
    """Return whether the broker has delivered this message before."""
    information = head.properties.delivery_info
    return delivery.deliveries > 0 or bool(information is not None and information.redelivered)
