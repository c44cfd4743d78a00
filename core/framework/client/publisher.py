"""The publisher: this process's way to the broker, made when first needed and made anew after a fork.

1. Holds the transport, one producer and the result store; loads plugins only when something is sent or read.
   Messages may go to another broker than the one that workers listen at; events go to where workers listen.
2. Declares a queue before the first message to it on a connection.
3. Tries again, with back-off, when the broker cannot be reached.
4. `publish_until_accepted`: what has to be sent when a task ends waits for the broker, however long that is away. The
   next task of a chain, a callback or a retry that cannot be sent would otherwise be lost, and with it the work that
   leads up to it: nobody else knows of it. What a task sends by itself is its own affair: it is told, and can decide. A
   coroutine is not patient: all others in its loop would have to wait with it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from framework.api.backoff import Backoff
from framework.exceptions import ConnectionLost, TransportError
from framework.wire.identity import new_id

if TYPE_CHECKING:
    from framework._config.settings import RetryPolicy, Settings
    from framework.api.result_store import ResultStore
    from framework.api.transport import Mailbox, Producer, Queue, Transport
    from framework.message import Outgoing


logger = logging.getLogger(__name__)


def _loader() -> ModuleType:
    from framework._boot import loader  # start-up time: it reads the metadata of installed packages

    return loader


class Publisher:
    """Publishes, for any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._oid = new_id()
        self._transport: Transport | None = None
        #: Where messages are published; the same one, unless the settings name another broker for that.
        self._outlet: Transport | None = None
        self._producer: Producer | None = None
        self._store: ResultStore | None = None
        #: For events; made when the first is sent.
        self._mailbox: Mailbox | None = None
        self._declared: set[str] = set()
        #: What a fork brought along: kept, so that nothing closes the parent's connections, and never used.
        self._inherited: list[object] = []

    def _check_pid(self) -> None:
        if self._pid != os.getpid():
            self._inherited += [self._transport, self._outlet, self._producer, self._store, self._mailbox]
            self._lock = threading.RLock()
            self._transport = self._outlet = self._producer = self._store = self._mailbox = None
            self._declared = set()
            self._oid = new_id()
            self._pid = os.getpid()

    @property
    def oid(self) -> str:
        """The name of this process's reply queue, sent as `reply_to`."""
        if self._pid != os.getpid():
            self._check_pid()
        return self._oid

    @property
    def transport(self) -> Transport:
        """The transport of the broker that workers listen at. Raises `PluginError` or `ConfigError`."""
        self._check_pid()
        with self._lock:
            if self._transport is None:
                self._transport = _loader().make_transport(self._settings)
            return self._transport

    @property
    def outlet(self) -> Transport:
        """The transport of the broker that messages are published to. Raises `PluginError` or `ConfigError`."""
        self._check_pid()
        with self._lock:
            if self._outlet is None:
                broker = self._settings.broker
                if broker.writing == broker.reading:
                    self._outlet = self.transport
                else:
                    self._outlet = _loader().make_write_transport(self._settings)
            return self._outlet

    @property
    def store(self) -> ResultStore:
        """The result store that the settings ask for; ``none`` when they ask for none."""
        self._check_pid()
        with self._lock:
            if self._store is None:
                self._store = _loader().make_result_store(self._settings, self.transport, self._oid)
            return self._store

    @property
    def has_store(self) -> bool:
        """Results are kept somewhere."""
        backend = self._settings.result.backend
        return bool(backend) and not str(backend).startswith("none:")

    def expect(self, task_ids: Sequence[str], *, inside_task: bool) -> None:
        """Let the result store get ready for the results of tasks that are about to be sent.

        Inside a task only where they would be lost otherwise: few tasks read the results of those they send.
        """
        if task_ids and self.has_store and not (inside_task and self.store.traits.shared):
            self.store.prepare(task_ids)

    def publish(
        self,
        messages: Sequence[Outgoing],
        queues: Iterable[Queue] = (),
        retry: bool | None = None,
        policy: Any = None,
    ) -> None:
        """Publish `messages`, declaring `queues` first where that was not done yet.

        `retry` and `policy` (None: the settings) say whether and how to try again; in a block of
        `publish_until_accepted` there is no end to it unless `policy` sets one. Raises `ConnectionLost` in the end.
        """
        try:
            self._publish(messages, queues)
        except ConnectionLost as error:
            settings = self._settings.task
            if not (settings.publish_retry if retry is None else retry):
                raise
            self._publish_again(messages, queues, _pauses(settings.publish_retry_policy, policy), error)

    def _publish_again(
        self, messages: Sequence[Outgoing], queues: Iterable[Queue], tries: Iterator[float], error: ConnectionLost
    ) -> None:
        for number, pause in enumerate(tries):
            # Once is enough for who waits as long as it takes.
            level = logging.DEBUG if number and patient() else logging.WARNING
            logger.log(level, "The broker did not take a message, trying again in %.1f s: %s", pause, error)
            time.sleep(pause)
            try:
                self._publish(messages, queues)
            except ConnectionLost as failed:
                error = failed
            else:
                return
        raise error

    def _publish(self, messages: Sequence[Outgoing], queues: Iterable[Queue]) -> None:
        self._check_pid()
        producer = self._producer
        if producer is None:
            with self._lock:
                if self._producer is None:
                    self._producer = self.outlet.producer()
                producer = self._producer
        try:
            missing = [queue for queue in queues if queue.name not in self._declared]
            if missing:
                producer.declare(missing)
                self._declared.update(queue.name for queue in missing)
            producer.publish(messages)
        except ConnectionLost:
            with self._lock:
                if self._producer is producer:
                    self._producer = None
                    self._declared = set()
            producer.close()
            raise

    def announce(self, message: Outgoing) -> None:
        """Send `message`, an event, to whoever listens.

        It is dropped where the broker has no fan-out. Raises `TransportError` when it is away, or takes nothing.
        """
        if not self.transport.traits.fanout:
            return
        with self._lock:
            mailbox = self._mailbox
            if mailbox is None:
                mailbox = self._mailbox = self.transport.mailbox()
            try:
                # Nobody writes to us, but the broker may have something to say about the connection.
                mailbox.receive()
                congested = mailbox.congested
                if not congested:
                    # Not `send`: nobody would come by the answers that it leaves behind.
                    mailbox.reach([message])
            except TransportError:
                self._mailbox = None
                mailbox.close()
                raise
        if congested:
            raise TransportError("the broker takes no messages at present")

    def close(self) -> None:
        """Disconnect; what is sent afterwards connects again."""
        self._check_pid()
        with self._lock:
            outlet = None if self._outlet is self._transport else self._outlet
            parts = (self._store, self._producer, self._mailbox, self._transport, outlet)
            self._store = self._producer = self._mailbox = self._transport = self._outlet = None
            self._declared = set()
        for part in parts:
            if part is not None:
                part.close()


def _pauses(default: RetryPolicy, own: Any) -> Iterator[float]:
    """Yield the seconds to wait before each new try."""
    policy = {
        name: getattr(default, name) for name in ("max_retries", "interval_start", "interval_step", "interval_max")
    }
    if patient():
        policy["max_retries"] = None
    policy.update(own or {})
    first, step = policy["interval_start"] or 0.0, policy["interval_step"]
    backoff = Backoff(first, policy["interval_max"], factor=1.0, step=step, jitter=0.0)
    while policy["max_retries"] is None or backoff.attempts < policy["max_retries"]:
        yield backoff.next()


# ---------------------------------------------------------------- waiting for the broker

_PAUSE_FIRST: Final = 0.2
#: Less than the turn to send a chord's body lasts: who has that tries again in time.
_PAUSE_MAX: Final = 2.0

_patient: ContextVar[bool] = ContextVar("framework_patient", default=False)


@contextmanager
def publish_until_accepted() -> Iterator[None]:
    """Have what is sent in the block wait for the broker."""
    token = _patient.set(True)
    try:
        yield
    finally:
        _patient.reset(token)


def patient() -> bool:
    """Whether what is sent here waits for the broker."""
    return _patient.get() and not _in_event_loop()


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each new try, without end."""
    backoff = Backoff(_PAUSE_FIRST, _PAUSE_MAX, jitter=0.0)
    while True:
        yield backoff.next()


def insist(action: Callable[[], object], what: str) -> None:
    """Do `action`, and again until no connection is missing for it, if there is patience here.

    It may be done more than once. Raises `ConnectionLost` if there is none, and whatever else `action` raises.
    """
    told = False
    for pause in pauses():
        try:
            action()
        except ConnectionLost as error:
            if not patient():
                raise
            if not told:
                logger.warning("%s: waits until the connection is back: %s", what, error)
                told = True
            time.sleep(pause)
        else:
            return


def _in_event_loop() -> bool:
    # Not imported here: a process that runs no coroutine does not load asyncio.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
