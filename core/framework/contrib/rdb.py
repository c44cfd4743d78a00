"""A remote debugger: a task calls `set_trace`, and the user connects with telnet.

1. Listens on ``127.0.0.1:6899``, or the next free port. ``FRAMEWORK_RDB_HOST`` and ``FRAMEWORK_RDB_PORT`` (Celery's
   ``CELERY_RDB_HOST`` and ``CELERY_RDB_PORT``) change the address. A client can do anything that the worker can, so do
   not listen on other interfaces than loopback.
2. Accepts one client and starts a `pdb` session for it; ``exit`` or ``continue`` continues the program.
3. If ``FRAMEWORK_RDBSIG`` (``CELERY_RDBSIG``) is set, the signal USR2 opens the debugger in a worker.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pdb import Pdb
from types import FrameType
from typing import Any, Final

from framework.exceptions import FrameworkError

_HOST: Final = "127.0.0.1"
_PORT: Final = 6899
#: How many ports are tried, one after another.
_PORTS_TRIED: Final = 100


def _variable(name: str) -> str | None:
    return os.environ.get(f"FRAMEWORK_{name}") or os.environ.get(f"CELERY_{name}")


def is_enabled() -> bool:
    """Return whether USR2 opens the debugger in this process."""
    return bool(_variable("RDBSIG"))


class Rdb(Pdb):
    """One debugger session. Raises `FrameworkError` when no port is free."""

    def __init__(self, host: str | None = None, port: int | None = None, out: Any = None) -> None:
        """Wait for a client. `out` is the file to which the address is printed; default: stderr."""
        self._out = out or sys.__stderr__
        host = host or _variable("RDB_HOST") or _HOST
        first = port if port is not None else int(_variable("RDB_PORT") or _PORT)
        # Each pool process starts at another port, so that a client reaches the intended process.
        first += int(os.environ.get("FRAMEWORK_PROCESS_INDEX") or 0)
        self._listener, number = _listen(host, first)
        self._print(f"Remote Debugger:{number}: Ready to connect: telnet {host} {number}")
        self._print("Type `exit` in session to continue.")
        self._print("Waiting for client...")
        self._client, _address = self._listener.accept()
        self._listener.close()
        # Two files: a single one would drop its read buffer at every write.
        self._input = self._client.makefile("r", encoding="utf-8", errors="replace")
        self._output = self._client.makefile("w", encoding="utf-8", errors="replace")
        super().__init__(completekey="tab", stdin=self._input, stdout=self._output)
        self.prompt = f"({number}) "

    def _print(self, line: str) -> None:
        if self._out is not None:
            with contextlib.suppress(OSError):  # nobody reads it
                print(line, file=self._out, flush=True)

    def set_trace(self, frame: FrameType | None = None, **kwargs: Any) -> None:
        """Stop at `frame`, by default the caller's."""
        super().set_trace(frame or sys._getframe().f_back, **kwargs)

    def _end_session(self) -> None:
        for stream in (self._output, self._input, self._client):
            with contextlib.suppress(OSError):
                stream.close()
        self.set_continue()

    def do_continue(self, arg: str) -> bool:
        """Continue the program and end the session."""
        self._end_session()
        return True

    do_c = do_cont = do_continue

    def do_quit(self, arg: str) -> bool:
        """Continue the program and end the session; the worker keeps running."""
        self._end_session()
        return True

    do_q = do_exit = do_quit

    def do_EOF(self, arg: str) -> bool:  # noqa: N802 - the name is defined by `cmd`
        """Continue the program when the client has disconnected."""
        self._end_session()
        return True


def _listen(host: str, first: int) -> tuple[socket.socket, int]:
    for port in range(first, first + _PORTS_TRIED):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(1)
        except OSError:
            listener.close()
            continue
        return listener, listener.getsockname()[1]
    raise FrameworkError(
        f"the remote debugger found no free port on {host} from {first} to {first + _PORTS_TRIED - 1}: "
        "set FRAMEWORK_RDB_PORT to another port"
    )


def set_trace(frame: FrameType | None = None) -> None:
    """Wait for a client and stop in `frame`, by default the caller's."""
    Rdb().set_trace(frame or sys._getframe().f_back)
