"""Listening to the events of workers, with our own client."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any


@contextlib.contextmanager
def listening(app: Any) -> Iterator[SimpleNamespace]:
    """Keep what an app hears: `events`, and `of(type)`, `types()`, while the block runs."""
    events: list[dict] = []
    receiver = app.events.Receiver({"*": events.append})
    ready = threading.Event()
    connections: list[object] = []

    def connected(error):
        connections.append(error)
        if error is None:
            ready.set()

    receiver.on_connection = connected
    thread = threading.Thread(target=receiver.capture)
    thread.start()
    try:
        assert ready.wait(20)
        yield SimpleNamespace(
            events=events,
            connections=connections,
            of=lambda kind: [event for event in list(events) if event["type"] == kind],
            types=lambda: Counter(event["type"] for event in list(events)),
        )
    finally:
        receiver.stop()
        thread.join(10)
        receiver.close()
    assert not thread.is_alive()
