"""Door for `celery.events`: receivers, states and snapshots, see `framework.client.events`."""

from __future__ import annotations

from framework.client.events import BackgroundReceiver, Dumper, Events, Handler, Polaroid, Receiver, State, Task, Worker

__all__ = ["BackgroundReceiver", "Dumper", "Events", "Handler", "Polaroid", "Receiver", "State", "Task", "Worker"]
