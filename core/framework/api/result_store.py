"""Contract of a result store: where outcomes are kept and waited for.

Promises
1. `store` keeps every document or raises; a stored SUCCESS is never replaced, a stored FAILURE or REVOKED not by a
   RETRY: the next attempt may have ended before it is told that there would be one.
2. A document is Celery's, encoded (`content_type` of the result serializer); the store never looks inside it, except
   for its ``status`` where promise 1 wants that.
3. `wait` does not poll where the store can push.
4. A lost connection is `ConnectionLost`, and only that. Every method may be called from any thread.
5. A store whose trait `chords` is set counts the parts of a chord, each task once, whatever runs twice; and of all who
   return parts at the same time it gives exactly one the turn to send the body.
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
    """One document to keep."""

    task_id: str
    #: The encoded result document.
    document: bytes
    #: Its state: SUCCESS, FAILURE, STARTED, ….
    state: str
    #: Where the caller listens (rpc); "" or None: nowhere.
    reply_to: str | None = None
    correlation_id: str | None = None


class ChordPart(msgspec.Struct, gc=False):
    """What one task of a chord's header came to."""

    group_id: str
    task_id: str
    #: Its place in the header; None: behind all others.
    index: float | None
    #: The encoded list ``[1, task id, state, result]``.
    value: bytes


class Turn(enum.Enum):
    """What returning a part of a chord led to."""

    #: Other parts are missing.
    WAIT = enum.auto()
    #: All parts are there, and it is for the caller to send the body.
    MINE = enum.auto()
    #: All parts are there, and somebody else is about to send the body.
    TAKEN = enum.auto()
    #: There is no such chord: its body was sent, or has failed, or it has expired.
    OVER = enum.auto()


class ResultStoreTraits(msgspec.Struct, frozen=True, kw_only=True):
    """What a result store can do."""

    #: Keeps anything at all.
    stores: bool = True
    #: Any process can read a result, any number of times.
    shared: bool = True
    #: Counts the parts of chords, and keeps saved groups.
    chords: bool = False


class ResultStoreContext(msgspec.Struct, kw_only=True, frozen=True):
    """What core gives a result store; times are in seconds."""

    #: How long results are kept; 0: for ever.
    expires: float = 86_400.0
    #: The same for failures; None: as `expires`.
    failure_expires: float | None = None
    #: How long the parts of a chord are kept; None: as `expires`.
    chord_expires: float | None = None
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

    # ------------------------------------------------------------ chords and groups, for those with the trait `chords`

    def _without_chords(self) -> NoReturn:
        raise ConfigError(
            f"the result store {self.display_url} can keep neither chords nor saved groups: set backend under "
            '[result] to one that can, for example backend = "redis://localhost:6379/0" or "sqlite:///results.db"'
        )

    def begin_chord(self, group_id: str, size: int) -> None:
        """Expect `size` parts, and forget that the chord has been over. Raises `ConfigError` without the trait."""
        self._without_chords()

    def grow_chord(self, group_id: str, count: int = 1) -> None:
        """Expect `count` parts more."""
        self._without_chords()

    def return_part(self, part: ChordPart, token: str, claim: float) -> Turn:
        """Keep `part`, if it is not kept yet, and say whose turn it is.

        The turn is kept for whoever brings the same `token`, and lapses after `claim` seconds.
        """
        self._without_chords()

    def chord_parts(self, group_id: str) -> list[bytes]:
        """Return the values of all parts that are kept, in the order of the header."""
        self._without_chords()

    def hold_turn(self, group_id: str, token: str, claim: float) -> bool:
        """Keep the turn for `claim` seconds from now; return whether it is still the caller's."""
        self._without_chords()

    def end_chord(self, group_id: str, token: str, remember: float) -> bool:
        """Drop the chord of which the caller has sent the body, and remember for `remember` seconds that it is over.

        Return False, and leave it, if the turn is not the caller's any more.
        """
        self._without_chords()

    def fail_chord(self, group_id: str) -> None:
        """Have the chord be over, because its body has failed."""
        self._without_chords()

    def save_group(self, group_id: str, document: bytes) -> None:
        """Keep what a group consists of."""
        self._without_chords()

    def fetch_group(self, group_id: str) -> bytes | None:
        """Return what was saved of a group."""
        self._without_chords()

    def forget_group(self, group_id: str) -> None:
        """Drop what was saved of a group."""
        self._without_chords()

    # ------------------------------------------------------------ life

    def prepare(self, task_ids: Sequence[str]) -> None:
        """Called before tasks are sent whose results this client will wait for."""

    def close(self) -> None:
        """Disconnect; harmless when closed, and after a fork it leaves the parent's connection alone."""
