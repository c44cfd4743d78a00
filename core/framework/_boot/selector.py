"""What the loop sleeps on.

1. `make_selector` returns the standard library's best selector, untouched, unless a green library has patched `select`.
2. `GreenPoll` is for that case. The libraries take `epoll` away and leave a `select` that is rebuilt at every call and
   ends at descriptor 1024; here the kernel's own epoll watches the descriptors, and the greenlet waits, by way of the
   patched `select`, for that one descriptor to have something to tell.
3. `hung_up` looks whether the other side of a socket is gone, however much there is to read before its end.
"""

from __future__ import annotations

import select
import selectors
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from framework.api.originals import is_replaced, original

#: Ready to read, ready to write, as the kernel has them; a green library's `select` may have lost the names.
_IN: Final = 0x001
_OUT: Final = 0x004
#: The other side has closed its end.
_RDHUP: Final = 0x2000


class Ready(NamedTuple):
    """A descriptor that has something to tell; read like a `selectors.SelectorKey`."""

    fd: int


class Selector(Protocol):
    """What the loop needs of a selector."""

    def register(self, fileobj: int, events: int) -> Any:
        """Watch a descriptor."""

    def unregister(self, fileobj: int) -> Any:
        """Stop watching a descriptor, also when it has been closed already."""

    def get_map(self) -> Mapping[Any, Any]:
        """Return what is watched, by descriptor."""

    def select(self, timeout: float | None = None) -> list[tuple[Any, int]]:
        """Wait for `timeout` seconds (None: for ever) and return key and events of what is ready."""

    def close(self) -> None:
        """Let go of the selector's own descriptors."""


class GreenPoll:
    """The kernel's epoll, waited for without keeping other greenlets from running."""

    def __init__(self, epoll: Any) -> None:
        self._epoll = epoll
        self._fd: int = epoll.fileno()
        self._watched: dict[int, int] = {}

    def register(self, fileobj: int, events: int) -> None:
        """Watch a descriptor."""
        mask = (_IN if events & selectors.EVENT_READ else 0) | (_OUT if events & selectors.EVENT_WRITE else 0)
        self._epoll.register(fileobj, mask)
        self._watched[fileobj] = events

    def unregister(self, fileobj: int) -> None:
        """Stop watching a descriptor, also when it has been closed already."""
        del self._watched[fileobj]
        with suppress(OSError):  # closed, and so forgotten by the kernel
            self._epoll.unregister(fileobj)

    def get_map(self) -> Mapping[int, int]:
        """Return what is watched, by descriptor."""
        return self._watched

    def select(self, timeout: float | None = None) -> list[tuple[Ready, int]]:
        """Let other greenlets run, for `timeout` seconds (None: for ever) or until a descriptor is ready."""
        if timeout == 0:
            time.sleep(0)  # as patched: the others' turn
        else:
            select.select([self._fd], [], [], timeout)
        return [(Ready(fd), self._events(fd, mask)) for fd, mask in self._epoll.poll(0)]

    def _events(self, fd: int, mask: int) -> int:
        # An error or a hang-up counts as both, as in `selectors`: whoever reads or writes finds out.
        events = (selectors.EVENT_WRITE if mask & ~_IN else 0) | (selectors.EVENT_READ if mask & ~_OUT else 0)
        return events & self._watched.get(fd, 0)

    def close(self) -> None:
        """Let go of the selector's own descriptor."""
        self._epoll.close()
        self._watched.clear()


def make_selector() -> Selector:
    """Return the best selector for this interpreter."""
    # A kernel without epoll: what the library offers must do.
    epoll = getattr(original("select"), "epoll", None) if is_replaced() else None
    return GreenPoll(epoll()) if epoll is not None else selectors.DefaultSelector()


def hung_up(fd: int) -> bool:
    """Say whether the other side of the socket `fd` is gone; False also where the kernel cannot tell."""
    make = getattr(original("select"), "epoll", None)
    if make is None:
        return False
    try:
        with make() as epoll:
            # An error and the end of both directions are told without being asked for.
            epoll.register(fd, _RDHUP)
            return bool(epoll.poll(0))
    except OSError:
        return False
