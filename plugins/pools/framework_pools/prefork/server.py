"""The fork server: `python -m framework_pools.prefork.server <descriptor> [<module> ...]`, started by the worker.

1. Imports the modules, then reads the recipe and the names of more modules, and builds the workload: this imports the
   application, once.
2. Freezes its objects for the garbage collector, so that no child's collector writes to the shared memory pages.
3. Forks a child for each request, which carries the child's descriptors, and reports the pid.
4. Imports more modules on request, for the children that it forks from then on.
5. Reports the exit of every child. Exits when, after a stop request, no child is left, or at once with the worker.

It has one thread, and reports threads that the application starts when it is imported. `spawner` replaces it for the
start method `spawn`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import marshal
import os
import select
import signal
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any, ClassVar, Final, Never

import setproctitle

from framework.api.pool import Workload
from framework_pools.prefork.bootstrap import (
    PASSED,
    LoadFailed,
    die_with_parent,
    import_modules,
    load_application,
    receive,
    run_child,
    run_process,
    threads,
)
from framework_pools.prefork.child import ChildSpec
from framework_pools.prefork.framing import FrameReader, frame
from framework_pools.prefork.shared_memory import VERSION

_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Server(ABC):
    """Base of the servers that start children: serves the worker's requests on a socket."""

    kind: ClassVar[str]

    def __init__(self, sock: socket.socket) -> None:
        sock.set_inheritable(False)  # programs that the application starts must not inherit it
        self._socket = sock
        self._reader = FrameReader()
        self._fds: list[int] = []
        self._pids: dict[int, int] = {}
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @abstractmethod
    def prepare(self, title: str, recipe: Mapping[str, Any], imports: tuple[str, ...]) -> list[str]:
        """Load the application; return the names of the threads that it starts. Raises `LoadFailed`."""

    @abstractmethod
    def add_imports(self, names: tuple[str, ...]) -> list[str]:
        """Import `names` for later children; return the names of new threads. Raises `LoadFailed`."""

    @abstractmethod
    def start(self, spec: ChildSpec, fds: list[int]) -> int:
        """Start a child and return its pid. Raises `OSError`."""

    def main(self) -> None:
        """Serve until the worker requests a stop, or is gone."""
        for signum in _IGNORED:
            signal.signal(signum, signal.SIG_IGN)
        # During the import nothing reads the socket; later its end shows that the worker is gone.
        die_with_parent(signal.SIGKILL)
        requests = self._receive()
        if not requests:
            return
        (title, recipe, imports), *requests = requests
        setproctitle.setproctitle(f"{title} [{self.kind} server]")
        try:
            found = self.prepare(title, recipe, imports)
        except LoadFailed as error:
            self._send("failed", error.text, error.trace)
            return
        die_with_parent(0)
        signal.signal(signal.SIGCHLD, _noop)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        try:
            self._send("ready", found)
            self._serve(requests)
        except (BrokenPipeError, ConnectionResetError):
            return  # children die with this process

    def _send(self, *message: Any) -> None:
        self._socket.sendall(frame(marshal.dumps(message, VERSION)))

    def _receive(self) -> list[tuple[Any, ...]]:
        """Return the next requests; empty: the worker is gone."""
        return [marshal.loads(data) for data in receive(self._socket, self._reader, self._fds)]

    # ------------------------------------------------------------ serving

    def _serve(self, requests: list[tuple[Any, ...]]) -> None:
        self._handle(requests)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while not (self._stopping and not self._pids):
            for fd, _event in poll.poll():
                if fd == self._wake_read:
                    self._reap()
                    continue
                requests = self._receive()
                if not requests:
                    return
                self._handle(requests)

    def _handle(self, requests: Iterable[tuple[Any, ...]]) -> None:
        for request in requests:
            if request[0] == "stop":
                self._stopping = True
            elif request[0] == "import":
                self._import(request[1])
            else:
                self._start(ChildSpec(*request[1]))

    def _import(self, names: tuple[str, ...]) -> None:
        # As in `main`: nothing reads the socket during the import.
        die_with_parent(signal.SIGKILL)
        try:
            found = self.add_imports(names)
        except LoadFailed as error:
            self._send("unimportable", error.text, error.trace)
        else:
            self._send("imported", found)
        finally:
            die_with_parent(0)

    def _start(self, spec: ChildSpec) -> None:
        fds, self._fds = self._fds[:PASSED], self._fds[PASSED:]
        try:
            pid = self.start(spec, fds)
        except OSError as error:
            self._send("refused", spec.number, f"{error.strerror or error}")
        else:
            self._pids[pid] = spec.number
            self._send("forked", spec.number, pid)
        for fd in fds:
            os.close(fd)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass
        # Only the pool's children: the application may wait for processes of its own.
        for pid in list(self._pids):
            with contextlib.suppress(ChildProcessError):
                reaped, status = os.waitpid(pid, os.WNOHANG)
                if reaped:
                    self._send("exited", self._pids.pop(pid), status)

    def close_in_fork(self) -> None:
        """Close the server's descriptors in a forked child."""
        signal.set_wakeup_fd(-1)
        # `_fds` holds descriptors for later children.
        for fd in (self._wake_read, self._wake_write, *self._fds):
            os.close(fd)
        self._socket.close()


class ForkServer(Server):
    """The server for `fork`: imports the application and forks the children."""

    kind = "fork"

    def prepare(self, title: str, recipe: Mapping[str, Any], imports: tuple[str, ...]) -> list[str]:
        """Import the application."""
        self._workload = load_application(recipe, imports)
        _freeze()
        return threads()

    def add_imports(self, names: tuple[str, ...]) -> list[str]:
        """Import `names`."""
        before = set(threading.enumerate())
        import_modules(names)
        _freeze()
        return threads(before)

    def start(self, spec: ChildSpec, fds: list[int]) -> int:
        """Fork a child; return its pid."""
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_child(self._workload, spec, fds, parent)
        return pid

    def _become_child(self, workload: Workload, spec: ChildSpec, fds: list[int], parent: int) -> Never:
        def main() -> int:
            self.close_in_fork()
            die_with_parent(signal.SIGKILL)
            if os.getppid() == parent:
                run_child(workload, spec, fds)
            return 0

        run_process(main)


def _freeze() -> None:
    gc.collect()
    gc.freeze()


def _noop(_signum: int, _frame: FrameType | None) -> None:
    # The wake-up descriptor is written only for signals that have a handler.
    pass


def main() -> None:
    """Run the server on the socket given on the command line."""
    server = ForkServer(socket.socket(fileno=int(sys.argv[1])))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    server.main()


if __name__ == "__main__":
    main()
