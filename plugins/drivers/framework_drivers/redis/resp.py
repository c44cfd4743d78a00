"""A Redis connection: RESP over a socket, with little overhead in time and memory.

1. `RedisConnection` logs in, sends packed commands, and reads replies; with RESP3 it also receives *pushes*.
2. `packer` returns the encoder of commands; `Script` is a Lua script, sent by its hash, or in full when the server does
   not have it.
3. `RedisConnection.run` sends many commands in one round trip and returns their replies.
4. Raises `ConnectionLost` for every network failure, and for a server that is unavailable for the moment. The text has
   the URL, without its password.

A connection belongs to one thread at a time; `framework_drivers.redis.shared_connection` shares one between threads,
and connects to clusters. hiredis parses replies. Source of the protocol: the RESP2 and RESP3 specifications.
"""

from __future__ import annotations

import hashlib
import logging
import os
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from time import monotonic
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias, cast

import hiredis
import msgspec

from framework.exceptions import ConnectionLost, TransportError
from framework_drivers.redis.acl import DENIED, remedy
from framework_drivers.redis.url import RedisAddress, tls_context

logger = logging.getLogger(__name__)

Argument: TypeAlias = str | bytes | int | float
Push: TypeAlias = Sequence[Any]
#: Encodes one command.
Packer: TypeAlias = Callable[[tuple[Argument, ...]], bytes]

#: Error replies of a server that is unavailable for the moment, or that another server replaces.
_DOWN: Final = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS", "MOVED", "ASK")
#: Error replies of a server that refuses writes for the moment.
_TEMPORARY: Final = ("OOM", "MISCONF")
#: Error replies to a login that do not change by themselves: rights that the account lacks, a database that is none.
_FOR_GOOD: Final = (DENIED, "ERR DB index is out of range", "ERR invalid DB index", "ERR SELECT is not allowed")
#: Precedes the reason when the last command of a transaction is refused.
_ABORTED: Final = "EXECABORT Transaction discarded because of: "
_CHUNK: Final = 1 << 16
#: Has the server watch the keys of the next command: see `RedisConnection.watch_keys`.
WATCH_NEXT: Final = ("CLIENT", "CACHING", "YES")
#: Seconds between two warnings that a server was skipped.
_LOG_INTERVAL: Final = 300.0


class RedisConnectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a connection. Times are in seconds; None waits for ever."""

    connect_timeout: float | None = 5.0
    #: The longest wait for a reply.
    timeout: float | None = 30.0
    keepalive: bool = True
    use_ssl: bool | Mapping[str, Any] | None = None
    #: The server's name at the Sentinels; and the user name, password and TLS for the Sentinels themselves.
    master_name: str | None = None
    sentinel: Mapping[str, Any] | None = None
    #: Shown by ``CLIENT LIST``.
    name: str = "framework"


class ServerError(TransportError):
    """The server refused a command. `temporary`: it refuses writes while it is full or cannot write to its disk."""


class Script:
    """A Lua script: its source `text`, and the hash `sha` to call it by."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        # The protocol identifies scripts by SHA-1; it protects no secret here.
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class ScriptCall(NamedTuple):
    """One script call of `run`."""

    script: Script
    keys: Sequence[Argument]
    args: Sequence[Argument] = ()


Command: TypeAlias = ScriptCall | tuple[Argument, ...]


@lru_cache(maxsize=16)
def _log_skipped(text: str, _when: int) -> None:
    """Log that a server was skipped, once in `_LOG_INTERVAL`: many connections may be made while it is down."""
    logger.warning("%s; trying the next server", text)


def packer() -> Packer:
    """Return the function that encodes one command."""
    # hiredis' stub wrongly declares a tuple of exactly one argument.
    return cast("Packer", hiredis.pack_command)


class RedisConnection:
    """One connection to the first of `addresses` that answers. Raises `ConnectionLost` when none does.

    If `addresses` are Sentinels, it connects to the master that they return.
    With `on_push` it requests RESP3; `resp3` is True if the server supports it.
    """

    def __init__(
        self,
        addresses: Sequence[RedisAddress],
        settings: RedisConnectionSettings,
        on_push: Callable[[Push], object] | None = None,
    ) -> None:
        self._pack = packer()
        self._push_type = hiredis.PushNotification
        self._on_push = on_push
        self._settings = settings
        #: Outstanding replies to ignore.
        self._ignored = 0
        #: How many of them have come.
        self.answered = 0
        self._error_logged = False
        self.resp3 = False
        self.pid = os.getpid()
        self._socket: socket.socket
        if addresses[0].sentinel:
            self._connect_to_master(addresses)
            return
        for address in addresses:
            self.address = address
            try:
                self._connect(address)
            except ConnectionLost as error:
                if address is addresses[-1]:
                    raise
                _log_skipped(str(error), int(monotonic() / _LOG_INTERVAL))
            else:
                return

    # ------------------------------------------------------------ connecting

    def _connect_to_master(self, addresses: Sequence[RedisAddress]) -> None:
        # Imported here to avoid an import cycle.
        from framework_drivers.redis.sentinel import locate, must_be_master

        self.address = locate(addresses, self._settings)
        self._connect(self.address)
        must_be_master(self)

    def _connect(self, address: RedisAddress) -> None:
        context = tls_context(address, self._settings.use_ssl)
        try:
            if address.path is not None:
                plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                plain.settimeout(self._settings.connect_timeout)
                try:
                    plain.connect(address.path)
                except OSError:
                    plain.close()
                    raise
            else:
                # As bytes: for text the codec of international names is loaded, half a megabyte in each process.
                host: Any = address.host.encode() if address.host.isascii() else address.host
                plain = socket.create_connection((host, address.port), self._settings.connect_timeout)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._settings.keepalive:
                    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket = plain
            if context is not None:
                self._socket = context.wrap_socket(plain, server_hostname=address.host)
        except OSError as error:
            raise ConnectionLost(f"{address.display} cannot be reached: {error.strerror or error}") from error
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        try:
            self._log_in(address)
        except TransportError:
            self.close()
            raise
        self._socket.settimeout(self._settings.timeout)

    def _log_in(self, address: RedisAddress) -> None:
        login = (address.username or "default", address.password or "")
        commands: list[tuple[Argument, ...]] = []
        if self._on_push is not None:
            hello = ("HELLO", "3", *(("AUTH", *login) if address.password else ()))
            reply = self.exchange(self._pack(hello), 1)[0]
            self.resp3 = not isinstance(reply, hiredis.ReplyError)
            if not self.resp3 and str(reply).startswith(("WRONGPASS", "NOAUTH")):
                self._refuse_login(reply)
        if address.password and not self.resp3:
            commands.append(("AUTH", *login) if address.username else ("AUTH", address.password))
        if address.db:
            commands.append(("SELECT", str(address.db)))
        commands.append(("CLIENT", "SETNAME", self._settings.name))
        # Reveals a problem with the account here, rather than with the first task.
        commands.append(("PING",))
        replies = self.exchange(b"".join(self._pack(command) for command in commands), len(commands))
        for command, reply in zip(commands, replies, strict=True):
            # The connection's name is for people: an account may do without the right to set it.
            if command[0] != "CLIENT" and isinstance(reply, hiredis.ReplyError):
                self._refuse_login(reply, command)

    def _refuse_login(self, reply: object, command: Command = ()) -> NoReturn:
        text = str(reply)
        if text.startswith(_FOR_GOOD):
            self.raise_error(reply, command)
        if text.startswith(("WRONGPASS", "NOAUTH", "ERR invalid password", "ERR Client sent AUTH", "ERR AUTH")):
            raise ConnectionLost(
                f"{self.address.display} refused the login ({text.split(' ', 1)[0]}): check the URL's user and password"
            )
        raise ConnectionLost(f"{self.address.display} refused the connection: {text}")

    # ------------------------------------------------------------ sending and reading

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 when closed."""
        return self._socket.fileno()

    def exchange(self, data: bytes, count: int) -> list[Any]:
        """Send `data`, which holds `count` commands, and return their replies; error replies are not raised."""
        self.send(data)
        return self.read(count)

    def send(self, data: bytes) -> None:
        """Send packed commands without reading anything."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            self._raise_lost(error)

    def watch_keys(self) -> bool:
        """Have the server push ``invalidate`` when others change a key that the command after `WATCH_NEXT` reads.

        Returns False if it cannot. The server watches nothing else, because for each read inside a script it would
        note all keys of the script.
        """
        if not self.resp3:
            return False
        tracking = ("CLIENT", "TRACKING", "ON", "OPTIN", "NOLOOP")
        replies = self.exchange(self._pack(tracking) + self._pack(WATCH_NEXT), 2)
        if str(replies[0]).startswith(DENIED):
            _say_that_it_polls(self.address.display, self._remedy(str(replies[0]), tracking))
        return not any(self.is_error(reply) for reply in replies)

    def wake(self) -> None:
        """Make the descriptor readable soon, by a PING whose reply is ignored."""
        self._ignored += 1
        self.send(self._pack(("PING",)))

    def send_unchecked(self, commands: Sequence[Command]) -> None:
        """Send `commands` and ignore their replies; log the first error."""
        self._ignored += len(commands)
        self.send(b"".join([self._pack(_plain(command)) for command in commands]))

    @property
    def unanswered(self) -> int:
        """The number of outstanding replies to ignore."""
        return self._ignored

    def read(self, count: int) -> list[Any]:
        """Return the next `count` replies; pass pushes received with them to `on_push`."""
        replies: list[Any] = []
        reader = self._reader
        try:
            while True:
                reply = reader.gets()
                if reply is _MORE:
                    if len(replies) >= count:
                        return replies
                    data = self._socket.recv(_CHUNK)
                    if not data:
                        raise ConnectionResetError("the server closed the connection")
                    reader.feed(data)
                elif type(reply) is self._push_type:
                    self._push(reply)
                elif self._ignored:
                    self._skip(reply)
                else:
                    replies.append(reply)
        except OSError as error:
            self._raise_lost(error)
        except hiredis.ProtocolError as error:
            self._raise_lost(error)

    def drain(self) -> list[Any]:
        """Read all received data, without waiting; return replies other than ignored ones (RESP2's messages)."""
        replies: list[Any] = []
        reader = self._reader
        closed: BaseException | None = None
        try:
            self._socket.settimeout(0)
            while True:
                data = self._socket.recv(_CHUNK)
                if not data:
                    closed = ConnectionResetError("the server closed the connection")
                    break
                reader.feed(data)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            if type(error).__name__ not in ("SSLWantReadError", "SSLWantWriteError"):
                closed = error
        if closed is not None:
            self._raise_lost(closed)
        self._socket.settimeout(self._settings.timeout)
        while (reply := reader.gets()) is not _MORE:
            if type(reply) is self._push_type:
                self._push(reply)
            elif self._ignored:
                self._skip(reply)
            else:
                replies.append(reply)
        return replies

    def _skip(self, reply: Any) -> None:
        self._ignored -= 1
        self.answered += 1
        if self.is_error(reply) and not self._error_logged:
            # Logged once a connection, because the server refuses the command every time.
            self._error_logged = True
            logger.warning("%s refused a command: %s", self.address.display, reply)

    def wait(self, timeout: float | None) -> bool:
        """Wait for data, for at most `timeout` seconds; return whether data has arrived."""
        pending = getattr(self._socket, "pending", None)
        if pending is not None and pending():
            return True
        try:
            poll = getattr(select, "poll", None)
            if poll is None:
                # eventlet removes `poll` and makes `select` cooperative.
                return bool(select.select([self._socket], [], [], timeout)[0])
            poller = poll()
            poller.register(self._socket, select.POLLIN)
            return bool(poller.poll(None if timeout is None else max(0.0, timeout) * 1000))
        except (OSError, ValueError) as error:
            self._raise_lost(error)

    def _push(self, push: Push) -> None:
        if self._on_push is not None:
            self._on_push(push)

    def _raise_lost(self, error: BaseException) -> NoReturn:
        self.close()
        if isinstance(error, TimeoutError):
            text = f"no answer within {self._settings.timeout:g} s" if self._settings.timeout else "no answer"
        else:
            text = str(getattr(error, "strerror", None) or error)
        raise ConnectionLost(f"the connection to {self.address.display} was lost: {text}") from error

    @property
    def closed(self) -> bool:
        """Whether the connection was closed or lost."""
        return self._socket.fileno() == -1

    def stale(self) -> bool:
        """Whether the server has closed an idle connection. Cheap; sends nothing."""
        if self.closed:
            return True
        if not self.wait(0):
            return False
        try:
            self.drain()
        except ConnectionLost:
            return True
        return False

    def close(self) -> None:
        """Close the socket; harmless when closed. Sends nothing: after a fork the parent may use the socket."""
        self._socket.close()

    # ------------------------------------------------------------ commands

    def call(self, *arguments: Argument) -> Any:
        """Run one command and return its reply. Raises `ServerError`, `ConnectionLost`."""
        return self.run([arguments])[0]

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Run `commands` in one round trip and return their replies.

        A script that the server does not have is sent again in full, after the other commands. Raises `ServerError` for
        the first refused command; the others have run.
        """
        pack = self._pack
        replies = self.exchange(b"".join([pack(_plain(command)) for command in commands]), len(commands))
        for index, reply in enumerate(replies):
            if isinstance(reply, hiredis.ReplyError):
                command = commands[index]
                if isinstance(command, ScriptCall) and str(reply).startswith("NOSCRIPT"):
                    again = ("EVAL", command.script.text, len(command.keys), *command.keys, *command.args)
                    reply = self.exchange(pack(again), 1)[0]
                    if not isinstance(reply, hiredis.ReplyError):
                        replies[index] = reply
                        continue
                self.raise_error(reply, command)
        return replies

    def load(self, scripts: Sequence[Script]) -> None:
        """Load `scripts` into the server, so that script calls run in the order of their commands, not after them."""
        self.run([("SCRIPT", "LOAD", script.text) for script in scripts])

    def raise_error(self, reply: object, command: Command) -> NoReturn:
        """Raise the exception for an error reply to `command`. Raises `ServerError`, `ConnectionLost`.

        With an empty `command` the text does not say how to allow it.
        """
        text = str(reply).removeprefix(_ABORTED)
        if text.startswith(_DOWN):
            self.close()
            raise ConnectionLost(f"{self.address.display} is unavailable at present: {text}")
        if command and text.startswith(DENIED):
            text += self._remedy(text, command)
        refused = ServerError(f"{self.address.display} refused a command: {text}")
        refused.temporary = text.startswith(_TEMPORARY)
        raise refused

    def _remedy(self, reply: str, command: Command) -> str:
        return remedy(reply, _plain(command), self.address.username or "default")

    def is_error(self, reply: object) -> bool:
        """Whether `reply` is an error reply."""
        return isinstance(reply, hiredis.ReplyError)


@cache
def _say_that_it_polls(server: str, allow: str) -> None:
    """Log it once for each server, account and command."""
    logger.warning(
        "%s does not let this account watch keys: it is asked again and again instead%s +client|caching", server, allow
    )


def _plain(command: Command) -> tuple[Argument, ...]:
    if isinstance(command, ScriptCall):
        return ("EVALSHA", command.script.sha, len(command.keys), *command.keys, *command.args)
    return command


class _More:
    """The parser's result when it needs more bytes; None is a null reply."""


_MORE: Final = _More()
