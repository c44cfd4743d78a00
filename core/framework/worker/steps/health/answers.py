"""The health endpoint's responses and its socket.

1. ``/livez``: 200 while the loop runs and tasks can start; ``/readyz``: 200 while the worker consumes; else 503. The
   body is a JSON object with the reasons.
2. ``/metrics``: the metrics, for Prometheus.
3. `HealthSocket` opens the port or the unix socket, and replaces the unix socket of a killed worker.
"""

from __future__ import annotations

import _socket
import os
import stat
from contextlib import closing, suppress
from typing import Any, Final

import msgspec

from framework import exitcodes
from framework._config.health import HealthAddress
from framework.exceptions import FrameworkError
from framework.worker.steps.health.endpoint import Answer
from framework.worker.steps.health.prometheus import KIND, MetricsSource, exposition

_BACKLOG: Final = 64
_REMEDY: Final = "give this one another --health, or one for each worker with a path such as /run/app/%n.sock"


class CannotListen(FrameworkError):
    """The health endpoint's address is in use, or cannot be bound."""

    exit_code = exitcodes.CANT_CREATE


class HealthAnswers:
    """Answers requests by path. Everything but the constructor runs in the endpoint's thread."""

    def __init__(self, source: MetricsSource) -> None:
        self._source = source

    def answer(self, path: str) -> Answer:
        """Return the response to a request for `path`."""
        if path == "/metrics":
            return Answer(200, exposition(self._source), KIND)
        if path not in ("/livez", "/readyz"):
            return Answer(404, "unknown path: use /livez, /readyz or /metrics\n")
        source = self._source
        dead, idle = source.sampler.not_live(), source.sampler.not_ready()
        body: dict[str, Any] = {
            "node": source.hostname,
            "pid": os.getpid(),
            "live": not dead,
            "ready": not idle,
            "reasons": dead if path == "/livez" else idle,
            "missing_steps": dict(source.missing()),
        }
        healthy = body["live"] if path == "/livez" else body["ready"]
        return Answer(200 if healthy else 503, msgspec.json.encode(body).decode() + "\n", "application/json")


class HealthSocket:
    """The open port or unix socket."""

    def __init__(self, address: HealthAddress) -> None:
        """Listen. Raises `CannotListen`."""
        self._path = ""
        self._inode = 0
        try:
            self.socket = self._on_path(address.path) if address.path else _on_port(address)
        except OSError as error:
            raise CannotListen(
                f"the health endpoint cannot listen on {address}: {(error.strerror or str(error)).lower()}; {_REMEDY}"
            ) from error
        host, port = address.host, address.port
        #: The bound address: port 0 is replaced by the port that the system chose.
        self.address = address if address.path else HealthAddress(host, port or self.socket.getsockname()[1])

    def _on_path(self, path: str) -> _socket.socket:
        _clear(path)
        found = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            found.bind(path)
            found.listen(_BACKLOG)
        except OSError:
            found.close()
            raise
        self._path, self._inode = path, os.stat(path).st_ino
        return found

    def close(self) -> None:
        """Close the socket, and remove a unix socket unless another worker has replaced it."""
        self.socket.close()
        with suppress(OSError):
            if self._path and os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)


def _on_port(address: HealthAddress) -> _socket.socket:
    infos = _socket.getaddrinfo(address.host, address.port, 0, _socket.SOCK_STREAM, 0, _socket.AI_PASSIVE)
    family, kind, proto, _name, where = infos[0]
    found = _socket.socket(family, kind, proto)
    try:
        # A restart must not fail while connections of the last run are in TIME_WAIT.
        found.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        found.bind(where)
        found.listen(_BACKLOG)
    except OSError:
        found.close()
        raise
    return found


def _clear(path: str) -> None:
    """Remove a unix socket without a listener. Raises `CannotListen` for another file, or a socket in use."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotListen(f"the health endpoint cannot listen on {path}: the path is no socket; {_REMEDY}")
    with closing(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)) as client:
        # With a timeout: the listener may be frozen, with a full queue.
        client.settimeout(1.0)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass
    raise CannotListen(f"the health endpoint cannot listen on {path}: a running worker listens there; {_REMEDY}")
