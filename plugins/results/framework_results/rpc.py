"""Results as messages: ``rpc://`` sends each to the client that asked, through the broker.

1. Where tasks run, `store` publishes every document to the request's reply queue. A client that is gone is no error.
2. Where results are waited for, this client's own reply queue is consumed; what arrives for an id that nobody asks
   about yet is kept until somebody does.
3. Any number of threads may wait. One of them reads for all; the others sleep until it has something or is done.
4. A daemon thread sends the consumer's heartbeats while nobody waits: with its connection the reply queue would go too.

A result reaches only the client that sent the task, and is held in its memory.

Source of the messages: Celery's rpc backend.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from typing import Annotated, ClassVar

import msgspec

from framework.api.result_store import Record, ResultStore, ResultStoreContext, ResultStoreTraits
from framework.api.transport import Consumer, Delivery, Exchange, Producer, Queue
from framework.exceptions import (
    ConfigError,
    ConnectionLost,
    MessageUndecodable,
    PublishRefused,
    TimeoutError,  # noqa: A004 - the contract's
)
from framework.message import JSON, UTF8, Outgoing, read

logger = logging.getLogger(__name__)

#: Deliveries taken at once.
BATCH = 256
#: Seconds between two calls of `on_interval`.
INTERVAL = 1.0


class RpcOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The table ``[result_store.rpc]``."""

    keep: Annotated[
        int,
        msgspec.Meta(
            ge=1, description="How many results that nobody has asked about are kept; then the oldest are dropped."
        ),
    ] = 100_000


class _Status(msgspec.Struct):
    """The one thing looked at in a document."""

    status: str = ""


#: Ends that another attempt may replace.
_ENDS = ("FAILURE", "REVOKED")
_status = msgspec.json.Decoder(_Status).decode


class RpcStore(ResultStore):
    """Sends results to whoever asked, and waits for those sent to us."""

    options_type: ClassVar[type[msgspec.Struct]] = RpcOptions
    traits: ClassVar[ResultStoreTraits] = ResultStoreTraits(shared=False)

    def __init__(self, url: str, options: msgspec.Struct, context: ResultStoreContext) -> None:
        super().__init__(url, options, context)
        self._content = _content_of(context.serializer)
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._publishing = threading.Lock()
        self._producer: Producer | None = None
        #: Held by the thread that reads for all.
        self._reading = threading.Lock()
        self._consumer: Consumer | None = None
        #: When the consumer last sent a heartbeat.
        self._beaten = 0.0
        #: Guards the documents; notified when some came, or when the reader has stopped reading.
        self._news = threading.Condition()
        self._documents: dict[str, bytes] = {}
        self._edition = 0
        self._closed = threading.Event()

    def _after_fork(self) -> None:
        # Forget, not close: connections and locks of the parent stay as they are.
        if self._pid != os.getpid():
            self._begin()

    @property
    def display_url(self) -> str:
        """The URL for people."""
        return "rpc://"

    # ------------------------------------------------------------ where tasks run

    def store(self, records: Sequence[Record]) -> None:
        """Send every document that somebody listens for."""
        self._after_fork()
        content_type, content_encoding = self._content
        messages = [
            Outgoing(
                body=record.document,
                headers={},
                routing_key=record.reply_to,
                content_type=content_type,
                content_encoding=content_encoding,
                correlation_id=record.correlation_id or record.task_id,
                delivery_mode=2 if self.context.persistent else 1,
            )
            for record in records
            if record.reply_to
        ]
        if not messages:
            return
        with self._publishing:
            if self._producer is None:
                if self.context.producer is None:
                    raise ConfigError("results cannot be sent from here: rpc:// needs a connection to the broker")
                self._producer = self.context.producer()
            try:
                self._producer.publish(messages)
            except ConnectionLost:
                broken, self._producer = self._producer, None
                broken.close()
                raise
            except PublishRefused as error:
                # Usually the client is gone and its queue with it: nobody is left to be told.
                logger.info("Results were not delivered: %s", error)

    # ------------------------------------------------------------ where results are waited for

    def prepare(self, task_ids: Sequence[str]) -> None:
        """See to it that the reply queue exists before anything is sent to it."""
        self._after_fork()
        if self._consumer is None:
            with self._reading:
                self._listen()

    def fetch(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the documents that have arrived, by task id."""
        self._after_fork()
        if self.context.consumer is not None and self._reading.acquire(blocking=False):
            try:
                self._take_in(self._listen())
            finally:
                self._stop_reading()
        with self._news:
            return {task_id: self._documents[task_id] for task_id in task_ids if task_id in self._documents}

    def wait(
        self,
        task_ids: Iterable[str],
        timeout: float | None,
        is_ready: Callable[[bytes], bool],
        on_interval: Callable[[], object] | None = None,
    ) -> Iterator[tuple[str, bytes]]:
        """Yield ``(task id, document)`` for each id as soon as `is_ready(document)`."""
        self._after_fork()
        deadline = None if timeout is None else monotonic() + timeout
        waiting = dict.fromkeys(task_ids)
        #: Documents already found not to be ready: asked once, not at every turn.
        unready: dict[str, bytes] = {}
        while waiting:
            with self._news:
                edition = self._edition
                found = {task_id: self._documents[task_id] for task_id in waiting if task_id in self._documents}
            for task_id, document in found.items():
                if unready.get(task_id) is document:
                    continue
                if is_ready(document):
                    del waiting[task_id]
                    yield task_id, document
                else:
                    unready[task_id] = document
            if not waiting:
                return
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(
                    f"{len(waiting)} of the results did not arrive within {timeout:g} s, "
                    f"among them {next(iter(waiting))}"
                )
            pause = left if on_interval is None else INTERVAL if left is None else min(left, INTERVAL)
            self._sleep(edition, pause)
            if on_interval is not None:
                on_interval()

    def _sleep(self, edition: int, pause: float | None) -> None:
        """Read for everybody, or wait for the one who does; at most `pause` seconds."""
        if self._reading.acquire(blocking=False):
            try:
                consumer = self._listen()
                if not self._take_in(consumer) and edition == self._edition:
                    _select(consumer.fileno(), _shortest(pause, consumer.heartbeat_interval))
                    self._take_in(consumer)
                self._beat(consumer)
            except ConnectionLost:
                self._drop_consumer()
                raise
            finally:
                self._stop_reading()
        else:
            with self._news:
                self._news.wait_for(lambda: edition != self._edition, pause)

    def _stop_reading(self) -> None:
        self._reading.release()
        with self._news:
            # Without news of its own: a sleeper must take over the reading.
            self._edition += 1
            self._news.notify_all()

    def _listen(self) -> Consumer:
        """Return the consumer of our reply queue; the caller reads. Raises `ConnectionLost`."""
        if self._consumer is not None:
            return self._consumer
        queue = self._reply_queue()
        if self.context.consumer is None:
            raise ConfigError("results cannot be waited for here: rpc:// needs a connection to the broker")
        consumer = self.context.consumer()
        try:
            consumer.prefetch(0)
            consumer.add_queue(queue)
        except BaseException:  # undone and raised again
            consumer.close(requeue=True)
            raise
        self._consumer = consumer
        self._beaten = monotonic()
        self._closed.clear()
        if consumer.heartbeat_interval:
            threading.Thread(
                target=self._keep_alive, args=(consumer, consumer.heartbeat_interval), name="rpc-heartbeat", daemon=True
            ).start()
        return consumer

    def _reply_queue(self) -> Queue:
        oid = self.context.oid
        if not oid:
            raise ConfigError("results cannot be waited for here: this client has no reply queue of its own (oid)")
        return Queue(
            name=oid,
            exchange=Exchange(),
            routing_key=oid,
            auto_delete=True,
            no_ack=True,
            expires=self.context.expires or None,
        )

    def _take_in(self, consumer: Consumer) -> bool:
        """Keep what has arrived, without waiting; return whether anything had."""
        came = False
        while deliveries := consumer.fetch(BATCH):
            came = True
            with self._news:
                for delivery in deliveries:
                    self._keep(delivery)
                self._edition += 1
                self._news.notify_all()
            for delivery in deliveries:
                delivery.ack()
            if len(deliveries) < BATCH:
                break
        consumer.flush()
        return came

    def _keep(self, delivery: Delivery) -> None:
        try:
            incoming = read(delivery.payload)
        except MessageUndecodable as error:
            logger.warning("Something that is no result lay in the reply queue: %s", error)
            return
        task_id = incoming.properties.get("correlation_id")
        if not isinstance(task_id, str):
            logger.warning("A result without a correlation id lay in the reply queue")
            return
        documents = self._documents
        known = documents.get(task_id)
        if known is not None and _stays(known, incoming.body):
            return
        documents[task_id] = incoming.body
        if len(documents) > self.options.keep:
            oldest = next(iter(documents))
            del documents[oldest]
            logger.warning(
                "More than %d results wait to be asked for; the oldest (%s) was dropped", self.options.keep, oldest
            )

    def _beat(self, consumer: Consumer) -> None:
        """Send a heartbeat if one is due; the caller reads."""
        interval = consumer.heartbeat_interval
        if interval and monotonic() - self._beaten >= interval:
            self._beaten = monotonic()
            consumer.heartbeat()

    def _keep_alive(self, consumer: Consumer, interval: float) -> None:
        closed = self._closed
        while not closed.wait(interval):
            # Whoever reads sends heartbeats too: waiting for the lock does no harm.
            with self._reading:
                if self._consumer is not consumer:
                    return
                try:
                    self._beat(consumer)
                    # Also while nobody asks: what lies in the socket must not fill it.
                    self._take_in(consumer)
                except ConnectionLost as error:
                    logger.warning("The reply queue is lost: %s", error)
                    self._drop_consumer()
                    return

    def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(requeue=True)

    def forget(self, task_ids: Sequence[str]) -> None:
        """Drop the documents."""
        self._after_fork()
        with self._news:
            for task_id in task_ids:
                self._documents.pop(task_id, None)

    def close(self) -> None:
        """Disconnect; harmless when closed."""
        self._after_fork()
        self._closed.set()
        with self._publishing:
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()
        with self._reading:
            self._drop_consumer()


def _stays(known: bytes, document: bytes) -> bool:
    """Say whether `document` comes too late to replace `known`.

    A task that runs again after it had succeeded reports STARTED once more; and a RETRY may be told after its attempt.
    """
    try:
        reached = _status(known).status
        return reached == "SUCCESS" or (reached in _ENDS and _status(document).status == "RETRY")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False  # another serializer's: not ours to understand


def _select(fd: int, timeout: float | None) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        selector.select(timeout)


def _shortest(*seconds: float | None) -> float | None:
    return min((value for value in seconds if value is not None), default=None)


def _content_of(serializer: str) -> tuple[str, str]:
    """Return content type and encoding of what `serializer` makes."""
    if serializer == "json":
        return JSON, UTF8
    # Start-up time: kombu is imported for serializers that it alone knows.
    from kombu.serialization import registry

    encoder = registry._encoders.get(serializer)
    if encoder is None:
        raise ConfigError(f"there is no serializer {serializer!r} here for results")
    return encoder.content_type, encoder.content_encoding
