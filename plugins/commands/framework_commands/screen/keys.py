"""Reads the keyboard, key by key, and names the keys."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Any, Final

#: Escape sequences and control characters of terminals, with the names of their keys.
_SEQUENCES: Final = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1bOH": "home",
    "\x1b[1~": "home",
    "\x1b[F": "end",
    "\x1bOF": "end",
    "\x1b[4~": "end",
    "\x1b[Z": "back tab",
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    "\x7f": "backspace",
    "\x08": "backspace",
}
_LONGEST_FIRST: Final = sorted(_SEQUENCES, key=len, reverse=True)


def split(text: str) -> Iterator[str]:
    """Split terminal input into keys: names, or single characters."""
    while text:
        for sequence in _LONGEST_FIRST:
            if text.startswith(sequence) and not (sequence == "\x1b" and text[1:2] in ("[", "O")):
                yield _SEQUENCES[sequence]
                text = text[len(sequence) :]
                break
        else:
            if text.startswith("\x1b"):
                return  # an unknown sequence: its remaining characters are not keys
            if text[0].isprintable():
                yield text[0]
            text = text[1:]


class Keyboard:
    """Context manager that reads the terminal key by key and without echo."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._before: list[Any] = []

    def __enter__(self) -> Keyboard:
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)
        return self

    def __exit__(self, *_exc: object) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def read(self, timeout: float) -> list[str]:
        """Wait up to `timeout` seconds for keys and return them."""
        ready, _, _ = select.select([self._fd], [], [], timeout)
        if not ready:
            return []
        data = os.read(self._fd, 1024)
        if not data:
            return ["q"]  # the terminal was closed
        return list(split(data.decode(errors="replace")))
