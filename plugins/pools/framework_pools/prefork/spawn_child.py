"""A child that is not a fork: `python -m framework_pools.prefork.spawn_child <descriptor> <parent>`; see `spawner`.

1. Reads the recipe, loads the application, and reports success or the error.
2. Waits for its child specification and runs as that child.
"""

from __future__ import annotations

import contextlib
import gc
import marshal
import os
import signal
import socket
import sys
from typing import Any

import setproctitle

from framework_pools.prefork.bootstrap import (
    PASSED,
    LoadFailed,
    die_with_parent,
    load_application,
    receive,
    run_child,
    run_process,
    threads,
)
from framework_pools.prefork.child import ChildSpec
from framework_pools.prefork.framing import FrameReader, frame
from framework_pools.prefork.shared_memory import VERSION


class Spawned:
    """An interpreter that becomes a child."""

    def __init__(self, sock: socket.socket) -> None:
        sock.set_inheritable(False)  # programs started by tasks must not inherit it
        self._socket = sock
        self._reader = FrameReader()
        self._fds: list[int] = []
        self._frames: list[bytes] = []

    def main(self) -> int:
        """Load the application and run as a child; return the exit code."""
        request = self._next()
        if request is None:
            return 0
        title, recipe, imports = request
        setproctitle.setproctitle(f"{title} [spare]")
        try:
            workload = load_application(recipe, imports)
        except LoadFailed as error:
            if not self._send("failed", error.text, error.trace):
                # The server has closed the socket: it already counts this process as a child.
                sys.stderr.write(error.trace or f"{error.text}\n")
            return 1
        self._send("loaded", threads())
        gc.collect()
        gc.freeze()
        spec = self._next()
        if spec is None:
            return 0
        self._socket.close()
        run_child(workload, ChildSpec(*spec), self._fds[:PASSED])
        return 0

    def _next(self) -> tuple[Any, ...] | None:
        """Return the next message; None: the server has closed the socket."""
        if not self._frames:
            self._frames = receive(self._socket, self._reader, self._fds)
        return marshal.loads(self._frames.pop(0)) if self._frames else None

    def _send(self, *message: Any) -> bool:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(frame(marshal.dumps(message, VERSION)))
            return True
        return False


def main() -> None:
    """Run on the socket given on the command line, if the given parent is still alive."""
    run_process(_run)


def _run() -> int:
    die_with_parent(signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):
        return 1
    return Spawned(socket.socket(fileno=int(sys.argv[1]))).main()


if __name__ == "__main__":
    main()
