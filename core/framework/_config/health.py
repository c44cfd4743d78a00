"""Parses ``[worker] health``, the address of the health endpoint."""

from __future__ import annotations

from typing import Final, NamedTuple

from framework._config.nodename import file_path
from framework.exceptions import ConfigError

LOOPBACK: Final = "127.0.0.1"
#: Wildcard addresses, and where a client on this machine connects instead.
_WILDCARDS: Final = {"0.0.0.0": LOOPBACK, "::": "::1"}


class HealthAddress(NamedTuple):
    """A TCP port, or the path of a unix socket."""

    host: str
    port: int
    #: Path of the socket; "": the address is a TCP port.
    path: str = ""

    @property
    def client(self) -> tuple[str, int]:
        """Host and port to connect to from this machine."""
        return _WILDCARDS.get(self.host, self.host), self.port

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def health_address(value: str | int, node: str) -> HealthAddress:
    """Parse `value` for the worker `node`. Raises `ConfigError`.

    ``9808`` is a port of the loopback interface, ``HOST:9808`` of that host, ``:9808`` of all interfaces; a value with
    a slash is the path of a unix socket, in which the variables of file names (``%n``, …) expand.
    """
    text = str(value)
    if "/" in text:
        return HealthAddress("", 0, file_path(text.removeprefix("unix:"), node))
    host, colon, port = text.rpartition(":")
    if not colon:
        host = LOOPBACK
    elif not host:
        host = "0.0.0.0"
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not (port.isascii() and port.isdigit() and int(port) < 65536) or (":" in host and not text.startswith("[")):
        raise ConfigError(
            f"health under [worker] is {text!r}; wanted a port (9808), an address (127.0.0.1:9808, [::1]:9808, or "
            f":9808 for all interfaces) or the path of a unix socket (/run/app/%n.sock)"
        )
    return HealthAddress(host, int(port))
