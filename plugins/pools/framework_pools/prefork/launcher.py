"""The worker's side of one fork server.

1. Starts the server: a fresh interpreter with this one's flags, in a process group of its own. `warm` starts the
   interpreter of the next server early, while the worker is still being imported or files are still being saved.
2. Requests children, passing their descriptors, and reports the server's messages: ready, failed, forked, exited.
3. Has the server import more modules, for the children that it forks from then on.
4. Reports the exit of the server.
"""

from __future__ import annotations

import logging
import marshal
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from framework.api.loop import Loop
from framework.exceptions import ConfigError, FrameworkError
from framework_pools.prefork.child import ChildSpec
from framework_pools.prefork.framing import CHUNK, FrameReader, frame
from framework_pools.prefork.shared_memory import VERSION

logger = logging.getLogger(__name__)


class LauncherEvents(Protocol):
    """Callbacks for the events of a server."""

    def server_ready(self, launcher: Launcher) -> None:
        """The application is imported."""

    def server_failed(self, launcher: Launcher, text: str) -> None:
        """The application cannot be imported, or the server has died."""

    def server_imported(self, launcher: Launcher, request: Imports, failure: str) -> None:
        """The server has finished the imports `request`; `failure` is the error text, "" for success."""

    def child_forked(self, number: int, pid: int) -> None:
        """The child `number` has started as process `pid`."""

    def child_exited(self, number: int, status: int | None) -> None:
        """A child has exited with the wait status `status`; None: its server died, or it was never started."""


class Imports(NamedTuple):
    """A request to import modules into a running server."""

    names: tuple[str, ...]
    #: The number of the youngest child without these modules.
    youngest: int


class _Interpreter(NamedTuple):
    """A server's process, and the worker's end of its socket."""

    process: subprocess.Popen[bytes]
    socket: socket.socket


#: Warm interpreters by server module. An unclaimed one ends with the pool, or with this process.
_warm: dict[str, _Interpreter] = {}


def warm(server: str, modules: Sequence[str]) -> None:
    """Start an interpreter for the next `Launcher` of `server`; it imports `modules` and waits for the recipe."""
    if server not in _warm:
        _warm[server] = _start_interpreter(server, modules)


def discard_warm(server: str) -> None:
    """End the warm interpreter of `server`, if no `Launcher` has claimed it."""
    if (interpreter := _warm.pop(server, None)) is not None:
        interpreter.socket.close()
        interpreter.process.kill()
        interpreter.process.wait()


def _start_interpreter(server: str, modules: Sequence[str] = ()) -> _Interpreter:
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            [
                sys.executable,
                *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                "-m",
                server,
                str(theirs.fileno()),
                *modules,
            ],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            # Only the worker acts on signals for its group, such as Ctrl-C.
            process_group=0,
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return _Interpreter(process, ours)


class Launcher:
    """One fork server. `start` may be called in any thread; all else in the loop, or before the loop runs."""

    def __init__(
        self,
        loop: Loop,
        events: LauncherEvents,
        title: str,
        recipe: Mapping[str, Any],
        imports: Sequence[str],
        server: str,
    ) -> None:
        """`imports`: modules that the server imports after the application; `server`: the server's own module."""
        self._loop = loop
        self._server = server
        self._events = events
        self._title = title
        self._recipe = recipe
        self.imports = tuple(imports)
        #: Requests to import more modules, in order, that the server has not answered.
        self.pending_imports: deque[Imports] = deque()
        self._reader = FrameReader()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._attached = False
        self._retired = False
        self.ready = False
        self.failed: str | None = None
        #: Numbers of the children that were requested and have not exited.
        self.children: set[int] = set()

    @property
    def pid(self) -> int | None:
        """The server's process id."""
        return None if self._process is None else self._process.pid

    @property
    def ended(self) -> bool:
        """Whether `end` has released the server."""
        return self._process is not None and self._socket is None

    def start(self) -> None:
        """Start the server and send it the recipe; returns while the server imports."""
        interpreter = _warm.pop(self._server, None)
        if interpreter is not None and interpreter.process.poll() is not None:
            interpreter.socket.close()
            interpreter = None  # it was killed while it was idle
        if interpreter is None:
            interpreter = _start_interpreter(self._server)
        self._process, self._socket = interpreter
        interpreter.socket.sendall(frame(marshal.dumps((self._title, dict(self._recipe), self.imports), VERSION)))

    def wait_ready(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until the server is ready; False: it is still importing.

        Raises `ConfigError` if the import failed, `FrameworkError` if the server was killed: another start may succeed.
        """
        assert self._socket is not None
        deadline = time.monotonic() + timeout
        while not (self.ready or self.failed):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._socket.settimeout(left)
            try:
                self._handle(self._socket.recv(CHUNK))
            except TimeoutError:
                return False
            except ConnectionResetError:
                self._handle(b"")
        if self.failed:
            self.wait(1.0)
            if self._process is not None and (code := self._process.returncode or 0) < 0:
                name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
                raise FrameworkError(
                    f"the pool's fork server (pid {self.pid}) was ended by {name} while it loaded the application"
                )
            raise ConfigError(f"the pool's fork server cannot load the application: {self.failed}")
        return True

    def attach(self) -> None:
        """Read the server's messages in the loop from now on."""
        assert self._socket is not None
        self._socket.setblocking(False)
        self._attached = True
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def fork(self, spec: ChildSpec, fds: Sequence[int]) -> None:
        """Request a child; `fds` may be closed afterwards. Raises `OSError` if the request cannot be sent."""
        assert self._socket is not None
        data = frame(marshal.dumps(("fork", tuple(spec)), VERSION))
        # A request is small and the server reads one at a time: a partial send means that the server is stuck.
        sent = socket.send_fds(self._socket, [data], list(fds))
        if sent != len(data):
            raise BlockingIOError("the fork server does not read its requests")
        self.children.add(spec.number)

    def import_modules(self, request: Imports) -> None:
        """Have the server import modules. Raises `OSError` if the request cannot be sent."""
        assert self._socket is not None
        data = frame(marshal.dumps(("import", request.names), VERSION))
        if self._socket.send(data) != len(data):
            raise BlockingIOError("the fork server does not read its requests")
        self.pending_imports.append(request)

    def retire(self) -> None:
        """Let the server exit after its children; harmless when it is gone."""
        self._retired = True
        if self._socket is not None:
            try:
                self._socket.send(frame(marshal.dumps(("stop",), VERSION)))
            except OSError:
                logger.debug("The fork server %s is already gone", self.pid)

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._handle(data)

    def _handle(self, data: bytes) -> None:
        if not data:
            self._server_exited()
            return
        for message in self._reader.feed(data):
            what, *rest = marshal.loads(message)
            if what == "ready":
                self.ready = True
                _warn_of_threads(rest[0])
                self._notify(self._events.server_ready, self)
            elif what == "failed":
                self.failed = rest[0]
                logger.debug("The fork server could not load the application:\n%s", rest[1])
                self._notify(self._events.server_failed, self, rest[0])
            elif what == "imported":
                _warn_of_threads(rest[0])
                self._notify(self._events.server_imported, self, self.pending_imports.popleft(), "")
            elif what == "unimportable":
                logger.debug("The fork server could not import modules:\n%s", rest[1])
                self._notify(self._events.server_imported, self, self.pending_imports.popleft(), rest[0])
            elif what == "forked":
                self._notify(self._events.child_forked, *rest)
            elif what == "refused":
                logger.error("A child of the pool cannot be forked: %s", rest[1])
                self.children.discard(rest[0])
                self._notify(self._events.child_exited, rest[0], None)
            else:
                self.children.discard(rest[0])
                self._notify(self._events.child_exited, *rest)

    def _notify(self, callback: Callable[..., None], *args: Any) -> None:
        if self._attached:
            callback(*args)

    def _server_exited(self) -> None:
        attached = self._attached
        self.detach()
        self.ready = False
        children, self.children = self.children, set()
        for number in children:
            self._events.child_exited(number, None)
        if self._retired:
            self.end(1.0)
        elif self.failed is None:
            self.failed = f"the fork server (pid {self.pid}) has ended"
            if self.pending_imports:
                self.failed += f" while it imported {', '.join(self.pending_imports[0].names)}"
            if attached:
                self._events.server_failed(self, self.failed)

    def detach(self) -> None:
        """Stop reading the server's messages; harmless when repeated."""
        if self._attached and self._socket is not None:
            self._attached = False
            self._loop.remove_reader(self._socket.fileno())

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the server to exit; False: it still runs."""
        if self._process is not None:
            try:
                self._process.wait(max(0.0, timeout))
            except subprocess.TimeoutExpired:
                return False
        return True

    def end(self, timeout: float) -> None:
        """Wait `timeout` seconds for the server to exit, then kill it; release it. Harmless when repeated."""
        self.detach()
        if not self.wait(timeout) and self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _warn_of_threads(names: Sequence[str]) -> None:
    if names:
        logger.warning(
            "The application starts threads when it is imported (%s); the pool's children do not have them",
            ", ".join(names),
        )
