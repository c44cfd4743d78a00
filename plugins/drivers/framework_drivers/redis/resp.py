"""A connection to a server that speaks Redis' protocol: for plugins that count microseconds and megabytes.

1. `RedisConnection` is one connection: log in, send packed commands, read replies; it may speak RESP3 and then gets
   *pushes* too.
2. `packer` gives what encodes a command; `Script` is a Lua script, sent by its hash and in full when the server does
   not know it.
3. `RedisConnection.run` sends many commands in one round trip and returns their replies.
4. Every failure of the network, and a server that cannot serve just now, is `ConnectionLost` with the URL but no
   password.

A link belongs to one thread at a time; `framework_drivers.redis.shared_connection` has what threads share, and what
connects to a cluster. hiredis does the parsing. Source of the protocol: the RESP2 and RESP3 specifications of redis.io.
"""

from __future__ import annotations

import hashlib
import logging
import os
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from time import monotonic
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias, cast

import hiredis
import msgspec

from framework.exceptions import ConnectionLost, TransportError
from framework_drivers.redis.url import RedisAddress, tls_context

logger = logging.getLogger(__name__)

Argument: TypeAlias = str | bytes | int | float
Push: TypeAlias = Sequence[Any]
#: Encodes one command.
Packer: TypeAlias = Callable[[tuple[Argument, ...]], bytes]

#: Replies of a server that cannot serve now but may soon, or of which another one may.
_AWAY: Final = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS", "MOVED", "ASK")
#: Replies of a server that serves, but does not take a write.
_PASSING: Final = ("OOM", "MISCONF")
_CHUNK: Final = 1 << 16
#: Seconds until it is told again that a server is passed over.
_TELL_EVERY: Final = 300.0


class RedisConnectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to connect. Times in seconds; None waits for ever."""

    connect_timeout: float | None = 5.0
    #: How long a reply may take.
    timeout: float | None = 30.0
    keepalive: bool = True
    use_ssl: bool | Mapping[str, Any] | None = None
    #: What Sentinels call the server; and the user name, password and TLS to ask them with.
    master_name: str | None = None
    sentinel: Mapping[str, Any] | None = None
    #: Shown by ``CLIENT LIST``.
    name: str = "framework"


class ServerError(TransportError):
    """The server refused a command. `passing`: for now; it is full, or cannot write to its disk."""

    passing = False


class Script:
    """A Lua script. `text` is the source; its hash is what usually travels."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        # The protocol names scripts by their SHA-1; nothing here is a secret.
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class ScriptCall(NamedTuple):
    """One script call of `run`."""

    script: Script
    keys: Sequence[Argument]
    args: Sequence[Argument] = ()


Command: TypeAlias = ScriptCall | tuple[Argument, ...]


@lru_cache(maxsize=16)
def _tell(text: str, _when: int) -> None:
    """Log, once in a while, that a server was passed over: connections are many where it stays away."""
    logger.warning("%s; trying the next server", text)


def packer() -> Packer:
    """Return the function that encodes one command."""
    # Its stub takes a tuple of exactly one argument for what is one of any length.
    return cast("Packer", hiredis.pack_command)


class RedisConnection:
    """One connection to the first of `addresses` that answers. Raises `ConnectionLost` when none does.

    Where they are Sentinels, to the master that they name.
    With `on_push` the link asks for RESP3; `resp3` tells whether the server agreed.
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
        #: Replies on their way that nobody waits for.
        self._stray = 0
        self._refused = False
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
                _tell(str(error), int(monotonic() / _TELL_EVERY))
            else:
                return

    # ------------------------------------------------------------ connecting

    def _connect_to_master(self, addresses: Sequence[RedisAddress]) -> None:
        # A circle: it needs links itself.
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
                plain = socket.create_connection((address.host, address.port), self._settings.connect_timeout)
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
        logged_in = len(commands)
        commands.append(("CLIENT", "SETNAME", self._settings.name))
        # Names the account's problem at once, rather than with the first task.
        commands.append(("PING",))
        replies = self.exchange(b"".join(self._pack(command) for command in commands), len(commands))
        for reply in (*replies[:logged_in], replies[-1]):
            if isinstance(reply, hiredis.ReplyError):
                self._refuse_login(reply)

    def _refuse_login(self, reply: object) -> NoReturn:
        text = str(reply)
        if text.startswith(("WRONGPASS", "NOAUTH", "ERR invalid password", "ERR Client sent AUTH", "ERR AUTH")):
            raise ConnectionLost(
                f"{self.address.display} refused the login ({text.split(' ', 1)[0]}): check the URL's user and password"
            )
        raise ConnectionLost(f"{self.address.display} refused the connection: {text}")

    # ------------------------------------------------------------ talking

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 when closed."""
        return self._socket.fileno()

    def exchange(self, data: bytes, count: int) -> list[Any]:
        """Send `data`, which holds `count` commands, and return their replies; errors are among them, not raised."""
        self.send(data)
        return self.read(count)

    def send(self, data: bytes) -> None:
        """Send packed commands without reading anything."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            self._lose(error)

    def watch_keys(self) -> bool:
        """Have the server push ``invalidate`` when others change a key that was read here; return whether it can."""
        if not self.resp3:
            return False
        return not self.is_error(self.exchange(self._pack(("CLIENT", "TRACKING", "ON", "NOLOOP")), 1)[0])

    def ring(self) -> None:
        """Have the descriptor turn readable soon, by asking the server for something that nobody waits for."""
        self._stray += 1
        self.send(self._pack(("PING",)))

    def tell(self, commands: Sequence[Command]) -> None:
        """Send `commands` and let their replies come when they do: nobody reads them, errors included."""
        self._stray += len(commands)
        self.send(b"".join([self._pack(_plain(command)) for command in commands]))

    @property
    def unanswered(self) -> int:
        """How many replies are still to come that nobody waits for."""
        return self._stray

    def read(self, count: int) -> list[Any]:
        """Return the next `count` replies; pushes on the way, and all that came with them, go to `on_push`."""
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
                elif self._stray:
                    self._skip(reply)
                else:
                    replies.append(reply)
        except OSError as error:
            self._lose(error)
        except hiredis.ProtocolError as error:
            self._lose(error)

    def drain(self) -> list[Any]:
        """Take what has arrived, without waiting; returns replies that were not strays (RESP2's messages)."""
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
            self._lose(closed)
        self._socket.settimeout(self._settings.timeout)
        while (reply := reader.gets()) is not _MORE:
            if type(reply) is self._push_type:
                self._push(reply)
            elif self._stray:
                self._skip(reply)
            else:
                replies.append(reply)
        return replies

    def _skip(self, reply: Any) -> None:
        self._stray -= 1
        if self.is_error(reply) and not self._refused:
            # Once a connection: what is refused now is refused every time.
            self._refused = True
            logger.warning("%s refused a command: %s", self.address.display, reply)

    def wait(self, timeout: float | None) -> bool:
        """Wait until something arrives, for at most `timeout` seconds; return whether something has."""
        pending = getattr(self._socket, "pending", None)
        if pending is not None and pending():
            return True
        try:
            poll = getattr(select, "poll", None)
            if poll is None:
                # eventlet takes poll away and makes select co-operative.
                return bool(select.select([self._socket], [], [], timeout)[0])
            poller = poll()
            poller.register(self._socket, select.POLLIN)
            return bool(poller.poll(None if timeout is None else max(0.0, timeout) * 1000))
        except (OSError, ValueError) as error:
            self._lose(error)

    def _push(self, push: Push) -> None:
        if self._on_push is not None:
            self._on_push(push)

    def _lose(self, error: BaseException) -> NoReturn:
        self.close()
        if isinstance(error, TimeoutError):
            text = f"no answer within {self._settings.timeout:g} s" if self._settings.timeout else "no answer"
        else:
            text = str(getattr(error, "strerror", None) or error)
        raise ConnectionLost(f"the connection to {self.address.display} was lost: {text}") from error

    @property
    def closed(self) -> bool:
        """Whether the link was closed or lost."""
        return self._socket.fileno() == -1

    def stale(self) -> bool:
        """Whether the server has hung up on a link that should be silent. Cheap; sends nothing."""
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
        """Close the socket; harmless when closed. Says nothing to the server: after a fork it may be the parent's."""
        self._socket.close()

    # ------------------------------------------------------------ commands

    def call(self, *arguments: Argument) -> Any:
        """Run one command and return its reply. Raises `ServerError`, `ConnectionLost`."""
        return self.run([arguments])[0]

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Run `commands` in one round trip and return their replies.

        A script that the server does not know is sent again in full, after the others. Raises `ServerError` for the
        first command that was refused; all the others were run.
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
                self.refuse(reply)
        return replies

    def load(self, scripts: Sequence[Script]) -> None:
        """Teach the server `scripts`, so that a call among other commands runs in its turn and not after them."""
        self.run([("SCRIPT", "LOAD", script.text) for script in scripts])

    def refuse(self, reply: object) -> NoReturn:
        """Raise what an error reply means."""
        text = str(reply)
        if text.startswith(_AWAY):
            self.close()
            raise ConnectionLost(f"{self.address.display} cannot serve now: {text}")
        refused = ServerError(f"{self.address.display} refused a command: {text}")
        refused.passing = text.startswith(_PASSING)
        raise refused

    def is_error(self, reply: object) -> bool:
        """Whether `reply` is an error of the server."""
        return isinstance(reply, hiredis.ReplyError)


def _plain(command: Command) -> tuple[Argument, ...]:
    if isinstance(command, ScriptCall):
        return ("EVALSHA", command.script.sha, len(command.keys), *command.keys, *command.args)
    return command


class _More:
    """The parser's answer when it needs more bytes: a null reply is a value of its own."""


_MORE: Final = _More()
