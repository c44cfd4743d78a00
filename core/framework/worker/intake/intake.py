"""Intake: moves messages from the consumer to the pool, as many as fit and no more.

1. Fetches up to the prefetch limit; what may run waits in `backlog` until the pool has room.
2. Everything that changes how much fits (an end, a new slot, a wake-up of the broker) only asks for a `tick`; however
   many ask, one tick follows. A tick stores results, sends acks with the next fetch, and feeds the pool.
3. `quiet` stops fetching and gives back what has not started, in order; `resume` starts again.
4. A connection that is lost, or refuses to serve, is reported once, through `on_lost`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

from framework._boot.selector import hung_up
from framework.api.loop import Loop, Timer
from framework.api.pool import Pool
from framework.api.transport import Consumer, Delivery
from framework.exceptions import ConnectionLost, TransportError
from framework.worker.dispatch.dispatch import Dispatch, job_of
from framework.worker.dispatch.unknown_tasks import UnknownTasks
from framework.worker.intake.capacity import Capacity, Prefetch
from framework.worker.intake.rate_limits import RateLimits
from framework.worker.intake.subscriptions import Subscriptions
from framework.worker.schedule import Schedule
from framework.worker.settle.settle import Settle
from framework.worker.task_request import TaskRequest

if TYPE_CHECKING:
    from framework.client.task_policy import TaskPolicy

logger = logging.getLogger(__name__)

#: Seconds between two looks whether a broker that is not read from, for want of room, is still there.
_LOOK: Final = 1.0
#: Most messages fetched at a time for being parked.
_REACH_MAX: Final = 256
#: Seconds after the time of a parked message at which it is asked for: a timer may be a hair early.
_AFTER: Final = 0.001


class Intake:
    """Feeds the pool from one consumer at a time."""

    def __init__(
        self,
        loop: Loop,
        pool: Pool,
        settle: Settle,
        prefetch: Prefetch,
        queues: Subscriptions,
        unknown_tasks: UnknownTasks,
        limits: tuple[float | None, float | None],
    ) -> None:
        """`limits` are the worker's soft and hard time limit in seconds."""
        self._loop = loop
        self._pool = pool
        self._settle = settle
        self._prefetch = prefetch
        self._queues = queues
        self._soft, self._hard = limits
        self._schedule: Schedule[TaskRequest] = Schedule(loop, self._due)
        self._unknown_tasks = unknown_tasks
        unknown_tasks.release = self.take_aside
        unknown_tasks.handbacks.on_sent = self.ask
        self._dispatch: Dispatch | None = None
        self._consumer: Consumer | None = None
        #: Its descriptor; a consumer whose connection is lost does not tell it any more.
        self._fd = -1
        self._on_lost: Callable[[TransportError], object] | None = None
        self._told = 0
        self._asked = False
        self._paused = False
        self._looking = False
        #: When the consumer wants to be asked for what has been parked, and the timer for that.
        self._due_at: float | None = None
        self._due_timer: Timer | None = None
        #: So many are fetched, whatever fits: the last ones were all parked, and the next ones may be too.
        self._reach = 0
        #: Read, decided, and waiting for a slot.
        self.backlog: deque[TaskRequest] = deque()
        #: What waits for its turn under a rate limit.
        self.rates = RateLimits(loop, self.backlog, self.ask)
        self._room = Capacity(
            loop, prefetch, settle, self.backlog, self.rates, self._schedule, unknown_tasks, on_more=self.ask
        )
        self.fetching = True
        #: Connections over which it has fetched so far.
        self.connections = 0
        #: Called after every tick on which nothing is left to do; set while the worker drains.
        self.on_idle: Callable[[], object] | None = None
        #: Called after every tick; set while the pool is scaled by what waits.
        self.on_feed: Callable[[], object] | None = None

    @property
    def draining(self) -> bool:
        """The worker is stopping: it will never fetch again."""
        return self.on_idle is not None

    @property
    def connected(self) -> bool:
        """There is a connection to the broker to fetch from."""
        return self._consumer is not None

    @property
    def schedule(self) -> Schedule[TaskRequest]:
        """What is held for its eta."""
        return self._schedule

    def bind(self, dispatch: Dispatch) -> None:
        """Use `dispatch` to decide; it needs the schedule, which is ours."""
        self._dispatch = dispatch
        self.rates.may_run = dispatch.due

    # ------------------------------------------------------------ the consumer's coming and going

    def attach(self, consumer: Consumer, on_lost: Callable[[TransportError], object]) -> None:
        """Fetch from `consumer` from now on."""
        self._consumer = consumer
        self._on_lost = on_lost
        self.connections += 1
        self._paused = False
        self._fd = consumer.fileno()
        self._loop.add_reader(self._fd, self._readable)
        self._settle.hurry()
        self.ask()

    def tell(self, consumer: Consumer) -> None:
        """Tell `consumer` how many messages may be on loan."""
        self._told = self._on_loan(consumer)
        consumer.prefetch(self._told)

    def _flush(self, consumer: Consumer) -> None:
        """Send settlements while there is no room."""
        if consumer.pushes and self._prefetch.depth == 1:
            consumer.pause_delivery(sum(not request.acknowledged for request in self._settle.running.values()))
        else:
            consumer.flush()

    def _on_loan(self, consumer: Consumer) -> int:
        """Return how many messages may be on loan.

        What was acknowledged as it began is not, and yet has a slot: were as many on loan, some would wait here.
        """
        limit = self._prefetch.limit
        if consumer.pushes and self._prefetch.depth == 1:
            limit -= sum(request.acknowledged for request in self._settle.running.values())
        return max(1, limit)

    def detach(self) -> None:
        """Forget the consumer, and with it what it had on loan and has not started: the broker gives that out again.

        What runs goes on; see `Redelivery` for its messages.
        """
        if self._consumer is None:
            return
        self._loop.remove_reader(self._fd)
        self._consumer = None
        self._await_due(None)
        self._reach = 0
        self.backlog.clear()
        self._unknown_tasks.clear()
        self._room.forget_held()
        # What waits inside the pool has not started either. Left there it would run beside its second copy.
        for seq in self._pool.quiesce():
            self._settle.running.pop(seq, None)

    # ------------------------------------------------------------ ticking

    def _readable(self) -> None:
        if self._left() > 0:
            self.ask()
        elif self._consumer is not None and not self._attend(self._consumer):
            # There may be messages and there is no room for them: until there is, do not wake up for them again.
            self._loop.remove_reader(self._fd)
            self._paused = True
            if not self._looking:
                self._looking = True
                self._loop.call_later(_LOOK, self._look)

    def _attend(self, consumer: Consumer) -> bool:
        """Hear what the broker says while there is no room; return whether the consumer can do that.

        What runs here and was taken from us comes again; whatever else does has been pushed, so it waits for its turn.
        """
        try:
            self._flush(consumer)
            again = consumer.poll_while_full()
        except TransportError as error:
            self._lose(error)
            return True
        if again:
            self.take_aside(again)
        return again is not None

    def _look(self) -> None:
        """Find out that the connection is lost while nothing is read from it."""
        self._looking = False
        if not self._paused or self._consumer is None:
            return
        if hung_up(self._fd):
            self._lose(ConnectionLost("the broker closed the connection"))
        else:
            self._looking = True
            self._loop.call_later(_LOOK, self._look)

    def _left(self) -> int:
        """Return how many messages are to be fetched."""
        return self._room.left() if self.fetching else 0

    def ask(self) -> None:
        """Have a tick follow soon."""
        if not self._asked:
            self._asked = True
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._asked = False
        self._settle.flush()
        if self._room.changes:
            self._room.count()
        consumer = self._consumer
        if consumer is not None:
            try:
                self._exchange(consumer)
            except TransportError as error:
                self._lose(error)
        self._feed()
        if self.on_feed is not None:
            self.on_feed()
        if self.on_idle is not None and self._settle.idle and not self.backlog:
            self.on_idle()

    def _exchange(self, consumer: Consumer) -> None:
        """Send settlements and fetch what fits."""
        # With every task that waits no longer the limit falls by one: a broker that pushes would take back a message
        # each time, and count that as a delivery.
        limit = self._on_loan(consumer)
        if limit != self._told and (limit > self._told or limit * 2 <= self._told or not self._prefetch.held):
            self.tell(consumer)
        room = self._left()
        if room <= 0:
            self._flush(consumer)
            if consumer.due_at != self._due_at:
                self._await_due(consumer.due_at)
            return
        if self._paused:
            self._paused = False
            self._loop.add_reader(self._fd, self._readable)
        asked = max(room, self._reach)
        deliveries = consumer.fetch(asked)
        if consumer.due_at != self._due_at:
            self._await_due(consumer.due_at)
        if not deliveries:
            return
        parked = self._take(deliveries)
        if parked or self._reach:
            self._look_beyond(asked, parked, len(deliveries))
        if parked or len(deliveries) == asked or self._told < limit:
            self.ask()

    def _take(self, deliveries: Sequence[Delivery]) -> int:
        assert self._dispatch is not None
        parked = self._dispatch.take(deliveries, self.rates.accept if self.rates.buckets else self.backlog.append)
        self._room.count()
        return parked

    def take_aside(self, deliveries: Sequence[Delivery]) -> None:
        """Decide about messages that were not fetched just now, whether or not others fit.

        They are revoked, of tasks that were not known when they came, or run here already.
        """
        self._take(deliveries)
        self.ask()

    def _look_beyond(self, asked: int, parked: int, found: int) -> None:
        """Have more fetched while all that comes is parked, lest what may run waits behind it; give back what is over.

        A worker whose tasks are long asks for one message at a time, and many thousands may have been sent for later.
        """
        self._reach = min(2 * asked, _REACH_MAX) if parked == found == asked else 0
        # The last one first keeps their order.
        for _ in range(min(-self._left(), len(self.backlog))):
            request = self.backlog.pop()
            request.acknowledged = True
            request.delivery.release()

    def _await_due(self, due_at: float | None) -> None:
        """Have a tick follow when a message that is parked in the broker comes due."""
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        self._due_at = due_at
        if due_at is not None:
            self._due_timer = self._loop.call_later(max(0.0, due_at - monotonic()) + _AFTER, self.ask)

    def _feed(self) -> None:
        backlog = self.backlog
        if not backlog:
            return
        room = min(self._pool.capacity(), len(backlog))
        if room <= 0:
            return
        running = self._settle.running
        dispatch = self._dispatch
        assert dispatch is not None
        wants_result_repr = self._settle.events is not None
        jobs = []
        taken = [backlog.popleft() for _ in range(room)]
        for request in taken:
            if request.head.headers.expires is not None and not dispatch.due(request):
                continue  # while it waited here
            running[request.seq] = request
            jobs.append(job_of(request, self._soft, self._hard, wants_result_repr))
        if jobs:
            self._pool.submit(jobs)
        if self.rates.released:
            self.rates.submitted([request.seq for request in taken])

    def _due(self, requests: list[TaskRequest]) -> None:
        assert self._dispatch is not None
        for request in requests:
            if self._dispatch.due(request):
                self.rates.accept(request)
        self._room.count()
        self.ask()

    def recheck(self) -> None:
        """Settle what has been revoked since it was taken in: what waits for its time, its turn, the pool, or in it."""
        dispatch = self._dispatch
        assert dispatch is not None
        self._schedule.discard(dispatch.discards)
        self.rates.discard(dispatch.discards)
        waiting = list(self.backlog)
        running = self._settle.running
        if any(not request.started and dispatch.is_revoked(request) for request in running.values()):
            waiting[:0] = [running.pop(seq) for seq in self._pool.quiesce() if seq in running]
        gone = {request.seq for request in waiting if dispatch.discards(request)}
        self.backlog.clear()
        self.backlog.extend(request for request in waiting if request.seq not in gone)
        if self.rates.released:
            self.rates.submitted(list(gone))
        self._room.count()
        self.ask()

    def take_back(self) -> None:
        """Have what waits inside the pool wait here, until the next tick."""
        running = self._settle.running
        self.backlog.extendleft([running.pop(seq) for seq in reversed(self._pool.quiesce()) if seq in running])
        self.ask()

    def waiting(self) -> Iterator[TaskRequest]:
        """Yield what was taken in and waits for its time, for its turn, or for the pool."""
        yield from self.backlog
        yield from self.rates
        yield from (request for _when, request in self._schedule)

    def update_policies(self, policies: Mapping[str, TaskPolicy]) -> None:
        """Take up the policies of tasks that have come or changed; also for what has been taken in and not started."""
        assert self._dispatch is not None
        self._dispatch.update_policies(policies)
        if any(not request.started and request.name in policies for request in self._settle.running.values()):
            self.take_back()
        for request in self.waiting():
            request.policy = policies.get(request.name, request.policy)

    def _lose(self, error: TransportError) -> None:
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(error)

    # ------------------------------------------------------------ quiet and resume

    def quiet(self) -> None:
        """Stop fetching, and give back everything that has not started."""
        self.fetching = False
        waiting = [self._settle.running.pop(seq) for seq in self._pool.quiesce() if seq in self._settle.running]
        unstarted = [*waiting, *self.backlog, *self._room.forget_held()]
        unknown = self._unknown_tasks.clear()
        self.backlog.clear()
        given_back = 0
        try:
            # First: what goes back would come again.
            self._queues.pause()
            # Each goes to the front of its queue: the last one first keeps their order.
            for request in sorted(unstarted, key=_seq, reverse=True):
                if not request.acknowledged:
                    request.acknowledged = True
                    request.delivery.release()
                    given_back += 1
            for delivery in unknown:
                delivery.release()
            given_back += len(unknown)
            if self._consumer is not None:
                self._consumer.flush()
        except TransportError as error:
            self._lose(error)
        if given_back:
            logger.info("Gave back %d messages that had not started", given_back)
        self.ask()

    def resume(self) -> None:
        """Fetch again."""
        self.fetching = True
        try:
            self._queues.resume()
        except TransportError as error:
            self._lose(error)
        self.ask()


def _seq(request: TaskRequest) -> int:
    return request.seq
