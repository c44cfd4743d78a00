"""Mingling: a worker that starts, or is back, learns what the others know, and tells them what it knows.

1. Sends `hello` with its revoked ids to everybody, whenever remote control has a connection that was not there before.
2. Takes in each answer as it comes; the worker consumes meanwhile, and what it has taken in is looked at again.
3. Has a thread and a connection of its own for the second or less that this takes: a start waits for nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from framework.api.loop import Loop
from framework.api.transport import Transport
from framework.exceptions import TransportError
from framework.wire.clock import Clock
from framework.wire.control_request import Broadcast
from framework.worker.dispatch.revoked import Revokes

logger = logging.getLogger(__name__)

#: Seconds without another answer after which nobody else is waited for, where the broker cannot tell who listens.
_PATIENCE: Final = 1.0


class Mingle:
    """Says hello. Everything but the thread's own part runs in the loop."""

    def __init__(
        self,
        loop: Loop,
        transport: Transport,
        hostname: str,
        revokes: Revokes,
        clock: Clock,
        on_revoked: Callable[[], object],
        control: Any,
        accept: Sequence[str],
    ) -> None:
        """`on_revoked` is called when ids have come in; `control` is the ``[control]`` table of the settings."""
        self._loop = loop
        self._transport = transport
        self._hostname = hostname
        self._revokes = revokes
        self._clock = clock
        self._on_revoked = on_revoked
        self._control = control
        self._accept = accept
        self._closed = False
        self._asking = False

    def begin(self) -> None:
        """Say hello, unless that is being done."""
        if self._asking or self._closed:
            return
        self._asking = True
        logger.info("mingle: searching for neighbors")
        arguments = {"from_node": self._hostname, "revoked": self._revokes.list()}
        threading.Thread(target=self._ask, args=(arguments,), name="framework-mingle", daemon=True).start()

    def close(self) -> None:
        """Take in nothing more."""
        self._closed = True

    def _ask(self, arguments: dict[str, Any]) -> None:
        request = Broadcast("hello", arguments, exchange=f"{self._control.exchange}.pidbox")
        met = 0
        error: TransportError | None = None

        def take(reply: dict[str, Any]) -> None:
            nonlocal met
            for node, answer in reply.items():
                if node != self._hostname and isinstance(answer, dict):
                    met += 1
                    self._tell(self._take, answer)

        try:
            mailbox = self._transport.mailbox()
            try:
                request.ask(
                    mailbox, timeout=_PATIENCE, limit=None, accept=self._accept, control=self._control, callback=take
                )
            finally:
                mailbox.close()
        except TransportError as lost:
            error = lost
        self._tell(self._end, met, error)

    def _tell(self, callback: Callable[..., object], *args: Any) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(callback, *args)

    def _take(self, answer: dict[str, Any]) -> None:
        self._clock.adjust(answer.get("clock"))
        revoked = answer.get("revoked")
        if isinstance(revoked, (list, dict)) and revoked and not self._closed:
            # A list since Celery 5.7, a mapping of ids before.
            self._revokes.merge(str(task_id) for task_id in revoked)
            self._on_revoked()

    def _end(self, met: int, error: TransportError | None) -> None:
        self._asking = False
        if error is not None:
            # The next connection of remote control tries again.
            logger.warning("mingle: the others could not be asked: %s", error)
        elif met:
            logger.info("mingle: sync with %d nodes", met)
            logger.info("mingle: sync complete")
        else:
            logger.info("mingle: all alone")
