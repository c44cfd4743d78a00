"""Ports of loopback for servers that are to be started, and started again.

Below those that the system hands out to whoever connects somewhere: such a port stays free while its server is away,
and nobody who tries to reach that server is, by chance, connected to himself.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

_LOWEST: Final = 10_000
#: Where the system's own begin (Linux; elsewhere they begin at 49,152).
_SYSTEM: Final = 32_768
_rng = random.SystemRandom()


def free_port() -> int:
    """Return a loopback port that nothing listens on just now."""
    while True:
        # Where there is no such range, any will have to do.
        port = _rng.randrange(_LOWEST, end) if (end := _end()) > 2 * _LOWEST else 0
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])


def _end() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return _SYSTEM
