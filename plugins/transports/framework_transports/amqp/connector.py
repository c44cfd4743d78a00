"""The connector: connects to the first broker that answers.

1. Tries the failover addresses in turn, starting with the last one that worked (strategy `shuffle`: in random order).
2. Reports why each address failed: refused, no answer, wrong password, unknown virtual host.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

from framework.exceptions import ConnectionLost
from framework_transports.amqp.address import AmqpAddress
from framework_transports.amqp.connection import LOST, AmqpConnection, reason


class Connector:
    """Connects to the first of the failover addresses that answers."""

    def __init__(
        self,
        addresses: Sequence[AmqpAddress],
        *,
        timeout: float,
        heartbeat: int,
        login_method: str,
        strategy: str | None,
    ) -> None:
        self.addresses = list(addresses)
        self.timeout = timeout
        self.heartbeat = heartbeat
        self.login_method = login_method
        self._shuffle = strategy == "shuffle"
        self._first = 0
        self._lock = threading.Lock()

    @property
    def current(self) -> AmqpAddress:
        """The last address that worked."""
        return self.addresses[self._first]

    def connect(self, role: str, *, heartbeat: bool = False) -> AmqpConnection:
        """Return an open connection. Raises `ConnectionLost` when no address accepts one.

        `heartbeat`: negotiate heartbeats, for an owner that calls `send_heartbeat` often enough.
        """
        with self._lock:
            first = self._first
        order = [*range(first, len(self.addresses)), *range(first)]
        if self._shuffle:
            random.shuffle(order)
        reasons = []
        for index in order:
            address = self.addresses[index]
            connection = AmqpConnection(
                address,
                role=role,
                heartbeat=self.heartbeat if heartbeat else 0,
                timeout=self.timeout,
                login_method=self.login_method,
            )
            try:
                connection.connect()
            except LOST as error:
                connection.abandon()
                reasons.append((address.display, _reason(error, address)))
                continue
            with self._lock:
                self._first = index
            return connection
        if len(reasons) == 1:
            raise ConnectionLost(f"{self.current.display} cannot be reached: {reasons[0][1]}")
        raise ConnectionLost("no broker can be reached: " + "; ".join(f"{where}: {why}" for where, why in reasons))


def _reason(error: BaseException, address: AmqpAddress) -> str:
    code = getattr(error, "reply_code", None)
    if code == 403:
        return f"it refuses the user {address.user!r} or the password"
    if code == 530:
        return f"it has no virtual host {address.virtual_host!r}, or {address.user!r} may not use it"
    if isinstance(error, TimeoutError):
        return str(error) or "no answer"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused (does it run there?)"
    return reason(error)
