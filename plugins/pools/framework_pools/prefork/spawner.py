"""The server for the start method `spawn`: `python -m framework_pools.prefork.spawner <descriptor>`.

It does what the fork server does, see `server`, but that it never has the application and never forks: its children are
fresh interpreters, which import the application themselves.

1. Before it says that it is ready, or that modules have been imported, a *spare* interpreter has done it: what cannot
   be imported is told as the fork server tells it, and harms no child.
2. The spare becomes the first child that is asked for afterwards; more interpreters are started as they are needed.
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
    """An interpreter that has been told what to load."""

    pid: int
    socket: socket.socket

    def answer(self) -> tuple[Any, ...]:
        """Wait for what it says about loading; empty: it has died."""
        reader = FrameReader()
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(CHUNK):
                for message in reader.feed(data):
                    return tuple(marshal.loads(message))
        return ()

    def become(self, spec: ChildSpec, fds: list[int]) -> None:
        """Let it be the child `spec`. Raises `OSError` if it is gone."""
        data = frame(marshal.dumps(tuple(spec), VERSION))
        sent = socket.send_fds(self.socket, [data], fds)
        self.socket.sendall(data[sent:])

    def end(self) -> None:
        """Have done with one that has not become a child."""
        self.socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class SpawnServer(Server):
    """Starts interpreters."""

    kind = "spawn"

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._spare: Spare | None = None

    def main(self) -> None:
        """Serve, and leave no spare behind."""
        try:
            super().main()
        finally:
            self._replace_spare(None)

    def prepare(self, title: str, recipe: Mapping[str, Any], imports: tuple[str, ...]) -> list[str]:
        """Have a spare import the application."""
        self._order = (title, dict(recipe))
        self._imports = imports
        return self._try(imports)

    def add_imports(self, names: tuple[str, ...]) -> list[str]:
        """Have a spare import `names` after the application and what was asked for earlier."""
        imports = tuple(dict.fromkeys((*self._imports, *names)))
        found = self._try(imports)
        self._imports = imports
        return found

    def _try(self, imports: tuple[str, ...]) -> list[str]:
        try:
            spare = self._spawn(imports)
        except OSError as error:
            raise LoadFailed(f"an interpreter cannot be started: {error.strerror or error}", "") from error
        kind, *rest = spare.answer() or ("failed", "the interpreter that was to import it has died", "")
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
        ours.sendall(frame(marshal.dumps((*self._order, imports), VERSION)))
        return spare

    def start(self, spec: ChildSpec, fds: list[int]) -> int:
        """Make the spare the child, or an interpreter that has yet to import."""
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
    """Run the server on the socket that the command line names."""
    SpawnServer(socket.socket(fileno=int(sys.argv[1]))).main()


if __name__ == "__main__":
    main()
