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
from typing import Final, Literal

from framework.api.transport import Consumer, Delivery
from framework.message import Head
from framework.worker.item import Item

logger = logging.getLogger(__name__)

#: Tasks remembered by their id, the latest; and for how long (s) once they have ended.
_MOST: Final = 10_000
_LONGEST: Final = 3600.0


class Remembered(Delivery):
    """Stands for a delivery whose connection is lost: notes how it is settled, and settles it where that helps."""

    __slots__ = ("how", "lost", "settled_at")

    def __init__(self, lost: Delivery) -> None:
        self.lost = lost
        self.payload = lost.payload
        self.queue = lost.queue
        self.deliveries = lost.deliveries
        #: ``done`` or ``back``; None: not settled yet.
        self.how: Literal["done", "back"] | None = None
        self.settled_at = 0.0

    def _settle(self, how: Literal["done", "back"]) -> None:
        self.how = how
        self.settled_at = time.monotonic()

    def ack(self) -> None:
        """The message is done with."""
        self._settle("done")
        self.lost.ack()

    def reject(self, *, requeue: bool) -> None:
        """Give the message back, or drop it."""
        self._settle("back" if requeue else "done")
        self.lost.reject(requeue=requeue)

    def release(self) -> None:
        """Give the message back as if it had never been fetched."""
        self._settle("back")
        self.lost.release()


class Adoption:
    """Keeps what is on loan across the loss of a connection. Used in the loop only."""

    def __init__(self, unsettled: Callable[[], Iterable[Item]]) -> None:
        """`unsettled`: every task that runs, or has ended and waits to be settled."""
        self._unsettled = unsettled
        self._lost: list[Consumer] = []
        self._final = False
        #: By task id: whose delivery is `Remembered`.
        self.orphans: OrderedDict[str, Item] = OrderedDict()

    # ------------------------------------------------------------ the connection's going

    def leave(self, consumer: Consumer) -> None:
        """Part with `consumer`: until the next one, or for good after `end`."""
        if self._final:
            consumer.close(requeue=True)
            return
        self._lost.append(consumer)
        over = time.monotonic() - _LONGEST
        for task_id, item in list(self.orphans.items()):
            if isinstance(item.delivery, Remembered) and item.delivery.how and item.delivery.settled_at < over:
                del self.orphans[task_id]
        for item in self._unsettled():
            if not isinstance(item.delivery, Remembered):
                item.delivery = Remembered(item.delivery)
                self.orphans[item.task_id] = item
                self.orphans.move_to_end(item.task_id)
        while len(self.orphans) > _MOST:
            self.orphans.popitem(last=False)

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
        wanted: dict[Delivery, Item] = {}
        for item in self._unsettled():
            if isinstance(item.delivery, Remembered) and not item.acknowledged:
                wanted[item.delivery.lost] = item
        count = 0
        for lost in self._lost:
            for delivery in consumer.adopt(lost, wanted.keys()):
                item = wanted[delivery]
                item.delivery = delivery
                self.orphans.pop(item.task_id, None)
                count += 1
        self._forget_lost(requeue=False)
        if count:
            logger.info("Still on loan: the messages of %d tasks that ran on while the broker was away", count)

    def recognises(self, delivery: Delivery, head: Head, task_id: str) -> bool:
        """Settle `delivery`, or leave it to the task that runs for it, if it is an orphan's; return whether it is."""
        item = self.orphans.get(task_id)
        if item is None or not _came_back(delivery, head):
            return False
        remembered = item.delivery
        # A retry has the id of what it repeats, and is another message.
        if (head.headers.retries or 0) != (item.head.headers.retries or 0) or not isinstance(remembered, Remembered):
            return False
        del self.orphans[task_id]
        if remembered.how == "back":
            return False
        if remembered.how == "done" or item.acknowledged:
            logger.info("Task %r came again and has run here already: it is acknowledged", item)
            delivery.ack()
        else:
            logger.info("Task %r came again while it runs here: it goes on", item)
            item.delivery = delivery
        return True


def _came_back(delivery: Delivery, head: Head) -> bool:
    information = head.properties.delivery_info
    return delivery.deliveries > 0 or bool(information is not None and information.redelivered)
