"""The fork server: `python -m framework_pools.prefork.server <descriptor>`, started by the worker.

1. Reads one frame, the recipe and the modules to import besides, and builds the workload: this imports the
   application, once.
2. Freezes what it has, so that the garbage collector of no child writes to memory that all share.
3. Forks a child for each request, which comes with the child's descriptors, and reports its pid.
4. Imports more modules when asked to; the children that it forks from then on have them.
5. Reports every child's end. Exits when it was told to stop and has no child left, or at once when the worker is gone.

It has one thread, unless the application starts more while it is imported; then it says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import marshal
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import FrameType
from typing import Any, Final, Never

import setproctitle

from framework.api.pool import Workload
from framework.api.workload import load
from framework.exceptions import FrameworkError
from framework_pools.prefork.child import INDEX_VARIABLE, Child, ChildSpec
from framework_pools.prefork.link import CHUNK, FrameReader, frame
from framework_pools.prefork.page import VERSION

_PR_SET_PDEATHSIG: Final = 1
#: Descriptors that come with a request: socket, tokens, page.
_PASSED: Final = 3
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class ForkServer:
    """The server's end of the worker's socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._reader = FrameReader()
        self._fds: list[int] = []
        self._pids: dict[int, int] = {}
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

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
        setproctitle.setproctitle(f"{title} [fork server]")
        workload = self._load(recipe, imports)
        if workload is None:
            return
        die_with_parent(0)
        _freeze()
        signal.signal(signal.SIGCHLD, _noop)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        try:
            self._tell("ready", _threads())
            self._serve(workload, requests)
        except (BrokenPipeError, ConnectionResetError):
            return  # children die with this process

    def _load(self, recipe: Mapping[str, Any], imports: Iterable[str]) -> Workload | None:
        sys.path[:0] = [entry for entry in recipe.get("path", ()) if entry not in sys.path]
        try:
            workload = load(recipe)
            for name in imports:
                import_module(name)
        except FrameworkError as error:
            self._tell("failed", str(error), "")
        except BaseException as error:  # noqa: BLE001 - whatever a user's module raises belongs in front of the user
            self._tell("failed", _told(error), traceback.format_exc())
        else:
            return workload
        return None

    def _import(self, names: Iterable[str]) -> None:
        # As at the start: nobody reads the socket meanwhile.
        die_with_parent(signal.SIGKILL)
        before = set(threading.enumerate())
        try:
            for name in names:
                import_module(name)
        except BaseException as error:  # noqa: BLE001 - whatever a user's module raises belongs in front of the user
            self._tell("unimportable", f"{name}: {_told(error)}", traceback.format_exc())
        else:
            _freeze()
            self._tell("imported", _threads(before))
        finally:
            die_with_parent(0)

    def _tell(self, *message: Any) -> None:
        self._socket.sendall(frame(marshal.dumps(message, VERSION)))

    def _receive(self) -> list[tuple[Any, ...]]:
        """Return the next requests; none: the worker is gone."""
        while True:
            data, fds, _flags, _address = socket.recv_fds(self._socket, CHUNK, _PASSED)
            for fd in fds:
                os.set_inheritable(fd, False)  # what a task starts has no use for them
            self._fds += fds
            if not data:
                return []
            if requests := [marshal.loads(data) for data in self._reader.feed(data)]:
                return requests

    # ------------------------------------------------------------ serving

    def _serve(self, workload: Workload, requests: list[tuple[Any, ...]]) -> None:
        self._obey(workload, requests)
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
                self._obey(workload, requests)

    def _obey(self, workload: Workload, requests: Iterable[tuple[Any, ...]]) -> None:
        for request in requests:
            if request[0] == "stop":
                self._stopping = True
            elif request[0] == "import":
                self._import(request[1])
            else:
                self._fork(workload, ChildSpec(*request[1]))

    def _fork(self, workload: Workload, spec: ChildSpec) -> None:
        fds, self._fds = self._fds[:_PASSED], self._fds[_PASSED:]
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._tell("refused", spec.number, f"{error.strerror or error}")
        else:
            if pid == 0:
                self._become_child(workload, spec, fds, parent)
            self._pids[pid] = spec.number
            self._tell("forked", spec.number, pid)
        for fd in fds:
            os.close(fd)

    def _become_child(self, workload: Workload, spec: ChildSpec, fds: list[int], parent: int) -> Never:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            # Also those of children that come after this one.
            for fd in (self._wake_read, self._wake_write, *self._fds):
                os.close(fd)
            self._socket.close()
            die_with_parent(signal.SIGKILL)
            if os.getppid() == parent:
                run_child(workload, spec, fds)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:  # noqa: BLE001 - the end of a process: what it died of belongs on its stderr
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            # Not `sys.exit`: what the application registered to run at exit is the server's, not ours.
            os._exit(code)

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


def run_child(workload: Workload, spec: ChildSpec, fds: list[int]) -> None:
    """Be the child `spec` in this process."""
    with contextlib.suppress(OSError):
        # Its own group: a task that is terminated takes the processes with it that it started.
        os.setpgid(0, 0)
    multiprocessing.current_process().name = spec.name
    os.environ[INDEX_VARIABLE] = str(spec.process_index)
    setproctitle.setproctitle(spec.title)
    Child(spec, workload, socket.socket(fileno=fds[0]), fds[1], fds[2]).main()


def _freeze() -> None:
    gc.collect()
    gc.freeze()


def _threads(known: Iterable[threading.Thread] = ()) -> list[str]:
    """Return the names of the threads beside the main one and those that are `known`."""
    known = {threading.main_thread(), *known}
    return [thread.name for thread in threading.enumerate() if thread not in known]


def _told(error: BaseException) -> str:
    """Return what went wrong, and where in the user's code."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return text  # it names its place itself
    places = [place for place in traceback.extract_tb(error.__traceback__) if not _is_machinery(place.filename)]
    return f"{text} ({places[-1].filename}, line {places[-1].lineno})" if places else text


def _is_machinery(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or filename in (__file__, import_module.__code__.co_filename)


def die_with_parent(signum: int) -> None:
    """Ask the kernel for `signum` when the parent dies (0: for nothing); Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)


def _noop(_signum: int, _frame: FrameType | None) -> None:
    # A handler must exist for the wake-up descriptor to be written to.
    pass


def main() -> None:
    """Run the server on the socket that the command line names."""
    ForkServer(socket.socket(fileno=int(sys.argv[1]))).main()


if __name__ == "__main__":
    main()
