"""The server for the start method `spawn`: `python -m framework_pools.prefork.spawner <descriptor>`.

It answers the requests of the fork server, see `server`, but neither imports the application nor forks: its children
are fresh interpreters, which import the application themselves.

1. Tests every import in a *spare* interpreter, before it reports the import as done: a failing import is reported as by
   the fork server, and affects no child.
2. Turns the spare into the next requested child, and starts more interpreters as needed.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from framework_pools.prefork.bootstrap import LoadFailed
from framework_pools.prefork.child import ChildSpec
from framework_pools.prefork.framing import CHUNK, FrameReader, frame
from framework_pools.prefork.server import Server
from framework_pools.prefork.shared_memory import VERSION


class Spare(NamedTuple):
    """An interpreter that imports the application and waits for its child specification."""

    pid: int
    socket: socket.socket

    def wait_loaded(self) -> tuple[Any, ...]:
        """Wait for the message about its imports; empty: the interpreter has died."""
        reader = FrameReader()
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(CHUNK):
                for message in reader.feed(data):
                    return tuple(marshal.loads(message))
        return ()

    def become(self, spec: ChildSpec, fds: list[int]) -> None:
        """Turn the interpreter into the child `spec`. Raises `OSError` if it is gone."""
        data = frame(marshal.dumps(tuple(spec), VERSION))
        sent = socket.send_fds(self.socket, [data], fds)
        self.socket.sendall(data[sent:])

    def end(self) -> None:
        """Kill and reap an interpreter that has not become a child."""
        self.socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class SpawnServer(Server):
    """The server for `spawn`: starts an interpreter for each child."""

    kind = "spawn"

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._spare: Spare | None = None

    def main(self) -> None:
        """Serve, then end the spare."""
        try:
            super().main()
        finally:
            self._replace_spare(None)

    def prepare(self, title: str, recipe: Mapping[str, Any], imports: tuple[str, ...]) -> list[str]:
        """Have a spare import the application."""
        self._application = (title, dict(recipe))
        self._imports = imports
        return self._try_imports(imports)

    def add_imports(self, names: tuple[str, ...]) -> list[str]:
        """Have a new spare import the application, the earlier modules, and `names`."""
        imports = tuple(dict.fromkeys((*self._imports, *names)))
        found = self._try_imports(imports)
        self._imports = imports
        return found

    def _try_imports(self, imports: tuple[str, ...]) -> list[str]:
        try:
            spare = self._spawn(imports)
        except OSError as error:
            raise LoadFailed(f"an interpreter cannot be started: {error.strerror or error}", "") from error
        kind, *rest = spare.wait_loaded() or ("failed", "the interpreter died during the import", "")
        if kind == "failed":
            spare.end()
            raise LoadFailed(*rest)
        self._replace_spare(spare)
        return list(rest[0])

    def _replace_spare(self, spare: Spare | None) -> None:
        former, self._spare = self._spare, spare
        if former is not None:
            former.end()

    def _spawn(self, imports: tuple[str, ...]) -> Spare:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            command = [sys.executable, *flags, "-m", "framework_pools.prefork.spawn_child"]
            try:
                pid = os.posix_spawn(sys.executable, [*command, str(theirs.fileno()), str(os.getpid())], os.environ)
            except OSError:
                ours.close()
                raise
        spare = Spare(pid, ours)
        ours.sendall(frame(marshal.dumps((*self._application, imports), VERSION)))
        return spare

    def start(self, spec: ChildSpec, fds: list[int]) -> int:
        """Turn the spare, or a new interpreter, into the child `spec`; return its pid."""
        if (spare := self._spare) is not None:
            self._spare = None
            try:
                spare.become(spec, fds)
            except OSError:
                spare.end()
            else:
                spare.socket.close()
                return spare.pid
        fresh = self._spawn(self._imports)
        try:
            fresh.become(spec, fds)
        except OSError:
            fresh.end()
            raise
        fresh.socket.close()
        return fresh.pid


def main() -> None:
    """Run the server on the socket given on the command line."""
    SpawnServer(socket.socket(fileno=int(sys.argv[1]))).main()


if __name__ == "__main__":
    main()
