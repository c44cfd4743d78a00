"""The selector of the loop.

1. `make_selector` returns the best selector of the standard library, or a `GreenPoll` if a green library has patched
   `select`.
2. `GreenPoll` waits on the kernel's epoll under such a library. The libraries remove `epoll` and leave a slow `select`
   that is limited to descriptors below 1024; `GreenPoll` passes it one descriptor, that of the epoll object.
3. `hung_up` checks whether the peer of a socket has closed the connection, even if unread data precedes the end.
"""

from __future__ import annotations

import select
import selectors
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from framework.api.originals import is_replaced, original

#: The kernel's EPOLLIN and EPOLLOUT; a green library's `select` may lack the names.
_IN: Final = 0x001
_OUT: Final = 0x004
#: The kernel's EPOLLRDHUP: the peer has closed its end.
_RDHUP: Final = 0x2000


class Ready(NamedTuple):
    """A ready descriptor, with the `fd` of a `selectors.SelectorKey`."""

    fd: int


class Selector(Protocol):
    """The methods of a selector that the loop uses."""

    def register(self, fileobj: int, events: int) -> Any:
        """Watch a descriptor."""

    def unregister(self, fileobj: int) -> Any:
        """Stop watching a descriptor, also when it has been closed already."""

    def get_map(self) -> Mapping[Any, Any]:
        """Return the watched descriptors."""

    def select(self, timeout: float | None = None) -> list[tuple[Any, int]]:
        """Wait at most `timeout` seconds (None: no limit) and return key and events of each ready descriptor."""

    def close(self) -> None:
        """Close the selector's own descriptors."""


class GreenPoll:
    """A selector on the kernel's epoll that lets other greenlets run while it waits."""

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
        with suppress(OSError):  # a closed descriptor is unregistered already
            self._epoll.unregister(fileobj)

    def get_map(self) -> Mapping[int, int]:
        """Return the watched descriptors."""
        return self._watched

    def select(self, timeout: float | None = None) -> list[tuple[Ready, int]]:
        """Let other greenlets run until a descriptor is ready, at most `timeout` seconds (None: no limit)."""
        if timeout == 0:
            time.sleep(0)  # the patched sleep switches to the other greenlets
        else:
            select.select([self._fd], [], [], timeout)
        return [(Ready(fd), self._events(fd, mask)) for fd, mask in self._epoll.poll(0)]

    def _events(self, fd: int, mask: int) -> int:
        # An error or a hang-up counts as readable and writable, as in `selectors`: the callback gets the error.
        events = (selectors.EVENT_WRITE if mask & ~_IN else 0) | (selectors.EVENT_READ if mask & ~_OUT else 0)
        return events & self._watched.get(fd, 0)

    def close(self) -> None:
        """Close the selector's own descriptor."""
        self._epoll.close()
        self._watched.clear()


def make_selector() -> Selector:
    """Return the best selector for this interpreter."""
    # A kernel without epoll leaves the library's own selector.
    epoll = getattr(original("select"), "epoll", None) if is_replaced() else None
    return GreenPoll(epoll()) if epoll is not None else selectors.DefaultSelector()


def hung_up(fd: int) -> bool:
    """Return whether the peer of the socket `fd` is gone; False also where the kernel has no epoll."""
    make = getattr(original("select"), "epoll", None)
    if make is None:
        return False
    try:
        with make() as epoll:
            # The kernel reports EPOLLERR and EPOLLHUP unasked.
            epoll.register(fd, _RDHUP)
            return bool(epoll.poll(0))
    except OSError:
        return False
