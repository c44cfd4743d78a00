"""Programs on a terminal of their own: `on_a_terminal` shows what they draw, and types."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator

from support.processes import kill_all, members
from support.workers import APP_DIR


class Terminal:
    """One program and its terminal."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._master = master
        self._drawn: list[str] = []

    def seen(self) -> str:
        """Return everything that was drawn so far, control sequences included."""
        return "".join(self._drawn)

    def send(self, keys: str) -> str:
        """Type `keys`; return what was drawn so far."""
        os.write(self._master, keys.encode())
        return self.seen()

    def read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65536):
                self._drawn.append(data.decode(errors="replace"))


@contextlib.contextmanager
def on_a_terminal(argv: list[str], env: dict[str, str], *, lines: int = 30, columns: int = 120) -> Iterator[Terminal]:
    """Run a program on a terminal of that size, in the samples' directory; it is killed at the end."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave, cwd=APP_DIR, env={**env, "TERM": "xterm"}, start_new_session=True
    )
    os.close(slave)
    terminal = Terminal(master, process)
    reader = threading.Thread(target=terminal.read)
    reader.start()
    try:
        yield terminal
    finally:
        kill_all(members(process.pid))
        process.wait(10)
        reader.join(10)
        os.close(master)
