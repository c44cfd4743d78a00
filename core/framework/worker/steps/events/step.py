"""The step that tells monitors what the worker and its tasks do."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from framework._boot.loop import Loop
from framework.api.step import Board, Step
from framework.worker.dispatch.dispatch import Dispatch
from framework.worker.settle.settle import Settle
from framework.worker.steps.control.connection import Line
from framework.worker.steps.events.dispatcher import Dispatcher, Listener
from framework.worker.steps.events.heartbeat import Heart
from framework.worker.steps.plugins import without_fanout

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.worker.process.run import WorkerRun


class EventsStep(Step):
    """Tells monitors about the worker and, when asked to, about its tasks. A worker without monitors still works."""

    name = "events"
    policy = "degrade"
    requires = ("run", "loop", "line", "settle", "dispatch")

    def enabled(self, settings: Settings) -> str | None:
        return without_fanout(settings)

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        worker = run.settings.worker
        self._loop = loop = cast("Loop", board.get("loop"))
        line: Line = board.get("line")
        settle: Settle = board.get("settle")
        dispatch: Dispatch = board.get("dispatch")
        listeners: list[Listener] = [dispatch, dispatch.unregistered, settle]
        self._dispatcher = Dispatcher(loop, line, run.hostname, run.settings.event, listeners)
        self._heart: Heart | None = None
        if worker.send_task_events:
            # Before anything is consumed: no task must go untold.
            self._dispatcher.enable()
        loop.call_soon_threadsafe(line.notify, self._dispatcher.flush)
        if worker.heartbeat:
            self._heart = Heart(loop, self._dispatcher, settle, worker.heartbeat_interval)
            loop.call_soon_threadsafe(line.notify, self._heart.online)
        board.put("events", self._dispatcher)

    def stop(self, deadline: float) -> None:
        if self._heart is not None:
            self._loop.call_soon_threadsafe(self._heart.stop)
        self._loop.call_soon_threadsafe(self._dispatcher.flush)
