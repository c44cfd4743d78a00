"""Seeing what a worker tells of its tasks, from a thread of one's own."""

from __future__ import annotations

import threading
from typing import Any


class Watch:
    """What workers tell, until `close`; bound once `events` is no longer empty."""

    def __init__(self, app: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self._receiver = app.events.Receiver({"*": self.events.append})
        self._thread = threading.Thread(target=self._capture)
        self._thread.start()

    def _capture(self) -> None:
        with self._receiver as receiver:
            receiver.capture(wakeup=False)

    def of(self, result: Any, kind: str) -> list[dict[str, Any]]:
        """Return the events of type `kind` about the task of `result`."""
        return [event for event in self.events if event.get("uuid") == result.id and event["type"] == kind]

    def close(self) -> None:
        """Stop watching."""
        self._receiver.stop()
        self._thread.join(10)
