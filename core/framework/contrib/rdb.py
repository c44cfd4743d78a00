"""A debugger over the network: a task calls `set_trace`, and somebody connects with telnet.

1. Listens on ``127.0.0.1:6899``, or the next free port; ``FRAMEWORK_RDB_HOST`` and ``FRAMEWORK_RDB_PORT`` (Celery's
   ``CELERY_RDB_HOST`` and ``CELERY_RDB_PORT``) say otherwise. Whoever can connect can do anything that the worker can:
   leave it on the loopback interface.
2. Waits for one client and gives it a `pdb` session; ``exit`` or ``continue`` goes on with the program.
3. With ``FRAMEWORK_RDBSIG`` (``CELERY_RDBSIG``) set, a worker opens one on USR2.
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
#: Ports tried, one after another.
_TRIED: Final = 100


def _variable(name: str) -> str | None:
    return os.environ.get(f"FRAMEWORK_{name}") or os.environ.get(f"CELERY_{name}")


def is_enabled() -> bool:
    """Say whether USR2 opens the debugger here."""
    return bool(_variable("RDBSIG"))


class Rdb(Pdb):
    """One session. Raises `FrameworkError` when no port is free."""

    def __init__(self, host: str | None = None, port: int | None = None, out: Any = None) -> None:
        """`out` is where the address is printed; default: stderr."""
        self._out = out or sys.__stderr__
        host = host or _variable("RDB_HOST") or _HOST
        first = port if port is not None else int(_variable("RDB_PORT") or _PORT)
        # Each pool process has ports of its own, so that one that waits does not get another's client.
        first += int(os.environ.get("FRAMEWORK_PROCESS_INDEX") or 0)
        self._listener, number = _listen(host, first)
        self._say(f"Remote Debugger:{number}: Ready to connect: telnet {host} {number}")
        self._say("Type `exit` in session to continue.")
        self._say("Waiting for client...")
        self._client, _address = self._listener.accept()
        self._listener.close()
        # Two: one for both would forget, at every write, what it has read ahead.
        self._in = self._client.makefile("r", encoding="utf-8", errors="replace")
        self._to = self._client.makefile("w", encoding="utf-8", errors="replace")
        super().__init__(completekey="tab", stdin=self._in, stdout=self._to)
        self.prompt = f"({number}) "

    def _say(self, line: str) -> None:
        if self._out is not None:
            print(line, file=self._out, flush=True)

    def set_trace(self, frame: FrameType | None = None, **kwargs: Any) -> None:
        """Stop at `frame`, by default the caller's."""
        super().set_trace(frame or sys._getframe().f_back, **kwargs)

    def _end(self) -> None:
        for end in (self._to, self._in, self._client):
            with contextlib.suppress(OSError):
                end.close()
        self.set_continue()

    def do_continue(self, arg: str) -> bool:
        """Go on with the program and end the session."""
        self._end()
        return True

    do_c = do_cont = do_continue

    def do_quit(self, arg: str) -> bool:
        """Go on with the program and end the session: the worker does not end with it."""
        self._end()
        return True

    do_q = do_exit = do_quit

    def do_EOF(self, arg: str) -> bool:  # noqa: N802 - the name that `cmd` calls
        """Go on when the client has gone."""
        self._end()
        return True


def _listen(host: str, first: int) -> tuple[socket.socket, int]:
    for port in range(first, first + _TRIED):
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
        f"the remote debugger finds no free port on {host} from {first} to {first + _TRIED - 1}: "
        "set FRAMEWORK_RDB_PORT to another"
    )


def set_trace(frame: FrameType | None = None) -> None:
    """Wait for a client and stop here, or in `frame`."""
    Rdb().set_trace(frame or sys._getframe().f_back)
