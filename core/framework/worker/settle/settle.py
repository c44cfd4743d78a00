"""Settle: the one place that decides what to do with a message when its task has ended.

1. When the pool reports a start, acknowledges an early-ack message, not before.
2. When the pool reports an end, derives one `Action` from the outcome and the task's policy (`decide`), and carries it
   out after the result is stored.
3. Stores the results of a burst in one batch. While the result store is away it keeps them, and late acks wait.
4. Keeps the callbacks, retries and dead letters that the broker does not accept yet (`Unsent`), and their messages.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from framework.api import pool as outcomes
from framework.api.backoff import Backoff
from framework.api.loop import Loop, Timer
from framework.api.pool import Outcome
from framework.api.result_store import Record, ResultStore
from framework.client.after_end import Action, decide
from framework.client.publisher import is_temporary
from framework.exceptions import ConnectionLost, MessageError, TaskRevokedError, TransportError, WorkerLostError
from framework.message import Head, again
from framework.wire.result_document import FAILURE, RETRY, REVOKED, SUCCESS, Documents
from framework.worker.settle.dead_letters import DeadLetters
from framework.worker.settle.outbox import Outbox
from framework.worker.settle.unsent import Attempt, Notices, Unsent
from framework.worker.task_request import TaskRequest

if TYPE_CHECKING:
    from framework.api.transport import Delivery
    from framework.client.request import Context
    from framework.message import Payload
    from framework.worker.dispatch.deduplication import Deduplication
    from framework.worker.intake.capacity import Prefetch
    from framework.worker.steps.events.task_events import TaskEvents
    from framework.worker.steps.health.counters import Counters

    Propagate = Callable[[Payload, str, BaseException], Sequence[Callable[[], object]]]

logger = logging.getLogger(__name__)

#: With this many results waiting for a store that is away, the worker takes no more messages.
BACKLOG_MAX: Final = 10_000
_RETRY_FIRST: Final = 0.5
_RETRY_MAX: Final = 10.0

#: Result states by outcome code.
STATES: Final = {
    outcomes.SUCCESS: SUCCESS,
    outcomes.FAILURE: FAILURE,
    outcomes.RETRY: RETRY,
    outcomes.REVOKED: REVOKED,
    outcomes.TIMED_OUT: FAILURE,
    outcomes.WORKER_LOST: FAILURE,
    outcomes.TERMINATED: REVOKED,
    outcomes.REJECTED: FAILURE,
    outcomes.SOFT_TIMED_OUT: FAILURE,
}

#: Dead-letter reasons by outcome code, for messages whose task ran.
_REASONS: Final = {
    outcomes.REJECTED: "rejected",
    outcomes.TIMED_OUT: "timed-out",
    outcomes.SOFT_TIMED_OUT: "timed-out",
    outcomes.WORKER_LOST: "worker-lost",
    outcomes.TERMINATED: "shutdown",
}


class Settle:
    """Implements `framework.api.pool.PoolEvents` for the worker."""

    def __init__(
        self,
        loop: Loop,
        store: ResultStore,
        documents: Documents,
        dead_letters: DeadLetters,
        outbox: Outbox,
        prefetch: Prefetch,
        on_change: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._store = store
        self._stores = store.traits.stores
        self._documents = documents
        self._dead_letters = dead_letters
        self._outbox = outbox
        self._prefetch = prefetch
        self._on_change = on_change
        #: Requests submitted to the pool and not yet ended, by `TaskRequest.seq`.
        self.running: dict[int, TaskRequest] = {}
        #: Number of tasks ended since the worker started, by name.
        self.total: dict[str, int] = {}
        #: Set by a cold stop: a task that ends as TERMINATED is requeued.
        self.cold = False
        #: Sequence numbers of the tasks terminated because the connection is lost: they are requeued.
        self.terminated: set[int] = set()
        #: Set while task events are sent.
        self.events: TaskEvents | None = None
        #: Task counters of the health endpoint, if it is on.
        self.counters: Counters | None = None
        #: Remembers succeeded tasks, with the setting `deduplicate_successful_tasks`.
        self.deduplication: Deduplication | None = None
        #: Makes the context of a message, for the fields of its result document beside the result.
        self.request_of: Callable[[Payload], Context] | None = None
        self.hostname: str | None = None
        #: Returns the callbacks of a task that did not end by itself, to call once its result is stored.
        self.failure_propagation: Propagate | None = None
        self._follow_ups: list[Callable[[], object]] = []
        self._unsent = Unsent(loop, on_change)
        #: Callbacks, retries and dead letters that the broker has not accepted yet. Every tick asks for their number: a
        #: list answers faster than an object with methods.
        self.unsent: Sequence[Attempt] = self._unsent.attempts
        self._notices = Notices()
        self._records: list[Record] = []
        self._afterwards: list[tuple[TaskRequest, Action, str]] = []
        self._backoff = Backoff(_RETRY_FIRST, _RETRY_MAX, jitter=0.0)
        self._retry_timer: Timer | None = None

    # ------------------------------------------------------------ reports of the pool

    def started(self, seqs: Sequence[int], pid: int) -> None:
        """Acknowledge early-ack messages whose task began."""
        now = time.time()
        running = self.running
        events = self.events
        for seq in seqs:
            request = running.get(seq)
            if request is None:
                continue
            request.started = now
            request.pid = pid
            if not request.policy.acks_late:
                request.acknowledge()
            if events is not None:
                events.started(request)
        if self.counters is not None:
            self.counters.starts += len(seqs)
        self._on_change()

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """Settle the messages of tasks that have ended."""
        running = self.running
        total = self.total
        events = self.events
        counters = self.counters
        deduplication = self.deduplication
        runtime = 0.0
        count = 0
        for outcome in outcomes:
            seq, code, took, document, note, _traceback = outcome
            request = running.pop(seq, None)
            if request is None:
                logger.critical("The pool reported a job twice, or one that it was never given: %r", outcome)
                continue
            name = request.name
            total[name] = total.get(name, 0) + 1
            runtime += took
            count += 1
            action = Action.ACK
            state = SUCCESS
            if code != _SUCCESS:
                if code == _TERMINATED and seq in self.terminated:
                    self._requeue_uncounted(request, took)
                    continue
                action = self.follows(request, code)
                if self.goes_back(request, code, action):
                    place = request.delivery.queue
                    logger.warning("Task %r was ended by the cold stop: its message goes back to %s", request, place)
                    if events is not None:
                        events.cancelled(request)
                    continue
                state = STATES.get(code, SUCCESS)
                # The note of INVALID begins with a reason already.
                if action is Action.DEAD_LETTER and code != _INVALID:
                    note = f"{_REASONS.get(code, 'failed')}: {note or 'the worker stopped before its end'}"
                elif action is Action.RETRY:
                    state = RETRY
                elif action is Action.REQUEUE and code == _WORKER_LOST:
                    document = None  # the task runs again: no failure to store
                if code == _TERMINATED and self.cold:
                    logger.warning("Task %r was ended by the cold stop and does not go back: it is %s", request, state)
            elif deduplication is not None and request.policy.acks_late:
                self.afterwards(partial(deduplication.add, request))
            if events is not None:
                events.finished(request, outcome, action)
            if counters is not None:
                counters.finished(request, code, took, action)
            if document is not None and self._stores:
                properties = request.head.properties
                self._records.append(
                    Record(
                        request.task_id,
                        document,
                        state,
                        properties.reply_to,
                        properties.correlation_id or request.task_id,
                    )
                )
                self._afterwards.append((request, action, note))
            else:
                self._act(request, action, note)
        if count:
            self._prefetch.learn(runtime, count)
        self._on_change()

    def follows(self, request: TaskRequest, code: int) -> Action:
        """Return the action for the message of `request`, whose task has ended with `code`."""
        policy = request.policy
        if code == _TERMINATED and self.cold:
            action = policy.ends.shutdown
        else:
            action = decide(code, policy.ends, request.head.headers.retries or 0, policy.max_retries)
        # Early ack means at most once, also when the pool reports the end of a task without its start.
        return Action.ACK if action is Action.REQUEUE and (request.acknowledged or not policy.acks_late) else action

    def goes_back(self, request: TaskRequest, code: int, action: Action) -> bool:
        """Return whether a cold stop leaves the message of `request` to be requeued when the worker disconnects."""
        if code != _TERMINATED or not self.cold or request.acknowledged:
            return False
        return action is Action.REQUEUE or not request.policy.acks_late

    def _requeue_uncounted(self, request: TaskRequest, took: float) -> None:
        """Requeue a task terminated because the connection is lost, without counting the delivery."""
        self.terminated.discard(request.seq)
        if self.events is not None:
            self.events.cancelled(request)
        if self.counters is not None:
            self.counters.finished(request, _TERMINATED, took, Action.REQUEUE)
        if not request.acknowledged:
            request.acknowledged = True
            request.delivery.release()

    def vacancy(self) -> None:
        """The pool has a free slot."""
        self._on_change()

    # ------------------------------------------------------------ ends without a run

    def conclude(self, request: TaskRequest, state: str, result: BaseException) -> None:
        """End `request` without running it: store `result` as `state`, then acknowledge."""
        if self.counters is not None:
            self.counters.discarded(request)
        self._record(
            request.task_id,
            request.head,
            request.delivery.payload,
            state,
            result,
            ignore=request.policy.ignores(request.head.headers.ignore_result)
            and not request.policy.store_errors_even_if_ignored,
        )
        self._follow(request.delivery, state, result)
        self._afterwards.append((request, Action.ACK, ""))
        self._on_change()

    def record_unknown(self, task_id: str, head: Head, state: str, result: BaseException, delivery: Delivery) -> None:
        """Store `result` for a message of an unknown task."""
        self._record(task_id, head, delivery.payload, state, result, ignore=bool(head.headers.ignore_result))
        self._follow(delivery, state, result)
        self._on_change()

    def give_up(self, request: TaskRequest, reason: str, text: str) -> bool:
        """Move `request` to the dead-letter queue and store a failure; return whether that worked."""
        if not self._dead_letters.send(request.delivery, reason, text, request.name, request.task_id):
            return False
        request.acknowledged = True
        logger.error("Task %r was %s: moved to %s", request, text, self._dead_letters.queue_for(request.delivery.queue))
        error = WorkerLostError(text)
        if self.events is not None:
            self.events.failed(request.task_id, repr(error))
        self._record(request.task_id, request.head, request.delivery.payload, FAILURE, error, ignore=False)
        self._follow(request.delivery, FAILURE, error)
        self._on_change()
        return True

    def _follow(self, delivery: Delivery, state: str, result: BaseException) -> None:
        if self.failure_propagation is not None:
            self._follow_ups += self.failure_propagation(delivery.payload, state, result)

    def afterwards(self, follow: Callable[[], object]) -> None:
        """Call `follow` once the results of this burst are stored; it is retried while the broker does not accept."""
        self._follow_ups.append(follow)

    def _record(
        self, task_id: str, head: Head, payload: Payload, state: str, result: BaseException, *, ignore: bool
    ) -> None:
        if ignore or not self._stores:
            return
        document = self._document(task_id, state, result, payload)
        self._records.append(
            Record(task_id, document, state, head.properties.reply_to, head.properties.correlation_id or task_id)
        )

    def _document(self, task_id: str, state: str, result: BaseException, payload: Payload) -> bytes:
        if self.request_of is not None:
            try:
                return self._documents.build_for(state, result, self.request_of(payload), self.hostname)
            except MessageError:
                pass  # an unreadable message has no group or arguments to store
        return self._documents.build(state, result, task_id)

    # ------------------------------------------------------------ carrying out

    def unsettled(self) -> Iterator[TaskRequest]:
        """Yield the requests that run, and those that have ended and are not settled."""
        yield from self.running.values()
        yield from (request for request, _action, _note in self._afterwards)
        yield from self._unsent.requests()

    @property
    def idle(self) -> bool:
        """Whether no task runs and no result, callback, retry or dead letter waits."""
        return not (self.running or self._records or self._afterwards or self._follow_ups or self.unsent)

    @property
    def unstored(self) -> int:
        """Number of results that wait to be stored."""
        return len(self._records)

    @property
    def overfull(self) -> bool:
        """Whether too many results, callbacks, retries and dead letters wait to fetch more messages."""
        return len(self._records) + len(self.unsent) > BACKLOG_MAX

    def flush(self) -> None:
        """Store the results of this burst, then settle their messages."""
        if self._backoff.attempts and (self._records or self._follow_ups):
            return
        if self._records:
            try:
                self._store.store(self._records)
            except ConnectionLost as error:
                self._retry_later(error)
                return
            except Exception as error:  # noqa: BLE001 - messages are settled in spite of a defect in a store
                if not self._store_one_by_one(error):
                    return
            self._records = []
        if self._follow_ups and not self._run_follow_ups():
            return
        if self._afterwards:
            afterwards, self._afterwards = self._afterwards, []
            for request, action, note in afterwards:
                self._act(request, action, note)

    def _run_follow_ups(self) -> bool:
        """Call the callbacks of stored results; return False and keep the rest if the store or broker is away."""
        while self._follow_ups:
            follow = self._follow_ups[0]
            try:
                if not self._is_sent(follow):
                    # The broker refuses this one message: nothing else has to wait.
                    self._unsent.add(partial(self._is_sent, follow, again=True))
            except ConnectionLost as error:
                self._retry_later(error)
                return False
            del self._follow_ups[0]
        return True

    def _is_sent(self, follow: Callable[[], object], *, again: bool = False) -> bool:
        """Call `follow`; return False after a temporary refusal, `again` also after a `ConnectionLost`."""
        try:
            follow()
        except Exception as error:  # callbacks come from a message and may raise anything
            if isinstance(error, ConnectionLost) and not again:
                raise
            if is_temporary(error):
                self._log_unsent("Callbacks of tasks that did not end by themselves", error)
                return False
            logger.error("Callbacks of a task that did not end by itself failed: %s", error)
        return True

    def _log_unsent(self, what: str, error: BaseException) -> None:
        self._notices.error(what, "%s wait in this worker until the broker accepts them: %s", what, error)

    def _retry_later(self, error: ConnectionLost) -> None:
        if not self._backoff.attempts:
            logger.error("Results cannot be stored and are kept until they can: %s", error)
        self._retry_timer = self._loop.call_later(self._backoff.next(), self._retry)

    def hurry(self) -> None:
        """Retry storing at once: the broker is back, and the result store may be the same server."""
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry()

    def _retry(self) -> None:
        self._retry_timer = None
        try:
            if self._records:
                self._store.store(self._records)
        except ConnectionLost as error:
            self._retry_later(error)
            return
        except Exception as error:  # noqa: BLE001 - see `flush`
            if not self._store_one_by_one(error):
                return
        logger.info("The result store is back; %d results were stored", len(self._records))
        self._records = []
        self._backoff.reset()
        self.flush()
        self._on_change()

    def _store_one_by_one(self, error: Exception) -> bool:
        """Store the records one by one after the store refused the batch; log each refused record.

        Return False if the store is lost meanwhile: the records that it does not have are kept.
        """
        for number, record in enumerate(self._records):
            try:
                self._store.store([record])
            except ConnectionLost as lost:
                self._records = self._records[number:]
                self._retry_later(lost)
                return False
            except Exception as refused:  # noqa: BLE001 - see `flush`
                logger.error(
                    "The result of task %s is lost, the store refused it: %s", record.task_id, refused or error
                )
        return True

    def end(self) -> None:
        """Make a last attempt, and report what the worker leaves undone: it ends.

        Messages whose dead letter or retry was not accepted go back to their queue; the broker requeues those that are
        not acknowledged.
        """
        if self.cold:
            self.finished([self._torn(request) for request in self.running.values()])
        self.flush()
        if self._records:
            late = sum(not request.acknowledged for request, _action, _note in self._afterwards)
            logger.error(
                "%d results were not kept: the worker ends, and the result store does not accept them. %d of their "
                "messages, which are acknowledged late, go back to their queues: those tasks run again",
                len(self._records),
                late,
            )
        requests = list(self._unsent.requests())
        if callbacks := len(self._follow_ups) + len(self.unsent) - len(requests):
            logger.error("%d callbacks were not sent: the worker ends, and the broker does not accept them", callbacks)
        for request in requests:
            if request.acknowledged:
                try:
                    self._outbox.publish(again(request.delivery.payload, request.delivery.queue, {}), declare=False)
                except (TransportError, MessageError) as error:
                    logger.critical("Task %r is lost, it could not be sent again: %s", request, error)

    def _torn(self, request: TaskRequest) -> Outcome:
        """Return the outcome of a task that the pool could not end: it ends with the process."""
        document = None
        if request.acknowledged and not request.policy.ignores(request.head.headers.ignore_result):
            error = TaskRevokedError("terminated")
            document = self._document(request.task_id, REVOKED, error, request.delivery.payload)
        return Outcome(request.seq, _TERMINATED, 0.0, document)

    def _act(self, request: TaskRequest, action: Action, note: str) -> None:
        if action in (Action.DEAD_LETTER, Action.RETRY):
            retry = action is Action.RETRY
            send = partial(self._publish_retry, request) if retry else partial(self._send_dead_letter, request, note)
            if not send():
                self._unsent.add(send, request)
        elif request.acknowledged:
            return
        elif action is Action.ACK:
            request.acknowledge()
        elif action is Action.REQUEUE:
            request.acknowledged = True
            request.delivery.reject(requeue=True)

    def _send_dead_letter(self, request: TaskRequest, note: str) -> bool:
        reason, _, text = note.partition(": ")
        delivery = request.delivery
        moved = self._dead_letters.send(
            delivery, reason, text, request.name, request.task_id, acknowledged=request.acknowledged
        )
        if moved:
            request.acknowledged = True
            logger.error("Task %r was moved to %s: %s", request, self._dead_letters.queue_for(delivery.queue), text)
        return moved

    def _publish_retry(self, request: TaskRequest) -> bool:
        """Send `request` again; return False if the broker may accept it later."""
        try:
            self._outbox.retry(request)
        except (TransportError, MessageError) as error:
            if is_temporary(error):
                self._log_unsent(f"Retries for {request.delivery.queue}", error)
                return False
            if request.acknowledged:
                logger.critical("Task %r is lost, it could not be sent again: %s", request, error)
                return True
            logger.error("Task %r could not be sent again and stays in %s: %s", request, request.delivery.queue, error)
            request.acknowledged = True
            request.delivery.reject(requeue=True)
        else:
            logger.info("Task %r retry: in %g s", request, request.policy.retry_delay)
            request.acknowledge()
        return True


_SUCCESS: Final = outcomes.SUCCESS
_TERMINATED: Final = outcomes.TERMINATED
_WORKER_LOST: Final = outcomes.WORKER_LOST
_INVALID: Final = outcomes.INVALID
