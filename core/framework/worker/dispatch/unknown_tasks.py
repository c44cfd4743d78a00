"""Unknown tasks: hands back messages whose task this worker does not have, for a newer worker that has it.

1. Publishes a copy, with a count in its header, to the end of the queue, and acknowledges the original when the broker
   has the copy. A worker that has the task runs it at once.
2. A worker that does not have it waits for the delay before it hands the message back again: parked in the broker, or
   held here if the broker cannot park. Held messages do not block other tasks.
3. Handed back often enough: a stored failure and a dead letter. Revoked or expired meanwhile: settled as such.
4. Holds, too, messages whose dead letter the broker does not accept yet: when due, they are decided about again.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from framework.api.loop import Loop
from framework.api.transport import Delivery
from framework.exceptions import NotRegistered, PublishRefused, TaskRevokedError, TransportError
from framework.message import HANDED_BACK, Head, Outgoing, again, read
from framework.wire.result_document import FAILURE, REVOKED
from framework.worker.dispatch.eta import EtaPolicy, timestamp
from framework.worker.dispatch.revoked import Revokes
from framework.worker.schedule import Schedule
from framework.worker.settle.dead_letters import DeadLetters
from framework.worker.settle.outbox import Outbox
from framework.worker.settle.settle import Settle

if TYPE_CHECKING:
    from framework._boot.hooks import Hooks
    from framework._config.settings import Settings
    from framework.worker.steps.events.task_events import TaskEvents


logger = logging.getLogger(__name__)

#: The delay is multiplied by a random factor in this range, so that not all messages return at once.
_SPREAD: Final = (0.5, 1.5)
#: The highest numbers of a mark that are taken, which comes from outside.
_TIMES_MAX: Final = 2**31
_TIME_MAX: Final = 1e11
#: Largest clock difference between machines (s).
_SKEW_MAX: Final = 3600.0


class UnknownTasks:
    """Decides about messages whose task is unknown here."""

    def __init__(
        self,
        loop: Loop,
        outbox: Outbox,
        settle: Settle,
        dead_letters: DeadLetters,
        revokes: Revokes,
        settings: Settings,
        hooks: Hooks,
    ) -> None:
        self._settle = settle
        self._dead_letters = dead_letters
        self._revokes = revokes
        self._retries = settings.task.unknown_retries
        self._delay = settings.task.unknown_delay
        self._eta_policy = EtaPolicy(settings.worker)
        self._on_unknown = hooks.bind("task_unknown")
        self._on_revoked = hooks.bind("task_revoked")
        #: Set while task events are sent.
        self.events: TaskEvents | None = None
        #: Called with held deliveries whose delay is over, to decide about them again.
        self.release: Callable[[list[Delivery]], object] = lambda _: None
        #: Unacknowledged deliveries held here until they are handed back or become dead letters.
        self.held: Schedule[Delivery] = Schedule(loop, lambda due: self.release(due))
        #: Deliveries being handed back.
        self.handbacks = HandBacks(loop, outbox, self._hand_back_later)

    def take(self, delivery: Delivery, head: Head, name: str, task_id: str) -> bool:
        """Decide about `delivery`; return whether it was handed back or parked. Raises `MessageError`."""
        headers = read(delivery.payload).headers
        now = time.time()
        if self._drop(delivery, head, name, task_id, headers, now):
            return False
        times, until = _mark(headers)
        longest = self._delay * _SPREAD[1]
        # The time comes from the clock of another machine: one further ahead than any clock is ignored.
        if now < until < now + longest + _SKEW_MAX:
            return self._wait(delivery, min(until, now + longest), task_id)
        if times and head.headers.eta is not None and self._is_for_later(delivery, head.headers.eta, task_id):
            return True
        if times >= self._retries:
            self._give_up(delivery, head, name, task_id, times)
            return False
        if not times:
            self._announce(delivery, name, task_id)
        mark = {"times": times + 1, "until": now + self._delay * random.uniform(*_SPREAD)}
        self.handbacks.add(delivery, again(delivery.payload, delivery.queue, {HANDED_BACK: mark}))
        return True

    def clear(self) -> list[Delivery]:
        """Forget and return the unacknowledged deliveries."""
        return [*self.handbacks.clear(), *self.held.clear()]

    # ------------------------------------------------------------ the cases

    def keep(self, delivery: Delivery, until: float) -> None:
        """Hold `delivery`, whose dead letter or copy the broker refused, until `until`, and decide again."""
        self.held.hold(until, delivery)

    def _hand_back_later(self, delivery: Delivery) -> None:
        self.keep(delivery, time.time() + max(self._delay, 1.0))

    def _wait(self, delivery: Delivery, until: float, task_id: str) -> bool:
        if delivery.park(until, task_id):
            return True
        self.held.hold(until, delivery)
        return False

    def _is_for_later(self, delivery: Delivery, eta: str, task_id: str) -> bool:
        """Park a message with an eta far ahead; return whether it was parked: a later worker may have its task."""
        until = self._eta_policy.until(eta)
        return until is not None and delivery.park(until, task_id)

    def _announce(self, delivery: Delivery, name: str, task_id: str) -> None:
        logger.warning(
            "Received unregistered task of type %r (id %s): handed back to %s, at most %d times, for a "
            "worker that has it. Is the module that defines it imported (imports, include, -I)?",
            name,
            task_id,
            delivery.queue,
            self._retries,
        )
        self._call_unknown(task_id, name)

    def _call_unknown(self, task_id: str, name: str) -> None:
        if self._on_unknown is not None:
            self._on_unknown(task_id=task_id, name=name)

    def _give_up(self, delivery: Delivery, head: Head, name: str, task_id: str, times: int) -> None:
        text = f"no task named {name!r}" + (f"; handed back {times} times" if times else "")
        if not self._dead_letters.send(delivery, "unregistered", text, name, task_id):
            self.keep(delivery, self._dead_letters.retry_at(delivery.queue))
            return
        if not times:
            self._call_unknown(task_id, name)
        logger.error(
            "Received unregistered task of type %r (id %s)%s: stored as a failure and moved to %s. "
            "Is the module that defines it imported (imports, include, -I)?",
            name,
            task_id,
            f" after it was handed back {times} times" if times else "",
            self._dead_letters.queue_for(delivery.queue),
        )
        if self.events is not None:
            self.events.failed(task_id, f"NotRegistered({name!r})")
        self._settle.record_unknown(task_id, head, FAILURE, NotRegistered(name), delivery)

    def _drop(
        self, delivery: Delivery, head: Head, name: str, task_id: str, headers: Mapping[str, Any], now: float
    ) -> bool:
        """Settle the message if it is revoked or expired; return whether it was."""
        expires = head.headers.expires
        if self._revokes and self._revokes.covers(task_id, lambda: headers):
            why = "revoked"
        elif expires is not None and timestamp(expires, "expires") < now:
            why = "expired"
        else:
            return False
        logger.info("Discarding %s task: %s[%s]", why, name, task_id)
        expired = why == "expired"
        if self._on_revoked is not None:
            self._on_revoked(task_id=task_id, name=name, terminated=False, signum=None, expired=expired)
        if self.events is not None:
            self.events.revoked(task_id, expired=expired)
        self._settle.record_unknown(task_id, head, REVOKED, TaskRevokedError(why), delivery)
        delivery.ack()
        return True


def _mark(headers: Mapping[str, Any]) -> tuple[int, float]:
    """Return how often the message was handed back, and when to do it again at the earliest (s since the epoch)."""
    mark = headers.get(HANDED_BACK)
    if not isinstance(mark, dict):
        return 0, 0.0
    times, until = mark.get("times"), mark.get("until")
    return (
        min(times, _TIMES_MAX) if isinstance(times, int) and times > 0 else 0,
        float(until) if isinstance(until, int | float) and 0 < until <= _TIME_MAX else 0.0,
    )


# ---------------------------------------------------------------- publishing the copies

#: The most copies to publish in one turn of the loop.
_BATCH: Final = 256


class HandBacks:
    """Publishes copies of messages and acknowledges the originals, in batches. Used in the loop only."""

    def __init__(self, loop: Loop, outbox: Outbox, keep: Callable[[Delivery], object]) -> None:
        """`keep` is called with each original whose copy the broker refused."""
        self._loop = loop
        self._outbox = outbox
        self._keep = keep
        self._waiting: list[tuple[Delivery, Outgoing]] = []
        self._scheduled = False
        #: Called after each batch, when originals have been acknowledged.
        self.on_sent: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        """Return how many originals wait for their copies."""
        return len(self._waiting)

    def add(self, delivery: Delivery, copy: Outgoing) -> None:
        """Publish `copy` soon, then acknowledge `delivery`."""
        self._waiting.append((delivery, copy))
        self._schedule()

    def clear(self) -> list[Delivery]:
        """Forget the waiting copies and return their originals."""
        waiting, self._waiting = self._waiting, []
        return [delivery for delivery, _ in waiting]

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        if not batch:
            return
        refused = self._publish(batch)
        for number, (delivery, _) in enumerate(batch):
            if number in refused:
                self._keep(delivery)
            else:
                delivery.ack()
        self.on_sent()
        self._schedule()

    def _publish(self, batch: list[tuple[Delivery, Outgoing]]) -> frozenset[int]:
        """Publish the copies; return the indexes of the ones that the broker has not confirmed."""
        everything = frozenset(range(len(batch)))
        try:
            # The queues exist: the messages came from them.
            self._outbox.publish(*(copy for _, copy in batch), declare=False)
        except TransportError as error:
            refused = error.refused if isinstance(error, PublishRefused) else None
            if refused is None:
                refused = everything
            logger.error(
                "%d messages could not be handed back to %s and are retried: %s",
                len(refused),
                ", ".join(sorted({batch[number][0].queue for number in refused})),
                error,
            )
            return refused
        return frozenset()
