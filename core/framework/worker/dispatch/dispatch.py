"""Dispatch: decides what to do with a message that was just fetched.

1. Reads its head; an unreadable message becomes a dead letter. A message whose task is running here (`Redelivery`) or
   has succeeded (`Deduplication`) does not run again.
2. Unknown task: handed back for a while (`UnknownTasks`). Delivered too often: a dead letter.
3. Revoked or expired: settled as such, never run.
4. `eta` far ahead: parked in the broker, if it can park. `eta` near: held in memory. Any other message: a `TaskRequest`
   that may run now.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from framework.api.pool import Job
from framework.api.transport import Delivery
from framework.exceptions import ConnectionLost, MessageError, MessageTooLarge, MessageUndecodable, TaskRevokedError
from framework.message import Incoming, Payload, read, read_head
from framework.wire.result_document import REVOKED
from framework.wire.serialization import decode_task, encode
from framework.worker.dispatch.eta import EtaPolicy, timestamp
from framework.worker.dispatch.redelivery import Redelivery
from framework.worker.dispatch.revoked import Revokes
from framework.worker.dispatch.unknown_tasks import UnknownTasks
from framework.worker.schedule import Schedule
from framework.worker.settle.dead_letters import DeadLetters
from framework.worker.settle.settle import Settle
from framework.worker.task_request import TaskRequest

if TYPE_CHECKING:
    from framework._boot.hooks import Hooks
    from framework._config.settings import Settings
    from framework.client.task_policy import TaskPolicy
    from framework.worker.steps.events.task_events import TaskEvents

logger = logging.getLogger(__name__)


class Dispatch:
    """Turns deliveries into task requests."""

    def __init__(
        self,
        policies: Mapping[str, TaskPolicy],
        settle: Settle,
        schedule: Schedule[TaskRequest],
        dead_letters: DeadLetters,
        revokes: Revokes,
        settings: Settings,
        hooks: Hooks,
        redelivery: Redelivery,
        unknown_tasks: UnknownTasks,
    ) -> None:
        self._policies = dict(policies)
        self._settle = settle
        self._schedule = schedule
        self._dead_letters = dead_letters
        self._revokes = revokes
        self._redelivery = redelivery
        self.unknown_tasks = unknown_tasks
        self._detached = redelivery.tasks
        self._deduplication = settle.deduplication
        self._accept = settings.accept_content
        self._max_size = settings.task.max_message_size
        self._max_nesting = settings.task.max_nesting
        self._eta_policy = EtaPolicy(settings.worker)
        self._parked = 0
        self._seq = itertools.count(1)
        self._on_received = hooks.bind("task_received")
        self._on_revoked = hooks.bind("task_revoked")
        self._on_rejected = hooks.bind("task_rejected")
        self._log_received = logger.isEnabledFor(logging.INFO)
        #: Set while task events are sent.
        self.events: TaskEvents | None = None

    def take(self, deliveries: Iterable[Delivery], ready: Callable[[TaskRequest], object]) -> int:
        """Decide about `deliveries`; call `ready` with each request that may run now. Returns how many were parked."""
        self._parked = 0
        for delivery in deliveries:
            try:
                request = self._read(delivery)
                if request is not None and self._may_run(request):
                    ready(request)
            except MessageError as error:
                self._send_to_dead_letters(delivery, error)
            except ConnectionLost:
                raise
            except Exception as error:  # one message must not fail its batch
                # A defect here or in a hook: the other messages of the batch would stay unsettled for ever, because the
                # worker renews their leases.
                logger.exception("A message from %s could not be dispatched and becomes a dead letter", delivery.queue)
                self._send_to_dead_letters(delivery, MessageUndecodable(f"dispatching it failed: {error!r}"))
        return self._parked

    def update_policies(self, policies: Mapping[str, TaskPolicy]) -> None:
        """Use these policies of new or changed tasks for the next messages."""
        self._policies.update(policies)

    # ------------------------------------------------------------ reading

    def _read(self, delivery: Delivery) -> TaskRequest | None:
        payload = delivery.payload
        if self._max_size is not None:
            # Base64 makes the body in an envelope a third larger; `execute` checks the exact size.
            size = len(payload) * 2 // 3 if isinstance(payload, bytes) else len(payload[4])
            if size > self._max_size:
                raise _too_large(len(payload) if isinstance(payload, bytes) else size, self._max_size)
        head = read_head(payload)
        if head.headers.task is None:
            delivery.payload = payload = self._as_protocol_2(payload)
            head = read_head(payload)
        name = head.headers.task
        task_id = head.headers.id or head.properties.correlation_id
        if not name or not task_id:
            raise MessageUndecodable("not a task message: it has no task name or no id")
        if self._detached and self._redelivery.recognises(delivery, head, task_id):
            return None
        policy = self._policies.get(name)
        if policy is None:
            self._parked += self.unknown_tasks.take(delivery, head, name, task_id)
            return None
        request = TaskRequest(next(self._seq), delivery, head, name, task_id, policy)
        if self._deduplication is not None and self._deduplication.skips(request):
            return None
        if policy.max_deliveries is not None and delivery.deliveries >= policy.max_deliveries:
            text = (
                f"delivered {delivery.deliveries} times without an end, and max_deliveries is {policy.max_deliveries}"
            )
            if not self._settle.give_up(request, "max-deliveries", text):
                self.unknown_tasks.keep(delivery, self._dead_letters.retry_at(delivery.queue))
            return None
        if head.headers.eta is not None and self._park(request, head.headers.eta):
            return None
        if self._log_received:
            logger.info("Task %s[%s] received", head.headers.shadow or name, task_id)
        if self._on_received is not None:
            self._on_received(task_id=task_id, name=name)
        if self.events is not None:
            self.events.received(request)
        return request

    def _as_protocol_2(self, payload: Payload) -> Payload:
        """Rewrite a protocol 1 message (no `task` header; the call is in the body) as protocol 2."""
        incoming = read(payload)
        if incoming.content_type in ("", "application/octet-stream") and not incoming.headers:
            raise MessageUndecodable(
                "neither a protocol 2 nor a protocol 1 task message: it has no headers and no content type"
            )
        args, kwargs, embed = decode_task(
            incoming, accept=self._accept, max_size=self._max_size, max_nesting=self._max_nesting
        )
        content_type, content_encoding, body, _mime = encode([args, kwargs, embed])
        return (incoming.headers, incoming.properties, content_type, content_encoding, body)

    # ------------------------------------------------------------ deciding

    def _park(self, request: TaskRequest, eta: str) -> bool:
        """Park `request` in the broker if its eta is far ahead, unless it has expired or is revoked; say if parked."""
        until = self._eta_policy.until(eta)
        expires = request.head.headers.expires
        if (
            until is None
            or (expires is not None and timestamp(expires, "expires") < time.time())
            or (self._revokes and self.is_revoked(request))
            or not request.delivery.park(until, request.task_id)
        ):
            return False
        self._parked += 1
        if self._log_received:
            logger.info("Task %s[%s] is parked in the broker until %s", request.name, request.task_id, eta)
        return True

    def _may_run(self, request: TaskRequest) -> bool:
        headers = request.head.headers
        if self._revokes and self.discards(request):
            return False
        if headers.expires is not None and timestamp(headers.expires, "expires") < time.time():
            self.discard(request, "expired")
            return False
        if headers.eta is not None:
            when = timestamp(headers.eta, "eta")
            if when > time.time():
                self._schedule.hold(when, request)
                return False
        return True

    def due(self, request: TaskRequest) -> bool:
        """Decide again about a request that has waited; return whether it may run, else settle it."""
        if self._revokes and self.discards(request):
            return False
        expires = request.head.headers.expires
        if expires is not None and timestamp(expires, "expires") < time.time():
            self.discard(request, "expired")
            return False
        return True

    def discards(self, request: TaskRequest) -> bool:
        """Settle `request` if it is revoked; return whether it was."""
        revokes = self._revokes
        if request.task_id in revokes:
            self.discard(request, "revoked")
            return True
        if revokes.stamps and (stamps := revokes.revoked_stamps(_headers(request))):
            self.discard(request, "revoked", f" (revoked by header: {stamps})")
            return True
        return False

    def is_revoked(self, request: TaskRequest) -> bool:
        """Return whether `request` is revoked."""
        return self._revokes.covers(request.task_id, lambda: _headers(request))

    def discard(self, request: TaskRequest, why: str, note: str = "") -> None:
        """Settle `request` as REVOKED without running it; `why` is ``revoked`` or ``expired``."""
        logger.info("Discarding %s task: %r%s", why, request, note)
        if self._on_revoked is not None:
            self._on_revoked(
                task_id=request.task_id, name=request.name, terminated=False, signum=None, expired=why == "expired"
            )
        if self.events is not None:
            self.events.discarded(request, expired=why == "expired")
        self._settle.conclude(request, REVOKED, TaskRevokedError(why))

    def _send_to_dead_letters(self, delivery: Delivery, error: MessageError) -> None:
        task, task_id = _identity(delivery.payload)
        if not self._dead_letters.send(delivery, error.reason, str(error), task, task_id):
            self.unknown_tasks.keep(delivery, self._dead_letters.retry_at(delivery.queue))
            return
        if self._on_rejected is not None:
            self._on_rejected(task_id=task_id, reason=error.reason)
        logger.error(
            "Message %s from %s cannot become a task and was moved to %s: %s",
            task_id or "without id",
            delivery.queue,
            self._dead_letters.queue_for(delivery.queue),
            error,
        )


def job_of(request: TaskRequest, soft: float | None, hard: float | None, wants_result_repr: bool) -> Job:
    """Return the job that runs `request`; limits in the message win over the task's, which win over the worker's.

    `wants_result_repr`: events are sent, and show what tasks return.
    """
    limits = request.head.headers.timelimit
    policy = request.policy
    hard_limit = limits[0] if limits is not None and limits[0] is not None else policy.time_limit
    soft_limit = limits[1] if limits is not None and limits[1] is not None else policy.soft_time_limit
    return Job(
        request.seq,
        request.delivery.payload,
        request.name,
        request.task_id,
        soft if soft_limit is None else soft_limit,
        hard if hard_limit is None else hard_limit,
        wants_result_repr and policy.send_events,
    )


def _headers(request: TaskRequest) -> Mapping[str, Any]:
    """Return all headers of the message; none if it cannot be read, which running it reports."""
    try:
        return read(request.delivery.payload).headers
    except MessageError:
        return {}


def _identity(payload: Payload) -> tuple[str | None, str | None]:
    """Return the task name and id of a malformed message, each None if it cannot be read."""
    try:
        head = read_head(payload)
        return head.headers.task, head.headers.id or head.properties.correlation_id
    except MessageError:
        try:
            incoming: Incoming = read(payload)
        except MessageError:
            return None, None
        task, task_id = (
            incoming.headers.get("task"),
            incoming.headers.get("id") or incoming.properties.get("correlation_id"),
        )
        return (task if isinstance(task, str) else None), (task_id if isinstance(task_id, str) else None)


def _too_large(size: int, limit: int) -> MessageError:
    return MessageTooLarge(f"the message has {size:,} bytes, and max_message_size under [task] allows {limit:,}")
