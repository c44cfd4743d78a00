"""The keyboard: keys as they are pressed, by name."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Any, Final

#: What terminals send for keys that are no characters.
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
    """Yield the keys that `text`, as a terminal sends it, stands for: names, or single characters."""
    while text:
        for sequence in _LONGEST_FIRST:
            if text.startswith(sequence) and not (sequence == "\x1b" and text[1:2] in ("[", "O")):
                yield _SEQUENCES[sequence]
                text = text[len(sequence) :]
                break
        else:
            if text.startswith("\x1b"):
                return  # a sequence that we do not know; its rest would be read as keys
            if text[0].isprintable():
                yield text[0]
            text = text[1:]


class Keyboard:
    """The terminal's keyboard, key by key and without echo, while the context lasts."""

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
        """Return the keys pressed within `timeout` seconds; at once when there are some."""
        ready, _, _ = select.select([self._fd], [], [], timeout)
        if not ready:
            return []
        data = os.read(self._fd, 1024)
        if not data:
            return ["q"]  # the terminal is gone
        return list(split(data.decode(errors="replace")))
