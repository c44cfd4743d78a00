"""The fork server: `python -m framework_pools.prefork.server <descriptor> [<module> ...]`, started by the worker.

1. Imports the modules, then reads one frame, the recipe and what to import besides, and builds the workload: this
   imports the application, once.
2. Freezes what it has, so that the garbage collector of no child writes to memory that all share.
3. Forks a child for each request, which comes with the child's descriptors, and reports its pid.
4. Imports more modules when asked to; the children that it forks from then on have them.
5. Reports every child's end. Exits when it was told to stop and has no child left, or at once when the worker is gone.

It has one thread, unless the application starts more while it is imported; then it says so. `spawner` serves in its
place where children are not to be forks.
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
    live,
    load_application,
    receive,
    run_child,
    threads,
)
from framework_pools.prefork.child import ChildSpec
from framework_pools.prefork.framing import FrameReader, frame
from framework_pools.prefork.shared_memory import VERSION

_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Server(ABC):
    """The server's end of the worker's socket."""

    kind: ClassVar[str]

    def __init__(self, sock: socket.socket) -> None:
        sock.set_inheritable(False)  # the worker has passed it on, we do not
        self._socket = sock
        self._reader = FrameReader()
        self._fds: list[int] = []
        self._pids: dict[int, int] = {}
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @abstractmethod
    def prepare(self, title: str, recipe: Mapping[str, Any], imports: tuple[str, ...]) -> list[str]:
        """Get ready to start children; return the threads that the application starts. Raises `LoadFailed`."""

    @abstractmethod
    def add_imports(self, names: tuple[str, ...]) -> list[str]:
        """Have later children import `names` as well; return the threads these start. Raises `LoadFailed`."""

    @abstractmethod
    def start(self, spec: ChildSpec, fds: list[int]) -> int:
        """Start a child and return its pid. Raises `OSError`."""

    def main(self) -> None:
        """Serve until the worker says stop, or is gone."""
        for signum in _IGNORED:
            signal.signal(signum, signal.SIG_IGN)
        # While the application is imported nobody reads the socket; afterwards its end is enough to go by.
        die_with_parent(signal.SIGKILL)
        requests = self._receive()
        if not requests:
            return
        (title, recipe, imports), *requests = requests
        setproctitle.setproctitle(f"{title} [{self.kind} server]")
        try:
            found = self.prepare(title, recipe, imports)
        except LoadFailed as error:
            self._tell("failed", error.text, error.trace)
            return
        die_with_parent(0)
        signal.signal(signal.SIGCHLD, _noop)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        try:
            self._tell("ready", found)
            self._serve(requests)
        except (BrokenPipeError, ConnectionResetError):
            return  # children die with this process

    def _tell(self, *message: Any) -> None:
        self._socket.sendall(frame(marshal.dumps(message, VERSION)))

    def _receive(self) -> list[tuple[Any, ...]]:
        """Return the next requests; none: the worker is gone."""
        return [marshal.loads(data) for data in receive(self._socket, self._reader, self._fds)]

    # ------------------------------------------------------------ serving

    def _serve(self, requests: list[tuple[Any, ...]]) -> None:
        self._obey(requests)
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
                self._obey(requests)

    def _obey(self, requests: Iterable[tuple[Any, ...]]) -> None:
        for request in requests:
            if request[0] == "stop":
                self._stopping = True
            elif request[0] == "import":
                self._import(request[1])
            else:
                self._start(ChildSpec(*request[1]))

    def _import(self, names: tuple[str, ...]) -> None:
        # As at the start: nobody reads the socket meanwhile.
        die_with_parent(signal.SIGKILL)
        try:
            found = self.add_imports(names)
        except LoadFailed as error:
            self._tell("unimportable", error.text, error.trace)
        else:
            self._tell("imported", found)
        finally:
            die_with_parent(0)

    def _start(self, spec: ChildSpec) -> None:
        fds, self._fds = self._fds[:PASSED], self._fds[PASSED:]
        try:
            pid = self.start(spec, fds)
        except OSError as error:
            self._tell("refused", spec.number, f"{error.strerror or error}")
        else:
            self._pids[pid] = spec.number
            self._tell("forked", spec.number, pid)
        for fd in fds:
            os.close(fd)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass
        # Only our own: what the application started while it was imported is not ours to wait for.
        for pid in list(self._pids):
            with contextlib.suppress(ChildProcessError):
                reaped, status = os.waitpid(pid, os.WNOHANG)
                if reaped:
                    self._tell("exited", self._pids.pop(pid), status)

    def let_go(self) -> None:
        """Close what is the server's, in a fork of it."""
        signal.set_wakeup_fd(-1)
        # Also the descriptors of children that come after this one.
        for fd in (self._wake_read, self._wake_write, *self._fds):
            os.close(fd)
        self._socket.close()


class ForkServer(Server):
    """Has the application and forks it."""

    kind = "fork"

    def prepare(self, title: str, recipe: Mapping[str, Any], imports: tuple[str, ...]) -> list[str]:
        """Import the application."""
        self._workload = load_application(recipe, imports)
        _freeze()
        return threads()

    def add_imports(self, names: tuple[str, ...]) -> list[str]:
        """Import `names`, too."""
        before = set(threading.enumerate())
        import_modules(names)
        _freeze()
        return threads(before)

    def start(self, spec: ChildSpec, fds: list[int]) -> int:
        """Fork."""
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_child(self._workload, spec, fds, parent)
        return pid

    def _become_child(self, workload: Workload, spec: ChildSpec, fds: list[int], parent: int) -> Never:
        def life() -> int:
            self.let_go()
            die_with_parent(signal.SIGKILL)
            if os.getppid() == parent:
                run_child(workload, spec, fds)
            return 0

        live(life)


def _freeze() -> None:
    gc.collect()
    gc.freeze()


def _noop(_signum: int, _frame: FrameType | None) -> None:
    # A handler must exist for the wake-up descriptor to be written to.
    pass


def main() -> None:
    """Run the server on the socket that the command line names."""
    server = ForkServer(socket.socket(fileno=int(sys.argv[1])))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    server.main()


if __name__ == "__main__":
    main()
