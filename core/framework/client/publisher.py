"""The publisher: the connections of this process to the broker, opened on first use and again after a fork.

1. Holds the transport, one producer and the result store; loads plugins only when something is sent or read. Calls may
   go to another broker than the one that workers consume from; events always go to the latter.
2. Declares a queue before the first message to it on a connection.
3. Publishes again, by the retry policy, while the broker cannot be reached or refuses for the moment.
4. `publish_until_accepted` removes the limit of tries for messages that follow the end of a task: the next task of a
   chain, a callback, a retry. No other process has them, so they would be lost. In an event loop nothing waits
   here, which would block all its coroutines: `accepted` waits there.
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

from framework._config.making import making
from framework.api.backoff import Backoff
from framework.exceptions import ConnectionLost, PublishRefused, TransportError
from framework.wire.identity import new_id

if TYPE_CHECKING:
    from framework._config.settings import RetryPolicy, Settings
    from framework.api.result_store import ResultStore
    from framework.api.transport import Mailbox, Producer, Queue, Transport
    from framework.message import Outgoing

logger = logging.getLogger(__name__)


def _loader() -> ModuleType:
    from framework._boot import loader  # here: it reads the metadata of installed packages

    return loader


class Publisher:
    """Publishes messages and events. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._oid = new_id()
        self._transport: Transport | None = None
        #: The transport to publish by: `_transport`, unless the settings name another broker for calls.
        self._outlet: Transport | None = None
        self._producer: Producer | None = None
        self._store: ResultStore | None = None
        #: For events; made for the first one.
        self._mailbox: Mailbox | None = None
        self._declared: set[str] = set()
        #: Objects of the parent process after a fork: unused, but kept, because their end would close its connections.
        self._inherited: list[object] = []

    def _check_pid(self) -> None:
        if self._pid == os.getpid():
            return
        with making():
            if self._pid == os.getpid():
                return
            self._inherited += [self._transport, self._outlet, self._producer, self._store, self._mailbox]
            self._lock = threading.RLock()
            self._transport = self._outlet = self._producer = self._store = self._mailbox = None
            self._declared = set()
            self._oid = new_id()
            self._pid = os.getpid()

    @property
    def oid(self) -> str:
        """The name of the reply queue of this process, sent as `reply_to`."""
        self._check_pid()
        return self._oid

    @property
    def transport(self) -> Transport:
        """The transport of the broker that workers consume from. Raises `PluginError` or `ConfigError`."""
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
        """The configured result store, by default ``none``."""
        self._check_pid()
        with self._lock:
            if self._store is None:
                self._store = _loader().make_result_store(self._settings, self.transport, self._oid)
            return self._store

    @property
    def has_store(self) -> bool:
        """Whether a result store is configured."""
        backend = self._settings.result.backend
        return bool(backend) and not str(backend).startswith("none:")

    def expect(self, task_ids: Sequence[str], *, inside_task: bool) -> None:
        """Prepare the result store for the results of tasks that are about to be sent.

        Few tasks read the results of their children, so `inside_task` this happens only if they would be lost.
        """
        if task_ids and self.has_store and not (inside_task and self.store.traits.shared):
            self.store.prepare(task_ids)

    def publish(
        self, messages: Sequence[Outgoing], queues: Iterable[Queue] = (), retry: bool | None = None, policy: Any = None
    ) -> None:
        """Publish `messages`, after declaring those of `queues` that are not declared yet.

        `retry` and `policy` (None: the settings) control further tries; a block of `publish_until_accepted` sets no
        limit to them unless `policy` does. Raises `TransportError`, after the last try if it is `temporary`.
        """
        try:
            self._publish(messages, queues)
        except TransportError as error:
            settings = self._settings.task
            allowed = settings.publish_retry if retry is None else retry
            if not (allowed and error.temporary):
                if _until_accepted.get():
                    error.temporary = False  # the call's own limits end the wait of `retry_until_accepted`
                raise
            if policy is None and _until_accepted.get() and in_event_loop():
                raise  # `accepted` tries again
            self._publish_again(messages, queues, _pauses(settings.publish_retry_policy, policy), error)

    def _publish_again(
        self, messages: Sequence[Outgoing], queues: Iterable[Queue], tries: Iterator[float], error: TransportError
    ) -> None:
        for number, pause in enumerate(tries):
            if isinstance(error, PublishRefused) and error.refused is not None:
                messages = [messages[index] for index in sorted(error.refused)]
            # One warning an outage, if the number of tries is unlimited.
            level = logging.DEBUG if number and waits_for_broker() else logging.WARNING
            where = ", ".join(sorted({message.routing_key or message.exchange for message in messages}))
            until = " and until it does" if waits_for_broker() else ""
            text = "The broker did not accept a message for %s, trying again in %.1f s%s: %s"
            logger.log(level, text, where, pause, until, error)
            wait(pause)
            try:
                self._publish(messages, queues)
            except TransportError as failed:
                if not failed.temporary:
                    raise
                error = failed
            else:
                return
        if _until_accepted.get():
            error.temporary = False
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
        """Send `message`, an event, to the receivers of events; drop it if the broker has no fan-out.

        Raises `TransportError` when the broker cannot be reached, or is congested.
        """
        if not self.transport.traits.fanout:
            return
        with self._lock:
            mailbox = self._mailbox
            if mailbox is None:
                mailbox = self._mailbox = self.transport.mailbox()
            try:
                # No messages arrive here, but the broker may have closed or blocked the connection.
                mailbox.receive()
                congested = mailbox.congested
                if not congested:
                    # Not `send`, which leaves replies of the broker unread.
                    mailbox.reach([message])
            except TransportError:
                self._mailbox = None
                mailbox.close()
                raise
        if congested:
            raise TransportError("the broker accepts no messages at present")

    def close(self) -> None:
        """Close all connections; a later call opens new ones."""
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
    """Yield the seconds to wait before each further try by a retry policy."""
    policy = {
        name: getattr(default, name) for name in ("max_retries", "interval_start", "interval_step", "interval_max")
    }
    if waits_for_broker():
        policy["max_retries"] = None
    policy.update(own or {})
    first, step = policy["interval_start"] or 0.0, policy["interval_step"]
    backoff = Backoff(first, policy["interval_max"], factor=1.0, step=step, jitter=0.0)
    while policy["max_retries"] is None or backoff.attempts < policy["max_retries"]:
        yield backoff.next()


_PAUSE_FIRST: Final = 0.2
#: Shorter than the turn to send a chord's body, so that its holder tries again before the turn lapses.
_PAUSE_MAX: Final = 2.0

_until_accepted: ContextVar[bool] = ContextVar("framework_publish_until_accepted", default=False)


@contextmanager
def publish_until_accepted() -> Iterator[None]:
    """Publish the messages of the block without a limit of tries."""
    token = _until_accepted.set(True)
    try:
        yield
    finally:
        _until_accepted.reset(token)


def is_temporary(error: BaseException) -> bool:
    """Return whether the broker or result store may accept later what it refused with `error`."""
    return isinstance(error, TransportError) and error.temporary


def waits_for_broker() -> bool:
    """Return whether the caller is in a block of `publish_until_accepted`, and not in an event loop."""
    return _until_accepted.get() and not in_event_loop()


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each further try, without end."""
    backoff = Backoff(_PAUSE_FIRST, _PAUSE_MAX, jitter=0.0)
    while True:
        yield backoff.next()


def retry_until_accepted(action: Callable[[], object], what: str) -> None:
    """Call `action`, again after each temporary refusal or `ConnectionLost`. Raises any other exception of `action`.

    `what` begins the log line.
    """
    for pause in _attempts(action, what):
        wait(pause)


def wait(seconds: float) -> None:
    """Wait before a further try. In a worker a time limit may end this wait, also after the end of the task."""
    time.sleep(seconds)


async def accepted(action: Callable[[], object], what: str) -> None:
    """Do in an event loop what `retry_until_accepted` does elsewhere: other coroutines run during the pauses."""
    import asyncio  # start-up time and memory: only a process that runs coroutines loads it

    for pause in _attempts(action, what):
        await asyncio.sleep(pause)


def _attempts(action: Callable[[], object], what: str) -> Iterator[float]:
    """Call `action` until it succeeds; yield the seconds to wait before each further try."""
    for number, pause in enumerate(pauses()):
        try:
            with publish_until_accepted():
                action()
        except TransportError as error:
            if not error.temporary:
                raise
            if not number:
                logger.warning("%s waits until it is accepted: %s", what, error)
            yield pause
        else:
            return


def in_event_loop() -> bool:
    """Return whether an event loop of asyncio runs in this thread."""
    # Not imported: a process without coroutines must not load asyncio.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
