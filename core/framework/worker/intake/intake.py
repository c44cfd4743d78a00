"""Intake: moves messages from the consumer to the pool, up to the prefetch limit.

1. Fetches up to the prefetch limit; requests that may run wait in `backlog` until the pool has a free slot.
2. Ticks: a task's end, a new slot or a readable connection calls `ask`, and any number of calls give one tick. A tick
   stores results, sends acks with the next fetch, and feeds the pool.
3. `quiet` stops fetching and requeues the messages that have not started, in order; `resume` starts again.
4. Reports a connection that is lost or refused once, through `on_lost`.
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

#: The most seconds for which tasks are held back at start, while other workers may answer which of them are revoked.
_HOLD_MAX: Final = 1.0
#: Seconds between two checks for a hang-up while the worker is full and does not read the connection.
_HANGUP_CHECK: Final = 1.0
#: The most messages to fetch at a time past the free capacity, while the broker delivers messages that get parked.
_PARKED_BATCH_MAX: Final = 256
#: Seconds added to the due time of a parked message, because a timer may fire slightly early.
_DUE_MARGIN: Final = 0.001


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
        unknown_tasks.release = self.take_extra
        unknown_tasks.handbacks.on_sent = self.ask
        self._dispatch: Dispatch | None = None
        self._consumer: Consumer | None = None
        #: The consumer's descriptor, kept because a consumer that lost its connection no longer returns it.
        self._fd = -1
        self._on_lost: Callable[[TransportError], object] | None = None
        self._limit = 0
        self._tick_requested = False
        self._paused = False
        self._checking = False
        #: When the next parked message comes due, by the consumer's account, and the timer for it.
        self._due_at: float | None = None
        self._due_timer: Timer | None = None
        #: Fetch this many although full: the last batch was all parked, and the next may be too. 0: off.
        self._parked_batch = 0
        #: Requests that may run and wait for a slot.
        self.backlog: deque[TaskRequest] = deque()
        #: Requests that wait for their start under a rate limit.
        self.rates = RateLimits(loop, self.backlog, self.ask)
        self._capacity = Capacity(
            loop, prefetch, settle, self.backlog, self.rates, self._schedule, unknown_tasks, on_more=self.ask
        )
        self.fetching = True
        #: Nothing is handed to the pool until `release`, or until some time after the first connection.
        self.held = False
        #: Number of connections attached so far.
        self.connections = 0
        #: Called after each tick that leaves no task running or waiting; set while the worker drains.
        self.on_idle: Callable[[], object] | None = None
        #: Called after each tick; set by the autoscaler.
        self.on_feed: Callable[[], object] | None = None

    @property
    def draining(self) -> bool:
        """Whether the worker is stopping and will never fetch again."""
        return self.on_idle is not None

    @property
    def connected(self) -> bool:
        """Whether a consumer is attached."""
        return self._consumer is not None

    @property
    def schedule(self) -> Schedule[TaskRequest]:
        """The requests held in memory for their eta."""
        return self._schedule

    def bind(self, dispatch: Dispatch) -> None:
        """Set the dispatch; its constructor needs `schedule`, so it is made after the intake."""
        self._dispatch = dispatch
        self.rates.may_run = dispatch.due

    # ------------------------------------------------------------ attaching and detaching a consumer

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
        if self.held:
            self._loop.call_later(_HOLD_MAX, self.release)

    def release(self) -> None:
        """Let the held tasks run; harmless when they do."""
        if self.held:
            self.held = False
            self.ask()

    def set_prefetch(self, consumer: Consumer) -> None:
        """Set the prefetch limit of `consumer`."""
        self._limit = self._consumer_limit(consumer)
        consumer.prefetch(self._limit)

    def _flush(self, consumer: Consumer) -> None:
        """Send settlements without fetching."""
        if consumer.pushes and self._prefetch.depth == 1:
            consumer.pause_delivery(sum(not request.acknowledged for request in self._settle.running.values()))
        else:
            consumer.flush()

    def _consumer_limit(self, consumer: Consumer) -> int:
        """Return the prefetch limit for the broker.

        An early-acked running task has a slot but no unacknowledged message. At a depth of 1 it lowers the limit, so
        that no message waits here for its slot.
        """
        limit = self._prefetch.limit
        if consumer.pushes and self._prefetch.depth == 1:
            limit -= sum(request.acknowledged for request in self._settle.running.values())
        return max(1, limit)

    def detach(self) -> None:
        """Drop the consumer and its requests that have not started: the broker redelivers them.

        Running tasks continue; `Redelivery` keeps their messages.
        """
        if self._consumer is None:
            return
        self._loop.remove_reader(self._fd)
        self._consumer = None
        self._await_due(None)
        self._parked_batch = 0
        self.backlog.clear()
        self._unknown_tasks.clear()
        self._capacity.forget_held()
        # A job queued inside the pool has not started either: left there, it would run beside its redelivered copy.
        for seq in self._pool.quiesce():
            self._settle.running.pop(seq, None)

    # ------------------------------------------------------------ ticking

    def _readable(self) -> None:
        if self._free() > 0:
            self.ask()
        elif self._consumer is not None and not self._poll_while_full(self._consumer):
            # This consumer is not read while full: its readable descriptor would wake the loop again and again.
            self._loop.remove_reader(self._fd)
            self._paused = True
            if not self._checking:
                self._checking = True
                self._loop.call_later(_HANGUP_CHECK, self._check_connection)

    def _poll_while_full(self, consumer: Consumer) -> bool:
        """Read broker frames while full; return whether the consumer supports that.

        Takes in the messages that arrived: redeliveries of running tasks, and messages that the broker pushed.
        """
        try:
            self._flush(consumer)
            deliveries = consumer.poll_while_full()
        except TransportError as error:
            self._report_loss(error)
            return True
        if deliveries:
            self.take_extra(deliveries)
        return deliveries is not None

    def _check_connection(self) -> None:
        """Report a lost connection while nothing is read from it."""
        self._checking = False
        if not self._paused or self._consumer is None:
            return
        if hung_up(self._fd):
            self._report_loss(ConnectionLost("the broker closed the connection"))
        else:
            self._checking = True
            self._loop.call_later(_HANGUP_CHECK, self._check_connection)

    def _free(self) -> int:
        """Return how many messages to fetch."""
        return self._capacity.free() if self.fetching else 0

    def ask(self) -> None:
        """Request a tick; one tick serves any number of requests."""
        if not self._tick_requested:
            self._tick_requested = True
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._tick_requested = False
        self._settle.flush()
        if self._capacity.changes:
            self._capacity.count()
        consumer = self._consumer
        if consumer is not None:
            try:
                self._exchange(consumer)
            except TransportError as error:
                self._report_loss(error)
        self._feed()
        if self.on_feed is not None:
            self.on_feed()
        if self.on_idle is not None and not self._settle.running and not self.backlog:
            self.on_idle()

    def _exchange(self, consumer: Consumer) -> None:
        """Send settlements and fetch up to the free capacity."""
        # The limit falls by one with each held message that comes due. A small decrease waits: a pushing broker would
        # requeue a message each time, and count that as a delivery.
        limit = self._consumer_limit(consumer)
        if limit != self._limit and (limit > self._limit or limit * 2 <= self._limit or not self._prefetch.held):
            self.set_prefetch(consumer)
        free = self._free()
        if free <= 0:
            self._flush(consumer)
            if consumer.due_at != self._due_at:
                self._await_due(consumer.due_at)
            return
        if self._paused:
            self._paused = False
            self._loop.add_reader(self._fd, self._readable)
        asked = max(free, self._parked_batch)
        deliveries = consumer.fetch(asked)
        if consumer.due_at != self._due_at:
            self._await_due(consumer.due_at)
        if not deliveries:
            return
        parked = self._take(deliveries)
        if parked or self._parked_batch:
            self._fetch_past_parked(asked, parked, len(deliveries))
        # Messages that are held here have raised the limit: the broker pushes nothing more until it knows.
        if parked or len(deliveries) == asked or self._consumer_limit(consumer) > self._limit:
            self.ask()

    def _take(self, deliveries: Sequence[Delivery]) -> int:
        assert self._dispatch is not None
        parked = self._dispatch.take(deliveries, self.rates.accept if self.rates.buckets else self.backlog.append)
        self._capacity.count()
        return parked

    def take_extra(self, deliveries: Sequence[Delivery]) -> None:
        """Decide about extra messages, regardless of free capacity.

        They were recalled as revoked, held for an unknown task, or read while full.
        """
        self._take(deliveries)
        self.ask()

    def _fetch_past_parked(self, asked: int, parked: int, found: int) -> None:
        """Fetch bigger batches while whole batches get parked; requeue the requests beyond the capacity.

        A worker with long tasks fetches one message at a time: without this, tasks that may run would wait behind
        thousands that get parked.
        """
        self._parked_batch = min(2 * asked, _PARKED_BATCH_MAX) if parked == found == asked else 0
        # Requeueing the last one first keeps their order.
        for _ in range(min(-self._free(), len(self.backlog))):
            request = self.backlog.pop()
            request.acknowledged = True
            request.delivery.release()

    def _await_due(self, due_at: float | None) -> None:
        """Tick when the next message parked in the broker comes due."""
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        self._due_at = due_at
        if due_at is not None:
            self._due_timer = self._loop.call_later(max(0.0, due_at - monotonic()) + _DUE_MARGIN, self.ask)

    def _feed(self) -> None:
        backlog = self.backlog
        if not backlog or self.held:
            return
        free = min(self._pool.capacity(), len(backlog))
        if free <= 0:
            return
        running = self._settle.running
        dispatch = self._dispatch
        assert dispatch is not None
        wants_result_repr = self._settle.events is not None
        jobs = []
        taken = [backlog.popleft() for _ in range(free)]
        for request in taken:
            if request.head.headers.expires is not None and not dispatch.due(request):
                continue  # expired in the backlog
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
        self._capacity.count()
        self.ask()

    def recheck(self) -> None:
        """Settle the requests that were revoked since they were taken in, unless they have started."""
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
        self._capacity.count()
        self.ask()

    def reclaim(self) -> None:
        """Move jobs that have not started from the pool to the backlog, until the next tick."""
        running = self._settle.running
        self.backlog.extendleft([running.pop(seq) for seq in reversed(self._pool.quiesce()) if seq in running])
        self.ask()

    def waiting(self) -> Iterator[TaskRequest]:
        """Yield the requests that wait for their eta, for a rate limit, or for the pool."""
        yield from self.backlog
        yield from self.rates
        yield from (request for _when, request in self._schedule)

    def update_policies(self, policies: Mapping[str, TaskPolicy]) -> None:
        """Use these policies of new or changed tasks, also for requests that have not started."""
        assert self._dispatch is not None
        self._dispatch.update_policies(policies)
        if any(not request.started and request.name in policies for request in self._settle.running.values()):
            self.reclaim()
        for request in self.waiting():
            request.policy = policies.get(request.name, request.policy)

    def _report_loss(self, error: TransportError) -> None:
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(error)

    # ------------------------------------------------------------ quiet and resume

    def quiet(self) -> None:
        """Stop fetching and requeue every message that has not started."""
        self.fetching = False
        waiting = [self._settle.running.pop(seq) for seq in self._pool.quiesce() if seq in self._settle.running]
        unstarted = [*waiting, *self.backlog, *self._capacity.forget_held()]
        unknown = self._unknown_tasks.clear()
        self.backlog.clear()
        requeued = 0
        try:
            # Cancelled first, or the broker would deliver the requeued messages to this worker again.
            self._queues.pause()
            # Each goes to the front of its queue: requeueing the last one first keeps their order.
            for request in sorted(unstarted, key=_seq, reverse=True):
                if not request.acknowledged:
                    request.acknowledged = True
                    request.delivery.release()
                    requeued += 1
            for delivery in unknown:
                delivery.release()
            requeued += len(unknown)
            if self._consumer is not None:
                self._consumer.flush()
        except TransportError as error:
            self._report_loss(error)
        if requeued:
            logger.info("Requeued %d messages that had not started", requeued)
        self.ask()

    def resume(self) -> None:
        """Fetch again."""
        self.fetching = True
        try:
            self._queues.resume()
        except TransportError as error:
            self._report_loss(error)
        self.ask()


def _seq(request: TaskRequest) -> int:
    return request.seq
