"""Steps for what is said and asked from outside: remote control."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

from framework._plugins import loader
from framework.api.pool import Pool
from framework.api.step import Board, Step
from framework.worker import commands
from framework.worker.clock import Clock
from framework.worker.control import ConsumerView, ControlState, Qos
from framework.worker.intake import Intake
from framework.worker.loop import Loop
from framework.worker.mailroom import Mailroom

if TYPE_CHECKING:
    from framework._boot.worker import WorkerRun
    from framework._config.settings import Settings

logger = logging.getLogger(__name__)


class ControlStep(Step):
    """Answers remote-control commands. A worker without remote control still works."""

    name = "control"
    policy = "degrade"
    requires = (
        "run",
        "loop",
        "turning",
        "transport",
        "intake",
        "settle",
        "prefetch",
        "pool",
        "revokes",
        "queues",
        "consumption",
    )

    def enabled(self, settings: Settings) -> str | None:
        if not settings.worker.enable_remote_control:
            return "enable_remote_control under [worker] is false"
        name = loader.transport_name(settings.broker.url)
        if not loader.load("transport", name).traits.fanout:
            return f"the transport {name!r} has no fan-out, so there is no remote control"
        return None

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        self._loop = loop = cast("Loop", board.get("loop"))
        clock = Clock()
        self._mailroom = Mailroom(
            loop,
            board.get("transport"),
            commands.PANEL,
            clock,
            run.hostname,
            run.settings.control,
            run.settings.accept_content,
        )
        intake: Intake = board.get("intake")
        pool: Pool = board.get("pool")
        state = ControlState(
            app=run.app,
            hostname=run.hostname,
            settings=run.settings,
            consumer=ConsumerView(qos=Qos(board.get("prefetch"), intake), pool=pool, hostname=run.hostname),
            pool=pool,
            transport=board.get("transport"),
            intake=intake,
            settle=board.get("settle"),
            prefetch=board.get("prefetch"),
            revokes=board.get("revokes"),
            clock=clock,
            queues=board.get("queues"),
            stop=lambda: run.stopper.warm(),
            started=run.began,
        )
        loop.call_soon_threadsafe(self._mailroom.start, state)
        board.put("control", self._mailroom)

    def stop(self, deadline: float) -> None:
        self._loop.call_soon_threadsafe(self._mailroom.close)
