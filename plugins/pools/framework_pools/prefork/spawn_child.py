"""A child that is not a fork: `python -m framework_pools.prefork.spawn_child <descriptor> <parent>`; see `spawner`.

1. Reads what to load, loads it, and says how that went.
2. Waits to be told which child it is, and is that child.
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
    live,
    load_application,
    receive,
    run_child,
    threads,
)
from framework_pools.prefork.child import ChildSpec
from framework_pools.prefork.framing import FrameReader, frame
from framework_pools.prefork.shared_memory import VERSION


class Spawned:
    """An interpreter that is to become a child."""

    def __init__(self, sock: socket.socket) -> None:
        sock.set_inheritable(False)  # the server has passed it on, we do not
        self._socket = sock
        self._reader = FrameReader()
        self._fds: list[int] = []
        self._frames: list[bytes] = []

    def main(self) -> int:
        """Return the exit code."""
        order = self._next()
        if order is None:
            return 0
        title, recipe, imports = order
        setproctitle.setproctitle(f"{title} [spare]")
        try:
            workload = load_application(recipe, imports)
        except LoadFailed as error:
            if not self._tell("failed", error.text, error.trace):
                # Nobody waits for the answer: it is a child already.
                sys.stderr.write(error.trace or f"{error.text}\n")
            return 1
        self._tell("loaded", threads())
        gc.collect()
        gc.freeze()
        spec = self._next()
        if spec is None:
            return 0
        self._socket.close()
        run_child(workload, ChildSpec(*spec), self._fds[:PASSED])
        return 0

    def _next(self) -> tuple[Any, ...] | None:
        """Return the next message; None: the server has no use for this process."""
        if not self._frames:
            self._frames = receive(self._socket, self._reader, self._fds)
        return marshal.loads(self._frames.pop(0)) if self._frames else None

    def _tell(self, *message: Any) -> bool:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(frame(marshal.dumps(message, VERSION)))
            return True
        return False


def main() -> None:
    """Be what the command line says."""
    live(_life)


def _life() -> int:
    die_with_parent(signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):
        return 1
    return Spawned(socket.socket(fileno=int(sys.argv[1]))).main()


if __name__ == "__main__":
    main()
