"""Asking a worker's health endpoint: bare HTTP, which also says what is no HTTP."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from support.wait import wait_for


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str


def connect(address: str, timeout: float = 20.0) -> socket.socket:
    """Connect to a port ``host:port`` or a path."""
    if "/" in address:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(timeout)
        client.connect(address)
        return client
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout)


def exchange(address: str, request: bytes) -> bytes:
    """Send `request` and return everything that comes back."""
    with connect(address) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def parse(text: bytes) -> Answer:
    head, _, body = text.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return Answer(int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body.decode())


def get(address: str, path: str) -> Answer:
    return parse(exchange(address, f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()))


class Probe:
    """One worker's endpoint."""

    def __init__(self, address: str) -> None:
        self.address = address

    @classmethod
    def of(cls, worker: Any) -> Probe:
        """Return the probe of a worker that has said where its endpoint is."""
        return cls(worker.wait_line(r"Health endpoint on (\S+)", 30)[1])

    def says(self, kind: str) -> tuple[int, list[str]]:
        """Return the status of ``livez`` or ``readyz``, and the reasons."""
        answer = get(self.address, f"/{kind}")
        return answer.status, json.loads(answer.body)["reasons"]

    def wait(self, live: bool, ready: bool, why: str = "") -> None:
        """Wait until the worker is this, and `why` is among the reasons why it is not ready."""

        def so() -> bool:
            (lives, _), (consumes, reasons) = self.says("livez"), self.says("readyz")
            return (lives == 200, consumes == 200) == (live, ready) and why in " ".join(reasons)

        wait_for(so, 40, lambda: f"live={live} ready={ready} {why}: {self.says('livez')} {self.says('readyz')}")

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Return the samples by name and sorted labels, as Prometheus' own parser reads them."""
        answer = get(self.address, "/metrics")
        assert answer.status == 200
        return {
            (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(answer.body)
            for sample in family.samples
        }


def socket_path(directory: Path) -> str:
    """Return a path for a unix socket, short enough for the system."""
    path = str(directory / "h.sock")
    assert len(path) < 104
    return path
