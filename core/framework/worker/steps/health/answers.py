"""The health endpoint: what is answered over it, and where it listens.

1. ``/livez``: 200 while the loop turns and tasks can start; ``/readyz``: 200 while the worker consumes; else 503. The
   body is a JSON object that says why not.
2. ``/metrics``: the metrics, for Prometheus.
3. `listen` opens the port or the unix socket, and takes over a socket whose worker was killed.
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
_OTHER: Final = "give this one another --health, or one for each worker with a path such as /run/app/%n.sock"


class CannotListen(FrameworkError):
    """The health endpoint's address is taken, or cannot be had."""

    exit_code = exitcodes.CANT_CREATE


class HealthAnswers:
    """Answers. Everything but the constructor happens in the endpoint's thread."""

    def __init__(self, source: MetricsSource) -> None:
        self._source = source

    def answer(self, path: str) -> Answer:
        """Answer a request for `path`."""
        if path == "/metrics":
            return Answer(200, exposition(self._source), KIND)
        if path not in ("/livez", "/readyz"):
            return Answer(404, "there are /livez, /readyz and /metrics\n")
        source = self._source
        dead, idle = source.sampler.dead(), source.sampler.idle()
        told: dict[str, Any] = {
            "node": source.hostname,
            "pid": os.getpid(),
            "live": not dead,
            "ready": not idle,
            "reasons": dead if path == "/livez" else idle,
            "missing_steps": dict(source.missing()),
        }
        well = told["live"] if path == "/livez" else told["ready"]
        return Answer(200 if well else 503, msgspec.json.encode(told).decode() + "\n", "application/json")


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
                f"the health endpoint cannot listen on {address}: {(error.strerror or str(error)).lower()}; {_OTHER}"
            ) from error
        host, port = address.host, address.port
        #: Where it listens; with port 0 the system has chosen one.
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
        """Remove the unix socket, unless it is another worker's by now."""
        self.socket.close()
        with suppress(OSError):
            if self._path and os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)


def _on_port(address: HealthAddress) -> _socket.socket:
    infos = _socket.getaddrinfo(address.host, address.port, 0, _socket.SOCK_STREAM, 0, _socket.AI_PASSIVE)
    family, kind, proto, _name, where = infos[0]
    found = _socket.socket(family, kind, proto)
    try:
        # A worker that starts again must not wait until the connections of its last run are forgotten.
        found.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        found.bind(where)
        found.listen(_BACKLOG)
    except OSError:
        found.close()
        raise
    return found


def _clear(path: str) -> None:
    """Remove a unix socket that nobody listens on any more. Raises `CannotListen` when it is something else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotListen(f"the health endpoint cannot listen on {path}: that is a file of another kind; {_OTHER}")
    with closing(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)) as client:
        # Not for ever: whoever listens may be frozen, with a queue that is full.
        client.settimeout(1.0)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass
    raise CannotListen(f"the health endpoint cannot listen on {path}: a worker that runs has it; {_OTHER}")
