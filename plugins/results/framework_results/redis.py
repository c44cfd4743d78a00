"""Results in Redis, with Celery's keys and channels, so that clients of both read the same results.

1. `store` keeps many documents with one script call; the script publishes each on the channel of its key, and does not
   replace the document of a final state.
2. `wait` reads, subscribes to the missing results, reads again, and then sleeps until a result is published. Every
   waiting thread uses a connection of its own, which is reused later. An account that may not use channels reads again
   and again instead.
3. `fetch` and `forget` send one command each, per group of keys.
4. Chords and saved groups: see `framework_results.redis_chords`.

Source: Celery's Redis result backend, section 4 of the wire protocol.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from typing import Annotated, Any, ClassVar, Final

import msgspec

from framework.api.backoff import Backoff
from framework.api.result_store import Record, ResultStoreContext, ResultStoreTraits
from framework.exceptions import BackendError, ConnectionLost
from framework.exceptions import TimeoutError as ResultTimeout
from framework_drivers.redis.options import RedisConnectionOptions, Seconds
from framework_drivers.redis.resp import RedisConnection, Script, ScriptCall, ServerError, packer
from framework_drivers.redis.sentinel import check
from framework_drivers.redis.shared_connection import SharedRedisConnection
from framework_drivers.redis.url import parse
from framework_results.redis_chords import RedisChords

logger = logging.getLogger(__name__)

_PREFIX: Final = "celery-task-meta-"
#: Most keys in one command.
_GROUP: Final = 500
#: Seconds between two calls of a waiter's `on_interval`.
_INTERVAL: Final = 0.5
#: Seconds of the first pause between two reads where the server publishes nothing to this account.
_PAUSE: Final = 0.02
#: Seconds between two reads while the server publishes: a worker's account may not be allowed to.
_READ_AGAIN: Final = 5.0
#: Most bytes of a value that the server accepts.
_LARGEST: Final = 512 * 1024 * 1024

_STORE: Final = Script("""
-- Keeps and publishes documents. KEYS: their keys. ARGV: for each, document and lifetime in seconds (0: no limit).
-- Returns why the server refused to publish, if it did.
-- A stored SUCCESS is never replaced, a stored FAILURE or REVOKED not by a RETRY. Every serializer writes the state at
-- the beginning of a document: "status": "SUCCESS" in JSON, the two words with a few bytes between them in pickle and
-- msgpack.
local function is(head, state)
  local _, last = string.find(head, 'status', 1, true)
  return last and string.find(string.sub(head, last + 1, last + 16), state, 1, true)
end
local function stays(head, document)
  if head == '' then
    return false
  end
  return is(head, 'SUCCESS')
    or ((is(head, 'FAILURE') or is(head, 'REVOKED')) and is(string.sub(document, 1, 64), 'RETRY'))
end
local refused
for index, key in ipairs(KEYS) do
  local document, lifetime = ARGV[2 * index - 1], tonumber(ARGV[2 * index])
  if not stays(redis.call('GETRANGE', key, 0, 63), document) then
    if lifetime > 0 then
      redis.call('SETEX', key, lifetime, document)
    else
      redis.call('SET', key, document)
    end
    local sent = redis.pcall('PUBLISH', key, document)
    if type(sent) == 'table' then
      refused = sent.err
    end
  end
end
return refused
""")


class RedisStoreOptions(RedisConnectionOptions, kw_only=True):
    """Options of the Redis result store."""

    global_keyprefix: Annotated[
        str, msgspec.Meta(description="Prefix of every key; unless it ends in one of : _ - . the store appends _.")
    ] = ""
    socket_connect_timeout: Annotated[Seconds | None, msgspec.Meta(description="Seconds to wait for a connection.")] = (
        5.0
    )
    result_chord_ordered: Annotated[
        bool,
        msgspec.Meta(
            description="Give a chord's body the results in the order of its header; false: in order of completion. "
            "All workers of a chord, Celery's included, need the same value."
        ),
    ] = True
    use_ssl: Annotated[
        bool | dict[str, Any], msgspec.Meta(description="TLS: true, or a table of ssl_ca_certs, ssl_certfile, ….")
    ] = False


class RedisStore(RedisChords):
    """The Redis result store. Any thread may call its methods, parent and child after a fork, too."""

    options_type: ClassVar[type[msgspec.Struct]] = RedisStoreOptions
    options_table: ClassVar[str] = "redis"
    traits = ResultStoreTraits(chords=True)

    def __init__(self, url: str, options: msgspec.Struct, context: ResultStoreContext) -> None:
        """Raises `ConfigError` when the URL is not a Redis URL."""
        super().__init__(url, options, context)
        own = options if isinstance(options, RedisStoreOptions) else RedisStoreOptions()
        prefix = own.global_keyprefix
        if prefix and prefix[-1] not in ":_-.":
            prefix += "_"
        self._prefix = prefix + _PREFIX
        self._addresses = parse(url)
        # In a cluster keys live on different nodes, and a command has keys of one node.
        self._group = 1 if self._addresses[0].cluster else _GROUP
        self._connection_settings = own.connection_settings(own.socket_connect_timeout, own.use_ssl or context.use_ssl)
        self._begin_chords(prefix, own.result_chord_ordered, tagged=self._addresses[0].cluster)
        check(self._addresses, own.master_name)
        self._expires = int(context.expires)
        self._connection = SharedRedisConnection(self._addresses, self._connection_settings)
        self._refusal_logged = False
        self._idle: list[RedisConnection] = []
        self._idle_lock = threading.Lock()
        self._idle_pid = os.getpid()

    @property
    def display_url(self) -> str:
        """The servers, without passwords."""
        return ";".join(address.display for address in self._addresses)

    # ------------------------------------------------------------ reading and writing

    def store(self, records: Sequence[Record]) -> None:
        """Keep and publish all of `records`. Raises `BackendError` if a document is too large."""
        for record in records:
            if len(record.document) > _LARGEST:
                raise BackendError(
                    f"the result of task {record.task_id} has {len(record.document)} bytes: "
                    f"Redis takes at most {_LARGEST}"
                )
        calls = []
        for start in range(0, len(records), self._group):
            group = records[start : start + self._group]
            args: list[bytes | int] = []
            for record in group:
                args.append(record.document)
                args.append(int(self.context.lifetime(record.state)))
            calls.append(ScriptCall(_STORE, [self._prefix + record.task_id for record in group], args))
        self._publish(calls)

    def _keep(self, keys: Sequence[str], args: Sequence[bytes | int]) -> None:
        self._publish([ScriptCall(_STORE, keys, args)])

    def _publish(self, calls: Sequence[ScriptCall]) -> None:
        for refused in self._run(calls):
            if refused is not None:
                self._log_refusal(f"{self.display_url} does not let this account publish results ({_text(refused)})")

    def fetch(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the documents that exist."""
        groups = [task_ids[start : start + self._group] for start in range(0, len(task_ids), self._group)]
        replies = self._run([("MGET", *(self._prefix + task_id for task_id in group)) for group in groups])
        return {
            task_id: document
            for group, documents in zip(groups, replies, strict=True)
            for task_id, document in zip(group, documents, strict=True)
            if document is not None
        }

    def forget(self, task_ids: Sequence[str]) -> None:
        """Drop the documents."""
        if task_ids:
            groups = [task_ids[start : start + self._group] for start in range(0, len(task_ids), self._group)]
            self._run([("DEL", *(self._prefix + task_id for task_id in group)) for group in groups])

    def _run(self, commands: Sequence[Any]) -> list[Any]:
        if not commands:
            return []
        try:
            with self._connection as connection:
                return connection.run(commands)
        except ServerError as error:
            if error.temporary:
                # The caller retries on ConnectionLost until the server accepts the results.
                raise ConnectionLost(str(error)) from error
            raise BackendError(str(error)) from error

    # ------------------------------------------------------------ waiting

    def wait(
        self,
        task_ids: Iterable[str],
        timeout: float | None,
        is_ready: Callable[[bytes], bool],
        on_interval: Callable[[], object] | None = None,
    ) -> Iterator[tuple[str, bytes]]:
        """Yield each document when it is ready."""
        deadline = None if timeout is None else monotonic() + timeout
        pending = dict.fromkeys(task_ids)
        yield from self._ready(pending, is_ready)
        if not pending:
            return
        connection = self._subscriber()
        finished = False
        try:
            channels = [self._prefix + task_id for task_id in pending]
            try:
                _subscribe(connection, "SUBSCRIBE", channels)
            except ServerError as error:
                connection.close()
                self._log_refusal(f"results cannot be listened for ({error})")
                yield from self._poll(pending, deadline, timeout, is_ready, on_interval)
                return
            # A result stored before the subscription is not published again.
            yield from self._ready(pending, is_ready)
            skip = len(self._prefix)
            read_again = monotonic() + _READ_AGAIN
            while pending:
                left = _left(deadline, timeout, pending)
                if monotonic() >= read_again:
                    read_again = monotonic() + _READ_AGAIN
                    yield from self._ready(pending, is_ready)
                    continue
                if not connection.wait(_INTERVAL if left is None else min(left, _INTERVAL)):
                    if on_interval is not None:
                        on_interval()
                    continue
                for message in connection.drain():
                    if message[0] != b"message":
                        continue
                    task_id = message[1].decode()[skip:]
                    if task_id in pending and is_ready(message[2]):
                        del pending[task_id]
                        yield task_id, message[2]
            finished = True
        except ResultTimeout:
            finished = True
            raise
        finally:
            # When the caller drops the generator early, the connection's state is unknown: do not reuse it.
            if finished and not connection.closed:
                self._release_subscriber(connection, channels)
            else:
                connection.close()

    def _poll(
        self,
        pending: dict[str, None],
        deadline: float | None,
        timeout: float | None,
        is_ready: Callable[[bytes], bool],
        on_interval: Callable[[], object] | None,
    ) -> Iterator[tuple[str, bytes]]:
        pauses = Backoff(_PAUSE, _INTERVAL)
        while True:
            yield from self._ready(pending, is_ready)
            if not pending:
                return
            left = _left(deadline, timeout, pending)
            pause = pauses.next()
            time.sleep(pause if left is None else min(pause, left))
            if on_interval is not None:
                on_interval()

    def _log_refusal(self, text: str) -> None:
        if not self._refusal_logged:
            self._refusal_logged = True
            user = self._addresses[0].username or "default"
            logger.warning(
                "%s: clients ask for results again and again instead, which is slower; to allow it: "
                "ACL SETUSER %s +subscribe +unsubscribe +publish &%s*",
                text,
                user,
                self._prefix,
            )

    def _ready(self, pending: dict[str, None], is_ready: Callable[[bytes], bool]) -> Iterator[tuple[str, bytes]]:
        for task_id, document in self.fetch(list(pending)).items():
            if is_ready(document):
                del pending[task_id]
                yield task_id, document

    def _subscriber(self) -> RedisConnection:
        if self._idle_pid != os.getpid():
            self._idle_lock = threading.Lock()
            self._idle = []
            self._idle_pid = os.getpid()
        while True:
            with self._idle_lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return RedisConnection(self._addresses, self._connection_settings)
            if not connection.stale():
                return connection
            connection.close()

    def _release_subscriber(self, connection: RedisConnection, channels: Sequence[str]) -> None:
        try:
            _subscribe(connection, "UNSUBSCRIBE", channels)
        except ConnectionLost:
            connection.close()
            return
        with self._idle_lock:
            self._idle.append(connection)

    def close(self) -> None:
        """Disconnect; harmless when closed."""
        self._connection.close()
        with self._idle_lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _subscribe(connection: RedisConnection, verb: str, channels: Sequence[str]) -> None:
    """Send `verb` for `channels` and wait until the server has confirmed every channel."""
    pack = packer()
    confirmed = verb.lower().encode()
    missing = len(channels)
    connection.send(
        b"".join(pack((verb, *channels[start : start + _GROUP])) for start in range(0, len(channels), _GROUP))
    )
    while missing:
        for reply in connection.read(1):
            if connection.is_error(reply):
                connection.raise_error(reply, ())  # `_log_refusal` says how to allow it
            missing -= reply[0] == confirmed


def _left(deadline: float | None, timeout: float | None, pending: dict[str, None]) -> float | None:
    """Return the seconds until `deadline`; None: no limit. Raises `TimeoutError` after it."""
    left = None if deadline is None else deadline - monotonic()
    if left is not None and left <= 0:
        raise ResultTimeout(f"{len(pending)} results did not arrive within {timeout:g} s")
    return left


def _text(reply: object) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
