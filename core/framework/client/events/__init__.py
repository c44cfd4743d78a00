"""Events of workers and clients, for monitors.

`App.events` makes a `Receiver`, which calls handlers, and a `State`, which keeps the state of workers and tasks.

    state = app.events.State()
    with app.events.Receiver({"task-failed": alarm, "*": state.event}) as receiver:
        receiver.capture()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from framework.client.events.dumper import Dumper
from framework.client.events.receiver import BackgroundReceiver, Handler, Receiver
from framework.client.events.snapshot import Polaroid
from framework.client.events.state import State, Task, Worker

if TYPE_CHECKING:
    from framework.client.app import App

__all__ = ["BackgroundReceiver", "Dumper", "Events", "Handler", "Polaroid", "Receiver", "State", "Task", "Worker"]


class Events:
    """`App.events`."""

    def __init__(self, app: App) -> None:
        self._app = app

    def Receiver(  # noqa: N802 - Celery's name
        self, handlers: Mapping[str, Handler] | None = None, routing_key: str = "#", node_id: str | None = None
    ) -> Receiver:
        """Return a `framework.events.Receiver` for this application's broker."""
        return Receiver(self._app, handlers, routing_key, node_id)

    def State(  # noqa: N802
        self,
        callback: Callable[[State, Mapping[str, Any]], object] | None = None,
        max_workers_in_memory: int = 5_000,
        max_tasks_in_memory: int = 10_000,
    ) -> State:
        """Return an empty `framework.events.State`."""
        return State(callback, max_workers_in_memory, max_tasks_in_memory)
