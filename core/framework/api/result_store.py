"""Contract of a result store: stores results and waits for them.

Promises
1. `store` keeps every document or raises. A stored SUCCESS is never replaced, and a stored FAILURE or REVOKED is not
   replaced by a RETRY: the next attempt may end before the RETRY of the one before is stored.
2. A document is Celery's result document, encoded with the result serializer; the store reads nothing but its
   ``status``, for promise 1.
3. `wait` does not poll if the store can push.
4. Every method raises `ConnectionLost`, and only that, for a lost connection or a server that accepts no writes at
   present. Any thread may call any method.
5. A store with the trait `chords` counts the parts of a chord, each task once, also if the task runs twice. Of several
   workers that return parts at the same time, exactly one gets the turn to send the body.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, NoReturn

import msgspec

from framework.api.plugin import Plugin
from framework.api.transport import ConsumerFactory, ProducerFactory
from framework.exceptions import ConfigError


class Record(msgspec.Struct, gc=False):
    """One document to store."""

    task_id: str
    #: The encoded result document.
    document: bytes
    #: Its state: SUCCESS, FAILURE, STARTED, ….
    state: str
    #: The reply queue of the caller (rpc); "" or None: it has none.
    reply_to: str | None = None
    correlation_id: str | None = None


class ChordPart(msgspec.Struct, gc=False):
    """The result of one task of a chord's header."""

    group_id: str
    task_id: str
    #: Its position in the header; None: after all others.
    index: float | None
    #: The encoded list ``[1, task id, state, result]``.
    value: bytes


class Turn(enum.Enum):
    """What the caller of `ResultStore.return_part` has to do."""

    #: Other parts are missing.
    WAIT = enum.auto()
    #: The chord is complete, and the caller sends the body.
    MINE = enum.auto()
    #: The chord is complete, and another worker is about to send the body.
    TAKEN = enum.auto()
    #: The chord does not exist any more: its body was sent or has failed, or the chord has expired.
    OVER = enum.auto()


class ResultStoreTraits(msgspec.Struct, frozen=True, kw_only=True):
    """What a result store can do."""

    #: Stores results; a store without this trait drops them.
    stores: bool = True
    #: Any process can read a result, any number of times.
    shared: bool = True
    #: Counts the parts of chords, and keeps saved groups.
    chords: bool = False


class ResultStoreContext(msgspec.Struct, kw_only=True, frozen=True):
    """Everything that core passes to a result store; times are in seconds."""

    #: How long results are kept; 0: for ever.
    expires: float = 86_400.0
    #: How long failures are kept; None: as `expires`.
    failure_expires: float | None = None
    #: How long the parts of a chord are kept; None: as `expires`.
    chord_expires: float | None = None
    #: Whether results sent as messages survive a restart of the broker.
    persistent: bool = False
    #: Name of the serializer of documents.
    serializer: str = "json"
    #: TLS by the older settings of a Redis store: a flag or a table.
    use_ssl: Any = None
    #: Name of this client's reply queue, unique in its process; "": it has none.
    oid: str = ""
    broker_url: str = ""
    #: For stores that send results through the broker: connect to publish and to wait for results.
    producer: ProducerFactory | None = None
    consumer: ConsumerFactory | None = None

    def lifetime(self, state: str) -> float:
        """Return how long a document in `state` is kept; 0: for ever."""
        if state == "FAILURE" and self.failure_expires is not None:
            return self.failure_expires
        return self.expires

    @property
    def chord_lifetime(self) -> float:
        """How long the parts of a chord are kept; 0: for ever."""
        return self.expires if self.chord_expires is None else self.chord_expires


class ResultStore(Plugin, ABC):
    """Base class of result stores. Creating a result store does not connect.

    Arguments: `url` as configured; `options`, an instance of `options_type`; `context`, a `ResultStoreContext`.
    """

    traits: ClassVar[ResultStoreTraits] = ResultStoreTraits()

    def __init__(self, url: str, options: msgspec.Struct, context: ResultStoreContext) -> None:
        self.url = url
        self.options: Any = options
        self.context = context

    @property
    @abstractmethod
    def display_url(self) -> str:
        """The URL for display, without the password."""

    @abstractmethod
    def store(self, records: Sequence[Record]) -> None:
        """Store all of `records`, as one batch if the store can."""

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
        `on_interval` is called repeatedly while waiting, so that the caller can do other work.
        """

    @abstractmethod
    def forget(self, task_ids: Sequence[str]) -> None:
        """Delete the documents of `task_ids`."""

    # ------------------------------------------------------------ chords and groups (trait `chords`)

    def _without_chords(self) -> NoReturn:
        raise ConfigError(
            f"the result store {self.display_url} can keep neither chords nor saved groups: set backend under "
            '[result] to one that can, for example backend = "redis://localhost:6379/0" or "sqlite:///results.db"'
        )

    def begin_chord(self, group_id: str, size: int) -> None:
        """Expect `size` parts, also if the chord was over before. Raises `ConfigError` without the trait `chords`."""
        self._without_chords()

    def grow_chord(self, group_id: str, count: int = 1) -> None:
        """Expect `count` more parts. Before `begin_chord`, also with 0: from now on parts are kept, and count later."""
        self._without_chords()

    def return_part(self, part: ChordPart, token: str, claim: float) -> Turn:
        """Store `part`, unless it is stored already, and return whose turn it is.

        The turn belongs to the caller with the same `token`, and lapses after `claim` seconds.
        """
        self._without_chords()

    def chord_parts(self, group_id: str) -> list[bytes]:
        """Return the values of all stored parts, in the order of the header."""
        self._without_chords()

    def hold_turn(self, group_id: str, token: str, claim: float) -> bool:
        """Extend the turn to `claim` seconds from now; return False if the caller has lost it."""
        self._without_chords()

    def end_chord(self, group_id: str, token: str, remember: float) -> bool:
        """Delete the chord after the caller has sent its body; keep a mark that it is over for `remember` seconds.

        Returns False and changes nothing if the caller has lost the turn.
        """
        self._without_chords()

    def fail_chord(self, group_id: str) -> None:
        """End the chord because its body has failed."""
        self._without_chords()

    def save_group(self, group_id: str, document: bytes) -> None:
        """Store the document of a group."""
        self._without_chords()

    def fetch_group(self, group_id: str) -> bytes | None:
        """Return the stored document of a group; None: it has none."""
        self._without_chords()

    def forget_group(self, group_id: str) -> None:
        """Delete the stored document of a group."""
        self._without_chords()

    # ------------------------------------------------------------ life

    def prepare(self, task_ids: Sequence[str]) -> None:
        """Called before this client sends tasks and waits for their results."""

    def close(self) -> None:
        """Disconnect; harmless when closed. After a fork it does not touch the parent's connection."""
