"""A stand-in for `select.kqueue` and `select.kevent`, which answers from real inotify events on real files.

1. `install` puts it, and the constants of the BSDs, into the module `select`.
2. A descriptor that is watched is watched by its inode, as kqueue does it: a rename does not lead to another file.
3. What inotify tells of a directory's names becomes NOTE_WRITE of the directory. A file without a name left was
   deleted.
"""

from __future__ import annotations

import os
import select
from typing import Any, NamedTuple

import pytest

from framework_fsnotify import _libc

FILTER_VNODE = -4
ADD, CLEAR = 0x1, 0x20
DELETE, WRITE, EXTEND, ATTRIB, RENAME = 0x1, 0x2, 0x4, 0x8, 0x20
CONSTANTS = {
    "KQ_FILTER_VNODE": FILTER_VNODE,
    "KQ_EV_ADD": ADD,
    "KQ_EV_CLEAR": CLEAR,
    "KQ_NOTE_DELETE": DELETE,
    "KQ_NOTE_WRITE": WRITE,
    "KQ_NOTE_EXTEND": EXTEND,
    "KQ_NOTE_ATTRIB": ATTRIB,
    "KQ_NOTE_RENAME": RENAME,
}
NAMES = _libc.CREATE | _libc.DELETE | _libc.MOVED_FROM | _libc.MOVED_TO


class kevent(NamedTuple):
    ident: int
    filter: int
    flags: int = ADD
    fflags: int = 0


class kqueue:
    def __init__(self) -> None:
        self._fd = _libc.open_inotify()
        #: By watch: what was asked, of which descriptors. Several may be open on one inode.
        self._asked: dict[int, dict[int, int]] = {}

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def control(self, changes: list[kevent] | None, most: int, timeout: float | None = None) -> list[kevent]:
        for change in changes or ():
            assert change.filter == FILTER_VNODE
            assert change.flags == ADD | CLEAR
            place = f"/proc/self/fd/{change.ident}"
            mask = NAMES | _libc.MODIFY | _libc.ATTRIB | _libc.DELETE_SELF | _libc.MOVE_SELF
            for asked in self._asked.values():
                # A number that was closed, and is of another file now.
                asked.pop(change.ident, None)
            wd = _libc.add_watch(self._fd, place, mask)
            self._asked.setdefault(wd, {})[change.ident] = change.fflags
        if most == 0:
            return []
        assert timeout == 0
        notes: dict[int, int] = {}
        for event in _libc.events(self._fd):
            for ident, asked in list(self._asked.get(event.wd, {}).items()):
                note = self._note(ident, event.mask, event.name) & asked
                if note:
                    notes[ident] = notes.get(ident, 0) | note
        return [kevent(ident, FILTER_VNODE, ADD | CLEAR, note) for ident, note in notes.items()]

    def _note(self, ident: int, mask: int, name: str) -> int:
        try:
            links = os.fstat(ident).st_nlink
        except OSError:
            # Closed: kqueue would have forgotten it.
            for asked in self._asked.values():
                asked.pop(ident, None)
            return 0
        if name:
            return WRITE if mask & NAMES else 0
        note = WRITE | EXTEND if mask & _libc.MODIFY else 0
        note |= ATTRIB if mask & _libc.ATTRIB else 0
        note |= RENAME if mask & _libc.MOVE_SELF else 0
        return note | (DELETE if mask & _libc.DELETE_SELF or not links else 0)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `select` offer kqueue for the time of a test."""
    stand_in: dict[str, Any] = {"kqueue": kqueue, "kevent": kevent, **CONSTANTS}
    for name, value in stand_in.items():
        monkeypatch.setattr(select, name, value, raising=False)
