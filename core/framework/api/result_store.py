"""Contract of a result store: where outcomes are kept and waited for.

Promises
1. `store` keeps every document or raises; a stored SUCCESS is never replaced.
2. A document is Celery's, encoded (`content_type` of the result serializer); the store never looks inside it, except
   for its ``status`` where promise 1 wants that.
3. `wait` does not poll where the store can push.
4. A lost connection is `ConnectionLost`, and only that. Every method may be called from any thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import msgspec

from framework.api.plugin import Plugin
from framework.api.transport import ConsumerFactory, ProducerFactory


class Record(msgspec.Struct, gc=False):
    """One document to keep."""

    task_id: str
    #: The encoded result document.
    document: bytes
    #: Its state: SUCCESS, FAILURE, STARTED, ….
    state: str
    #: Where the caller listens (rpc); "" or None: nowhere.
    reply_to: str | None = None
    correlation_id: str | None = None


class ResultStoreTraits(msgspec.Struct, frozen=True, kw_only=True):
    """What a result store can do."""

    #: Keeps anything at all.
    stores: bool = True
    #: Any process can read a result, any number of times.
    shared: bool = True


class ResultStoreContext(msgspec.Struct, kw_only=True, frozen=True):
    """What core gives a result store; times are in seconds."""

    #: How long results are kept; 0: for ever.
    expires: float = 86_400.0
    #: The same for failures; None: as `expires`.
    failure_expires: float | None = None
    #: Results sent as messages survive a restart of the broker.
    persistent: bool = False
    #: Name of the serializer that documents are encoded with.
    serializer: str = "json"
    #: TLS, as the older settings of a Redis store have it: a flag or a table.
    use_ssl: Any = None
    #: This client's reply queue, unique in its process; "": it has none.
    oid: str = ""
    broker_url: str = ""
    #: For stores that answer through the broker: how to publish to it and, where results are waited for, to consume.
    producer: ProducerFactory | None = None
    consumer: ConsumerFactory | None = None


class ResultStore(Plugin, ABC):
    """A result store's driver. Making one connects to nothing.

    Arguments: `url` as configured; `options`, an instance of `options_type`; `context`, see there.
    """

    traits: ClassVar[ResultStoreTraits] = ResultStoreTraits()

    def __init__(self, url: str, options: msgspec.Struct, context: ResultStoreContext) -> None:
        self.url = url
        self.options: Any = options
        self.context = context

    @property
    @abstractmethod
    def display_url(self) -> str:
        """The URL for people: no password."""

    @abstractmethod
    def store(self, records: Sequence[Record]) -> None:
        """Keep all of `records`, in one go where the store can."""

    @abstractmethod
    def fetch(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the documents that exist, by task id."""

    @abstractmethod
    def wait(
        self,
        task_ids: Iterable[str],
        timeout: float | None,
        is_ready: Callable[[bytes], bool],
        on_interval: Callable[[], object] | None = None,
    ) -> Iterator[tuple[str, bytes]]:
        """Yield ``(task id, document)`` for each id as soon as `is_ready(document)`; end when all were yielded.

        `timeout` is in seconds from the call, None: no limit. Raises `framework.exceptions.TimeoutError`.
        `on_interval` is called now and then while waiting, so that the caller may look at something else.
        """

    @abstractmethod
    def forget(self, task_ids: Sequence[str]) -> None:
        """Drop the documents."""

    def prepare(self, task_ids: Sequence[str]) -> None:
        """Called before tasks are sent whose results this client will wait for."""

    def close(self) -> None:
        """Disconnect; harmless when closed, and after a fork it leaves the parent's connection alone."""
