"""Results as messages: ``rpc://`` sends each result through the broker to the client that sent the task.

1. In a worker, `store` publishes every document to the request's reply queue. A missing client is not an error.
2. In a client, consumes the client's reply queue, and keeps each result until it is requested.
3. Any number of threads may wait: one reads for all, the others sleep until it has received results or stops reading.
4. A daemon thread sends the consumer's heartbeats while no thread reads: the reply queue is lost with its connection.

Only the client that sent the task gets its result, and keeps it in memory.

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

#: Most deliveries fetched at once.
BATCH = 256
#: Seconds between two calls of `on_interval`.
INTERVAL = 1.0


class RpcOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The table ``[result_store.rpc]``."""

    keep: Annotated[
        int,
        msgspec.Meta(
            ge=1, description="Most results that are kept until they are requested; then the oldest is dropped."
        ),
    ] = 100_000


class _Status(msgspec.Struct):
    """Decodes only `status`."""

    status: str = ""


#: Final states that a later attempt may replace.
_ENDS = ("FAILURE", "REVOKED")
_status = msgspec.json.Decoder(_Status).decode


class RpcStore(ResultStore):
    """The rpc result store: sends results to clients, and receives the results of this client."""

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
        self._heartbeat_at = 0.0
        #: Guards the documents; notified when documents arrive, or when the reader stops reading.
        self._changed = threading.Condition()
        self._documents: dict[str, bytes] = {}
        self._version = 0
        self._closed = threading.Event()

    def _after_fork(self) -> None:
        # Without closing: the connections and locks belong to the parent.
        if self._pid != os.getpid():
            self._begin()

    @property
    def display_url(self) -> str:
        """The URL for people."""
        return "rpc://"

    # ------------------------------------------------------------ in a worker

    def store(self, records: Sequence[Record]) -> None:
        """Send every document that has a reply queue."""
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
                    raise ConfigError("results cannot be sent: rpc:// needs a connection to the broker")
                self._producer = self.context.producer()
            try:
                self._producer.publish(messages)
            except ConnectionLost:
                broken, self._producer = self._producer, None
                broken.close()
                raise
            except PublishRefused as error:
                if error.temporary:
                    # The caller retries on ConnectionLost until the broker accepts the results.
                    raise ConnectionLost(str(error)) from error
                # Usually the client is gone, and its reply queue with it.
                logger.info("Results were not delivered: %s", error)

    # ------------------------------------------------------------ in a client

    def prepare(self, task_ids: Sequence[str]) -> None:
        """Declare the reply queue before any result is sent to it."""
        self._after_fork()
        if self._consumer is None:
            with self._reading:
                self._open_consumer()

    def fetch(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the documents that have arrived, by task id."""
        self._after_fork()
        if self.context.consumer is not None and self._reading.acquire(blocking=False):
            try:
                try:
                    self._receive(self._open_consumer())
                except ConnectionLost:
                    # Lost while nobody read: that is no reason to fail before the broker was asked again.
                    self._drop_consumer()
                    self._receive(self._open_consumer())
            finally:
                self._stop_reading()
        with self._changed:
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
        #: Documents that `is_ready` has rejected, so that each is tested once.
        unready: dict[str, bytes] = {}
        while waiting:
            with self._changed:
                version = self._version
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
            self._wait_for_change(version, pause)
            if on_interval is not None:
                on_interval()

    def _wait_for_change(self, version: int, pause: float | None) -> None:
        """Read for all threads, or wait for the thread that reads; at most `pause` seconds."""
        if self._reading.acquire(blocking=False):
            try:
                consumer = self._open_consumer()
                if not self._receive(consumer) and version == self._version:
                    _select(consumer.fileno(), _shortest(pause, consumer.heartbeat_interval))
                    self._receive(consumer)
                self._send_heartbeat(consumer)
            except ConnectionLost:
                self._drop_consumer()
                raise
            finally:
                self._stop_reading()
        else:
            with self._changed:
                self._changed.wait_for(lambda: version != self._version, pause)

    def _stop_reading(self) -> None:
        self._reading.release()
        with self._changed:
            # Even without a new document: another thread must take over the reading.
            self._version += 1
            self._changed.notify_all()

    def _open_consumer(self) -> Consumer:
        """Return the consumer of the reply queue; the caller holds `_reading`. Raises `ConnectionLost`."""
        if self._consumer is not None:
            return self._consumer
        queue = self._reply_queue()
        if self.context.consumer is None:
            raise ConfigError("this client cannot wait for results: rpc:// needs a connection to the broker")
        consumer = self.context.consumer()
        try:
            consumer.prefetch(0)
            consumer.add_queue(queue)
        except BaseException:  # closed and re-raised
            consumer.close(requeue=True)
            raise
        self._consumer = consumer
        self._heartbeat_at = monotonic()
        self._closed.clear()
        if consumer.heartbeat_interval:
            threading.Thread(
                target=self._keep_alive, args=(consumer, consumer.heartbeat_interval), name="rpc-heartbeat", daemon=True
            ).start()
        return consumer

    def _reply_queue(self) -> Queue:
        oid = self.context.oid
        if not oid:
            raise ConfigError("this client cannot wait for results: it has no reply queue of its own (oid)")
        return Queue(
            name=oid,
            exchange=Exchange(),
            routing_key=oid,
            auto_delete=True,
            no_ack=True,
            expires=self.context.expires or None,
        )

    def _receive(self, consumer: Consumer) -> bool:
        """Keep the results that have arrived, without waiting; return whether there were any."""
        received = False
        while deliveries := consumer.fetch(BATCH):
            received = True
            with self._changed:
                for delivery in deliveries:
                    self._keep(delivery)
                self._version += 1
                self._changed.notify_all()
            for delivery in deliveries:
                delivery.ack()
            if len(deliveries) < BATCH:
                break
        consumer.flush()
        return received

    def _keep(self, delivery: Delivery) -> None:
        try:
            incoming = read(delivery.payload)
        except MessageUndecodable as error:
            logger.warning("Dropped a message in the reply queue that is not a result: %s", error)
            return
        task_id = incoming.properties.get("correlation_id")
        if not isinstance(task_id, str):
            logger.warning("Dropped a result without a correlation id in the reply queue")
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
                "More than %d results were not requested; the oldest (%s) was dropped", self.options.keep, oldest
            )

    def _send_heartbeat(self, consumer: Consumer) -> None:
        """Send a heartbeat if one is due; the caller holds `_reading`."""
        interval = consumer.heartbeat_interval
        if interval and monotonic() - self._heartbeat_at >= interval:
            self._heartbeat_at = monotonic()
            consumer.heartbeat()

    def _keep_alive(self, consumer: Consumer, interval: float) -> None:
        closed = self._closed
        while not closed.wait(interval):
            # The thread that holds the lock sends heartbeats, too.
            with self._reading:
                if self._consumer is not consumer:
                    return
                try:
                    self._send_heartbeat(consumer)
                    # Unread results must not fill the socket while no thread waits.
                    self._receive(consumer)
                except ConnectionLost as error:
                    logger.warning("Connection of the reply queue lost: %s", error)
                    self._drop_consumer()
                    return

    def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(requeue=True)

    def forget(self, task_ids: Sequence[str]) -> None:
        """Drop the documents."""
        self._after_fork()
        with self._changed:
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
    """Return whether `document` comes too late to replace `known`.

    A task that runs again after its success reports STARTED again; a RETRY may arrive after the next attempt's end.
    """
    try:
        reached = _status(known).status
        return reached == "SUCCESS" or (reached in _ENDS and _status(document).status == "RETRY")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False  # written by another serializer


def _select(fd: int, timeout: float | None) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        selector.select(timeout)


def _shortest(*seconds: float | None) -> float | None:
    return min((value for value in seconds if value is not None), default=None)


def _content_of(serializer: str) -> tuple[str, str]:
    """Return the content type and encoding of `serializer`."""
    if serializer == "json":
        return JSON, UTF8
    # Start-up time: kombu is imported for serializers that it alone knows.
    from kombu.serialization import registry

    encoder = registry._encoders.get(serializer)
    if encoder is None:
        raise ConfigError(f"the result serializer {serializer!r} is unknown: register it with kombu, or use json")
    return encoder.content_type, encoder.content_encoding
