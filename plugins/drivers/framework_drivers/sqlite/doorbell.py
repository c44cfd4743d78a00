"""Wakes other processes that wait for a change in a shared file, without polling and without a server.

1. `Doorbell` is a datagram socket of a waiting process, in the directory ``<file>-wake`` beside the file, writable for
   all users of the file. Its descriptor turns readable when another process rings.
2. `Ringer` wakes the waiting processes after a commit: `ring` for given bells, `ring_all` for every armed one.
3. The socket of a dead process refuses a datagram, so `Ringer` also detects dead processes at once.

To lose no wake-up, the waiting side arms its bell, *then* reads the file, then sleeps; the changing side commits,
*then* reads the directory. A full receive buffer loses no wake-up, because its process is awake already.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from framework.exceptions import ConnectionLost

#: Name prefix of a bell that is bound but not armed.
_IDLE: Final = "idle"
#: The shortest limit of a socket's path among the supported systems, less its final zero byte.
_PATH_LIMIT: Final = 103
#: Tries to create the directory while other processes remove it at the same moment.
_BIND_TRIES: Final = 10
#: Seconds between a socket's creation and its binding, at most; until it is bound it refuses like a dead one.
_BIND_GRACE: Final = 10.0


def _directory(path: str) -> str:
    return os.path.realpath(path) + "-wake"


@contextmanager
def _address(directory: str, name: str) -> Iterator[str]:
    """Yield a path to `name` that is short enough for a socket."""
    path = f"{directory}/{name}"
    if len(os.fsencode(path)) <= _PATH_LIMIT:
        yield path
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def _datagram_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


class Doorbell:
    """A socket that wakes this process for changes of the file at `path`. Used by one thread.

    `kind` is a letter that `Ringer.ring_all` selects by. `token` identifies the bell for `Ringer.ring` and
    `Ringer.is_dead`. Raises `ConnectionLost` when no socket can be bound.
    """

    _socket: socket.socket | None = None

    def __init__(self, path: str, kind: str, *, armed: bool) -> None:
        self.kind = kind
        self.token = f"{os.getpid()}-{secrets.token_hex(4)}"
        # Bound under the idle name first, because a socket refuses like a dead one until it is bound.
        self.armed = False
        self._directory = _directory(path)
        self._path = path
        self._pid = os.getpid()
        try:
            self._socket = _datagram_socket()
            self._bind(self._socket)
            if armed:
                self.arm()
        except OSError as error:
            self.close()
            raise ConnectionLost(
                f"no socket can be created in {self._directory} ({error.strerror or error}): "
                f"keep {path} on a local disk, in a directory that this user may write"
            ) from error

    def _name(self, armed: bool) -> str:
        return f"{self.kind if armed else _IDLE}-{self.token}"

    def _bind(self, unbound: socket.socket) -> None:
        for left in reversed(range(_BIND_TRIES)):
            with suppress(FileExistsError):
                os.mkdir(self._directory)
            try:
                with _address(self._directory, self._name(self.armed)) as address:
                    unbound.bind(address)
                break
            except FileNotFoundError:
                # Another process's `close` has just removed the empty directory, or its parent does not exist.
                if not left:
                    raise
        # All users of the file may ring: a worker and an operator's command may run as different users.
        found = os.stat(self._path)
        own = f"{self._directory}/{self._name(self.armed)}"
        os.chmod(own, stat.S_IMODE(found.st_mode) & 0o666)
        if os.geteuid() == 0 and found.st_uid != 0:
            os.chown(own, found.st_uid, found.st_gid)
            os.chown(self._directory, found.st_uid, found.st_gid)

    def fileno(self) -> int:
        """Return the descriptor that turns readable when another process rings."""
        return -1 if self._socket is None else self._socket.fileno()

    def arm(self) -> None:
        """Accept wake-ups from now on. Check for changes after this call, not before."""
        self._rename(armed=True)

    def disarm(self) -> None:
        """Accept no wake-ups from now on; a few may still arrive."""
        self._rename(armed=False)

    def _rename(self, *, armed: bool) -> None:
        if armed == self.armed:
            return
        try:
            os.rename(f"{self._directory}/{self._name(self.armed)}", f"{self._directory}/{self._name(armed)}")
        except OSError as error:
            raise ConnectionLost(f"{self._directory} was removed while in use: {error.strerror}") from error
        self.armed = armed

    def drain(self) -> bool:
        """Clear received wake-ups; return whether there were any."""
        called = False
        try:
            while self._socket is not None:
                self._socket.recv(16)
                called = True
        except OSError:
            # The buffer is empty.
            return called
        return called

    def wait(self, timeout: float) -> None:
        """Sleep until another process rings, for at most `timeout` seconds."""
        bell = self._socket
        if bell is None:
            return
        bell.settimeout(timeout)
        try:
            bell.recv(16)
        except TimeoutError:
            return
        finally:
            bell.setblocking(False)

    def present(self) -> bool:
        """Return whether other processes can still find the bell."""
        return os.path.lexists(f"{self._directory}/{self._name(self.armed)}")

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Unbind; harmless when closed. A forked child leaves the parent's bell alone."""
        bell, self._socket = self._socket, None
        if bell is None:
            return
        bell.close()
        if self._pid == os.getpid():
            with suppress(OSError):
                os.unlink(f"{self._directory}/{self._name(self.armed)}")
            with suppress(OSError):
                os.rmdir(self._directory)


class Ringer:
    """Rings the bells of the file at `path`. Any thread may call. Raises `ConnectionLost` when out of descriptors."""

    _socket: socket.socket | None = None

    def __init__(self, path: str) -> None:
        self._directory = _directory(path)
        try:
            self._socket = _datagram_socket()
        except OSError as error:
            raise ConnectionLost(f"no socket can be created to wake the users of {path}: {error.strerror}") from error

    def ring(self, kind: str, tokens: Iterable[str]) -> list[str]:
        """Ring the bells with `tokens`; return the tokens of processes that are certainly dead."""
        return [token for token in tokens if not self._ring_one(f"{kind}-{token}")]

    def ring_all(self, kind: str) -> list[str]:
        """Ring every armed bell of `kind`; return the tokens of processes that are certainly dead."""
        try:
            names = os.listdir(self._directory)
        except OSError:
            return []
        prefix = f"{kind}-"
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix) and not self._ring_one(name)]

    def is_dead(self, kind: str, token: str) -> bool:
        """Return whether the bell's process is certainly dead, without waking it."""
        return any(self._refuses(name) for name in (f"{kind}-{token}", f"{_IDLE}-{token}"))

    def remove(self, kind: str, token: str) -> None:
        """Remove the bell of a dead process. Call it last: without the bell, the death can no longer be detected."""
        for name in (f"{kind}-{token}", f"{_IDLE}-{token}"):
            self._unlink(name)

    def sweep(self) -> None:
        """Remove the bells of all dead processes."""
        with suppress(OSError):
            for entry in os.scandir(self._directory):
                if time.time() - entry.stat().st_mtime > _BIND_GRACE and self._refuses(entry.name):
                    self._unlink(entry.name)

    def _refuses(self, name: str) -> bool:
        try:
            with _datagram_socket() as probe, _address(self._directory, name) as address:
                probe.connect(address)
        except ConnectionRefusedError:
            return True
        except OSError:
            # No such file, no permission, or no descriptor left: the process may be alive.
            return False
        return False

    def _ring_one(self, name: str) -> bool:
        """Send one byte; return False when the bell's process is certainly dead."""
        ringing = self._socket
        if ringing is None:
            return True
        try:
            with _address(self._directory, name) as address:
                ringing.sendto(b"\0", address)
        except ConnectionRefusedError:
            return False
        except OSError:
            # A full buffer means an awake process; without the file or the permission, the process may be alive.
            return True
        return True

    def _unlink(self, name: str) -> None:
        # Names are never reused, so this cannot be another process's bell.
        with suppress(OSError):
            os.unlink(f"{self._directory}/{name}")

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; harmless when closed."""
        ringing, self._socket = self._socket, None
        if ringing is not None:
            ringing.close()
