"""Unregistered: what becomes of messages whose task this worker does not have; a newer one may have it by now.

1. Hands them back: a copy that counts this in its header goes to the end of the queue, and the original is acknowledged
   when the broker has the copy. Whoever has the task runs it at once.
2. Who does not have it either lets the delay pass before handing it back again: the broker keeps the message until
   then, or, where it cannot park, this worker does. Neither stands in the way of other messages.
3. Handed back often enough: a stored failure and a dead letter. Revoked or expired meanwhile: settled as such.
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

#: The delay varies by so much, lest all messages come back in one moment.
_SPREAD: Final = (0.5, 1.5)
#: How far clocks may differ (s).
_SKEW_MAX: Final = 3600.0


class UnknownTasks:
    """Decides about messages without a task."""

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
        self._horizon = EtaPolicy(settings.worker)
        self._on_unknown = hooks.bind("task_unknown")
        self._on_revoked = hooks.bind("task_revoked")
        #: Told of tasks while task events are wanted.
        self.events: TaskEvents | None = None
        #: Decides anew about what was held here long enough.
        self.release: Callable[[list[Delivery]], object] = lambda _: None
        #: What waits here, on loan, until it is handed back.
        self.held: Schedule[Delivery] = Schedule(loop, lambda due: self.release(due))
        #: What goes back.
        self.handbacks = HandBacks(loop, outbox, self._keep)

    def meet(self, delivery: Delivery, head: Head, name: str, task_id: str) -> bool:
        """Decide about `delivery`; return whether it goes back, or waits in the broker. Raises `MessageError`."""
        headers = read(delivery.payload).headers
        now = time.time()
        if self._drop(delivery, head, name, task_id, headers, now):
            return False
        times, until = _mark(headers)
        longest = self._delay * _SPREAD[1]
        # Another machine wrote it, whose clock may be ahead; further ahead than any is, it would never end.
        if now < until < now + longest + _SKEW_MAX:
            return self._wait(delivery, min(until, now + longest), task_id)
        if times and head.headers.eta is not None and self._is_for_later(delivery, head.headers.eta, task_id):
            return True
        if not times:
            self._announce(delivery, name, task_id)
        if times >= self._retries:
            self._give_up(delivery, head, name, task_id, times)
            return False
        mark = {"times": times + 1, "until": now + self._delay * random.uniform(*_SPREAD)}
        self.handbacks.add(delivery, again(delivery.payload, delivery.queue, {HANDED_BACK: mark}))
        return True

    def clear(self) -> list[Delivery]:
        """Forget what is on loan here, and return it."""
        return [*self.handbacks.clear(), *self.held.clear()]

    # ------------------------------------------------------------ the cases

    def _keep(self, delivery: Delivery) -> None:
        """Wait a little before trying again to hand it back."""
        self.held.hold(time.time() + max(self._delay, 1.0), delivery)

    def _wait(self, delivery: Delivery, until: float, task_id: str) -> bool:
        if delivery.park(until, task_id):
            return True
        self.held.hold(until, delivery)
        return False

    def _is_for_later(self, delivery: Delivery, eta: str, task_id: str) -> bool:
        """Leave to the broker what is due much later: who is to run it then need not be here now."""
        until = self._horizon.until(eta)
        return until is not None and delivery.park(until, task_id)

    def _announce(self, delivery: Delivery, name: str, task_id: str) -> None:
        if self._retries:
            logger.warning(
                "Received unregistered task of type %r (id %s): it is handed back to %s, %d times at most, for a "
                "worker that has it. Is the module that defines it imported (imports, include, -I)?",
                name,
                task_id,
                delivery.queue,
                self._retries,
            )
        if self._on_unknown is not None:
            self._on_unknown(task_id=task_id, name=name)

    def _give_up(self, delivery: Delivery, head: Head, name: str, task_id: str, times: int) -> None:
        logger.error(
            "Received unregistered task of type %r (id %s)%s: it is stored as a failure and kept in %s. "
            "Is the module that defines it imported (imports, include, -I)?",
            name,
            task_id,
            f" after it was handed back {times} times" if times else "",
            self._dead_letters.queue_for(delivery.queue),
        )
        if self.events is not None:
            self.events.failed(task_id, f"NotRegistered({name!r})")
        self._settle.record_unknown(task_id, head, FAILURE, NotRegistered(name), delivery)
        text = f"no task named {name!r}" + (f"; handed back {times} times" if times else "")
        self._dead_letters.send(delivery, "unregistered", text, name, task_id)

    def _drop(
        self, delivery: Delivery, head: Head, name: str, task_id: str, headers: Mapping[str, Any], now: float
    ) -> bool:
        """Settle what is revoked or has expired; return whether it is."""
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
    """Return how often the message was handed back, and when it may be again (s since the epoch)."""
    mark = headers.get(HANDED_BACK)
    if not isinstance(mark, dict):
        return 0, 0.0
    times, until = mark.get("times"), mark.get("until")
    return (
        times if isinstance(times, int) and times > 0 else 0,
        float(until) if isinstance(until, int | float) else 0.0,
    )


# ---------------------------------------------------------------- copies on their way back

#: Copies that are published in one turn.
_BATCH: Final = 256


class HandBacks:
    """Used in the loop only."""

    def __init__(self, loop: Loop, outbox: Outbox, keep: Callable[[Delivery], object]) -> None:
        """`keep` is called with each original whose copy the broker did not take."""
        self._loop = loop
        self._outbox = outbox
        self._keep = keep
        self._waiting: list[tuple[Delivery, Outgoing]] = []
        self._asked = False
        #: Called after each turn, when originals have been acknowledged.
        self.on_sent: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        """Return how many originals are on loan and wait for their copies."""
        return len(self._waiting)

    def add(self, delivery: Delivery, copy: Outgoing) -> None:
        """Have `copy` published soon, and `delivery` acknowledged then."""
        self._waiting.append((delivery, copy))
        self._ask()

    def clear(self) -> list[Delivery]:
        """Forget those that wait, and return the originals."""
        waiting, self._waiting = self._waiting, []
        return [delivery for delivery, _ in waiting]

    def _ask(self) -> None:
        if self._waiting and not self._asked:
            self._asked = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._asked = False
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
        self._ask()

    def _publish(self, batch: list[tuple[Delivery, Outgoing]]) -> frozenset[int]:
        """Publish the copies; return the numbers of those that the broker does not have, or may not have."""
        everything = frozenset(range(len(batch)))
        try:
            # The queues are there: the messages came from them.
            self._outbox.publish(*(copy for _, copy in batch), declare=False)
        except TransportError as error:
            refused = error.refused if isinstance(error, PublishRefused) else None
            if refused is None:
                refused = everything
            logger.error(
                "%d messages could not be handed back to %s, yet: %s",
                len(refused),
                ", ".join(sorted({batch[number][0].queue for number in refused})),
                error,
            )
            return refused
        return frozenset()
