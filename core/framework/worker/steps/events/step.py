"""The step that sends events."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from framework._boot.loop import EventLoop
from framework.api.step import Board, Step
from framework.worker.dispatch.dispatch import Dispatch
from framework.worker.settle.settle import Settle
from framework.worker.steps.control.connection import ControlConnection
from framework.worker.steps.events.dispatcher import EventDispatcher, EventSource
from framework.worker.steps.events.heartbeat import Heartbeat
from framework.worker.steps.plugins import without_fanout

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.worker.process.run import WorkerRun


class EventsStep(Step):
    """Sends events about the worker and, if enabled, its tasks. A worker without events still runs tasks."""

    name = "events"
    policy = "degrade"
    requires = ("run", "loop", "control_connection", "settle", "dispatch")

    def enabled(self, settings: Settings) -> str | None:
        return without_fanout(settings)

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        worker = run.settings.worker
        self._loop = loop = cast("EventLoop", board.get("loop"))
        connection: ControlConnection = board.get("control_connection")
        settle: Settle = board.get("settle")
        dispatch: Dispatch = board.get("dispatch")
        listeners: list[EventSource] = [dispatch, dispatch.unknown_tasks, settle]
        self._dispatcher = EventDispatcher(loop, connection, run.hostname, run.settings.event, listeners)
        self._heartbeat: Heartbeat | None = None
        if worker.send_task_events:
            # Before the worker consumes: the first task must have its events, too.
            self._dispatcher.enable()
        loop.call_soon_threadsafe(connection.notify, self._dispatcher.flush)
        if worker.heartbeat:
            self._heartbeat = Heartbeat(loop, self._dispatcher, settle, worker.heartbeat_interval)
            loop.call_soon_threadsafe(connection.notify, self._heartbeat.online)
        board.put("events", self._dispatcher)

    def stop(self, deadline: float) -> None:
        if self._heartbeat is not None:
            self._loop.call_soon_threadsafe(self._heartbeat.stop)
        self._loop.call_soon_threadsafe(self._dispatcher.flush)
