"""Steps for what is said and asked from outside: the line to the broker, and remote control."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

from framework._boot.loop import Loop
from framework.api.pool import Pool
from framework.api.step import Board, Step
from framework.worker.intake.intake import Intake
from framework.worker.steps.control import commands
from framework.worker.steps.control.connection import Line
from framework.worker.steps.control.gossip import Roster
from framework.worker.steps.control.mailbox import Mailroom
from framework.worker.steps.control.mingle import Mingle
from framework.worker.steps.control.state import ConsumerView, ControlState, Qos
from framework.worker.steps.plugins import without_fanout

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.worker.process.run import WorkerRun

logger = logging.getLogger(__name__)


class LineStep(Step):
    """Makes the line: the connection that remote control and events share."""

    name = "line"
    policy = "degrade"
    requires = ("loop", "turning", "transport")

    def enabled(self, settings: Settings) -> str | None:
        return without_fanout(settings)

    def start(self, board: Board) -> None:
        self._loop = loop = cast("Loop", board.get("loop"))
        self._line = Line(loop, board.get("transport"))
        board.put("line", self._line)

    def stop(self, deadline: float) -> None:
        self._loop.call_soon_threadsafe(self._line.close)


class RosterStep(Step):
    """Listens to the other workers' events, to know who is there."""

    name = "roster"
    policy = "degrade"
    requires = ("run", "loop", "line")

    def enabled(self, settings: Settings) -> str | None:
        return without_fanout(settings) or (None if settings.worker.gossip else "--without-gossip")

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        loop: Loop = board.get("loop")
        roster = Roster(loop, board.get("line"), run.hostname, run.settings.event.exchange, run.settings.accept_content)
        loop.call_soon_threadsafe(roster.start)
        board.put("roster", roster)


class ControlStep(Step):
    """Answers remote-control commands. A worker without remote control still works."""

    name = "control"
    policy = "degrade"
    requires = (
        "run",
        "loop",
        "line",
        "transport",
        "intake",
        "settle",
        "prefetch",
        "pool",
        "revokes",
        "queues",
    )
    after = ("events", "roster", "autoscaler", "autoreload")

    def enabled(self, settings: Settings) -> str | None:
        if not settings.worker.enable_remote_control:
            return "enable_remote_control under [worker] is false"
        return without_fanout(settings)

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        loop: Loop = board.get("loop")
        line: Line = board.get("line")
        roster: Roster | None = board.find("roster")
        mailroom = Mailroom(
            line,
            commands.PANEL,
            run.hostname,
            run.settings.control,
            run.settings.accept_content,
            roster.ages if roster is not None else lambda: None,
        )
        intake: Intake = board.get("intake")
        pool: Pool = board.get("pool")
        state = ControlState(
            app=run.app,
            hostname=run.hostname,
            settings=run.settings,
            consumer=ConsumerView(
                qos=Qos(board.get("prefetch"), intake),
                pool=pool,
                hostname=run.hostname,
                event_dispatcher=board.find("events"),
            ),
            pool=pool,
            transport=board.get("transport"),
            intake=intake,
            settle=board.get("settle"),
            prefetch=board.get("prefetch"),
            revokes=board.get("revokes"),
            clock=line.clock,
            queues=board.get("queues"),
            stop=lambda: run.stopper.warm(),
            started=run.began,
            autoscaler=board.find("autoscaler"),
            autoreloader=board.find("autoreload"),
        )
        loop.call_soon_threadsafe(mailroom.start, state)
        board.put("control", mailroom)


class MingleStep(Step):
    """Exchanges revoked ids with the other workers, at start and after every loss of the connection."""

    name = "mingle"
    policy = "degrade"
    requires = ("run", "loop", "line", "transport", "revokes", "intake", "control")

    def enabled(self, settings: Settings) -> str | None:
        if not settings.worker.mingle:
            return "mingle under [worker] is false"
        if not settings.worker.enable_remote_control:
            return "enable_remote_control under [worker] is false"
        return without_fanout(settings)

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        loop: Loop = board.get("loop")
        line: Line = board.get("line")
        intake: Intake = board.get("intake")
        self._mingle = Mingle(
            loop,
            board.get("transport"),
            run.hostname,
            board.get("revokes"),
            line.clock,
            intake.recheck,
            run.settings.control,
            run.settings.accept_content,
        )
        # After `control`, whose queue is subscribed by then: who starts at the same time hears one of us say hello.
        loop.call_soon_threadsafe(line.notify, self._mingle.begin)
        board.put("mingle", self._mingle)

    def stop(self, deadline: float) -> None:
        self._mingle.close()


class LineUpStep(Step):
    """Connects the line, once everybody who listens on it has said so."""

    name = "line-up"
    policy = "degrade"
    requires = ("loop", "line")
    #: What subscribes comes before what sends: a broker short of memory answers no question on a connection that sends.
    after = ("events", "roster", "control", "mingle")

    def enabled(self, settings: Settings) -> str | None:
        return without_fanout(settings)

    def start(self, board: Board) -> None:
        loop: Loop = board.get("loop")
        line: Line = board.get("line")
        loop.call_soon_threadsafe(line.start)
        board.put("line-up", True)
