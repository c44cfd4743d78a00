"""The four calls of inotify(7), through ctypes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import termios
from array import array
from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

MODIFY: Final = 0x2
ATTRIB: Final = 0x4
CLOSE_WRITE: Final = 0x8
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
DELETE_SELF: Final = 0x400
MOVE_SELF: Final = 0x800
Q_OVERFLOW: Final = 0x4000
IGNORED: Final = 0x8000
ONLYDIR: Final = 0x1000000
#: Adds to the mask of an existing watch, instead of replacing it.
MASK_ADD: Final = 0x20000000

_HEAD: Final = struct.Struct("iIII")
_REMEDIES: Final = {
    errno.ENOSPC: "raise the system's limit fs.inotify.max_user_watches",
    errno.EMFILE: "raise the system's limit fs.inotify.max_user_instances",
}


class KernelEvent(NamedTuple):
    """One event of the kernel."""

    wd: int
    mask: int
    name: str


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def missing() -> bool:
    """Return whether the system has no inotify."""
    return not hasattr(_libc(), "inotify_init1")


def open_inotify() -> int:
    """Return a new descriptor that never blocks. Raises `OSError`."""
    return _checked(_libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify")


def add_watch(fd: int, path: str, mask: int) -> int:
    """Watch the target of `path`; return the watch's number, the same for the same target. Raises `OSError`."""
    return _checked(_libc().inotify_add_watch(fd, os.fsencode(path), mask), path)


def remove_watch(fd: int, wd: int) -> None:
    """Remove a watch; harmless when it is gone."""
    _libc().inotify_rm_watch(fd, wd)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        text = os.strerror(number)
        raise OSError(number, f"{text}; {_REMEDIES[number]}" if number in _REMEDIES else text, what)
    return result


def events(fd: int) -> Iterator[KernelEvent]:
    """Yield the pending events."""
    # Read only when data is available: under eventlet an empty read would wait.
    while (waiting := _readable(fd)) > 0:
        data = os.read(fd, waiting)
        offset = 0
        while offset < len(data):
            wd, mask, _cookie, length = _HEAD.unpack_from(data, offset)
            offset += _HEAD.size
            yield KernelEvent(wd, mask, os.fsdecode(data[offset : offset + length].rstrip(b"\0")))
            offset += length


def _readable(fd: int) -> int:
    """Return the number of bytes that can be read."""
    count = array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]
