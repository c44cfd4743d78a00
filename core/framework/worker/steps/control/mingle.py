"""Mingle: exchanges revoked ids with the other workers at start and after a reconnect.

1. Broadcasts `hello` with its revoked ids on every new connection of remote control.
2. Merges each reply when it arrives. The worker consumes meanwhile, and then checks its received tasks again.
3. Uses its own thread and connection for the second or less that this takes, so that the start does not wait. Only the
   first tasks do, in the intake: until all have answered, or at once where no other worker listens.
4. Warns when other workers answer by this worker's name. With ``--without-mingle`` it does nothing else: it sends
   `hello` to its own name only, without ids.
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
from framework.wire.control_request import SentCommand
from framework.worker.dispatch.revoked import Revokes
from framework.worker.intake.intake import Intake

logger = logging.getLogger(__name__)

#: Seconds without a reply after which it stops waiting, on brokers that do not count the receivers.
_PATIENCE: Final = 1.0
#: The most workers of one name that are counted.
_NAMESAKES_MAX: Final = 1_000


class Mingle:
    """Broadcasts `hello` and merges the replies. Everything but `_ask` runs in the loop."""

    def __init__(
        self,
        loop: Loop,
        transport: Transport,
        hostname: str,
        revokes: Revokes,
        clock: Clock,
        intake: Intake,
        control: Any,
        accept: Sequence[str],
        *,
        exchanging: bool,
    ) -> None:
        """`control` is the ``[control]`` table of the settings.

        `exchanging`: exchange revoked ids, not only look for workers of the same name.
        """
        self._loop = loop
        self._transport = transport
        self._hostname = hostname
        self._revokes = revokes
        self._clock = clock
        self._intake = intake
        self._control = control
        self._exchange = f"{control.exchange}.pidbox"
        self._accept = accept
        self._exchanging = exchanging
        self._closed = False
        self._asking = False
        #: The number of workers of this name that answered the last `hello`, with this one.
        self._named = 1
        #: The number of times that `hello` came from this name on this connection: its own one, and those of others.
        self._heard = 0

    @property
    def has_namesake(self) -> bool:
        """Whether another worker with the name of this one has answered, or has said hello."""
        return self._named > 1 or self._heard > 1

    def hear(self, node: str) -> None:
        """Count a `hello` of the worker `node`."""
        self._heard += node == self._hostname

    def look(self) -> None:
        """Release the first tasks if no other worker listens. Called before this worker listens itself."""
        if not self._intake.held:
            return
        try:
            # Not over the connection that subscribes next: RabbitMQ short of memory blocks one that has published.
            mailbox = self._transport.mailbox()
            try:
                # To no worker: it is only counted who receives it.
                listeners = SentCommand("ping", {}, exchange=self._exchange, destination=[""]).reach(mailbox)
            finally:
                mailbox.close()
        except TransportError as error:
            logger.debug("mingle: it is not known whether other workers listen: %s", error)
            return
        if listeners == 0:
            logger.debug("mingle: no other worker listens")
            self._intake.release()

    def begin(self) -> None:
        """Broadcast `hello`, unless a broadcast is under way."""
        if self._asking or self._closed:
            return
        self._asking = True
        self._heard = 0
        arguments: dict[str, Any] = {"from_node": self._hostname}
        if self._exchanging:
            logger.info("mingle: searching for neighbors")
            arguments["revoked"] = self._revokes.list()
        threading.Thread(target=self._ask, args=(arguments,), name="framework-mingle", daemon=True).start()

    def close(self) -> None:
        """Ignore further replies."""
        self._closed = True

    def _ask(self, arguments: dict[str, Any]) -> None:
        own = None if self._exchanging else [self._hostname]
        request = SentCommand("hello", arguments, exchange=self._exchange, destination=own, secret=self._control.secret)
        replies = named = 0
        error: TransportError | None = None

        def take(reply: dict[str, Any]) -> None:
            nonlocal replies, named
            for node, answer in reply.items():
                if node == self._hostname:
                    named += 1
                elif isinstance(answer, dict):
                    replies += 1
                    self._call_in_loop(self._merge, answer)

        try:
            mailbox = self._transport.mailbox()
            try:
                request.ask(
                    mailbox,
                    timeout=_PATIENCE,
                    limit=None if self._exchanging else _NAMESAKES_MAX,
                    accept=self._accept,
                    control=self._control,
                    callback=take,
                    roster=False,
                )
            finally:
                mailbox.close()
        except TransportError as lost:
            error = lost
        self._call_in_loop(self._finish, replies, named, error)

    def _call_in_loop(self, callback: Callable[..., object], *args: Any) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(callback, *args)

    def _merge(self, answer: dict[str, Any]) -> None:
        self._clock.adjust(answer.get("clock"))
        revoked = answer.get("revoked")
        if isinstance(revoked, (list, dict)) and revoked and not self._closed:
            # A list since Celery 5.7, before that a mapping by id.
            self._revokes.merge(str(task_id) for task_id in revoked)
            self._intake.recheck()

    def _finish(self, replies: int, named: int, error: TransportError | None) -> None:
        self._asking = False
        self._intake.release()
        if error is None and named > max(1, self._named):
            logger.warning(
                "%d workers are called %s: their replies and events cannot be told apart; give each its own name with "
                "-n",
                named,
                self._hostname,
            )
        self._named = max(1, named)
        if not self._exchanging:
            return
        if error is not None:
            # The next connection of remote control repeats the broadcast.
            logger.warning("mingle: revoked ids could not be exchanged until the next connection: %s", error)
        elif replies:
            logger.info("mingle: sync with %d nodes", replies)
            logger.info("mingle: sync complete")
        else:
            logger.info("mingle: all alone")
