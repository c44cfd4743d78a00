"""The steps of remote control: its connection, gossip, commands, mingle."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

from framework._boot.loop import EventLoop
from framework.api.pool import Pool
from framework.api.step import Board, Step
from framework.wire.control_request import NAMESAKES
from framework.worker.intake.intake import Intake
from framework.worker.steps.control import commands
from framework.worker.steps.control.connection import ControlConnection
from framework.worker.steps.control.gossip import Gossip
from framework.worker.steps.control.mailbox import ControlMailbox
from framework.worker.steps.control.mingle import Mingle
from framework.worker.steps.control.state import ConsumerView, ControlState, Qos
from framework.worker.steps.plugins import without_fanout

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.worker.process.run import WorkerRun

logger = logging.getLogger(__name__)


class ControlConnectionStep(Step):
    """Creates the connection that remote control and events share."""

    name = "control_connection"
    policy = "degrade"
    requires = ("loop", "loop-thread", "transport")

    def enabled(self, settings: Settings) -> str | None:
        return without_fanout(settings)

    def start(self, board: Board) -> None:
        self._loop = loop = cast("EventLoop", board.get("loop"))
        self._connection = ControlConnection(loop, board.get("transport"))
        board.put("control_connection", self._connection)

    def stop(self, deadline: float) -> None:
        self._loop.call_soon_threadsafe(self._connection.close)


class GossipStep(Step):
    """Tracks the other workers by their events."""

    name = "gossip"
    policy = "degrade"
    requires = ("run", "loop", "control_connection")

    def enabled(self, settings: Settings) -> str | None:
        return without_fanout(settings) or (None if settings.worker.gossip else "--without-gossip")

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        loop: EventLoop = board.get("loop")
        gossip = Gossip(
            loop,
            board.get("control_connection"),
            run.hostname,
            run.settings.event.exchange,
            run.settings.accept_content,
        )
        loop.call_soon_threadsafe(gossip.start)
        board.put("gossip", gossip)


class ControlStep(Step):
    """Answers remote-control commands. A worker without remote control still runs tasks."""

    name = "control"
    policy = "degrade"
    requires = (
        "run",
        "loop",
        "control_connection",
        "transport",
        "intake",
        "settle",
        "prefetch",
        "pool",
        "revokes",
        "queues",
    )
    after = ("events", "gossip", "mingle", "autoscaler", "autoreload")

    def enabled(self, settings: Settings) -> str | None:
        if not settings.worker.enable_remote_control:
            return "enable_remote_control under [worker] is false"
        return without_fanout(settings)

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        loop: EventLoop = board.get("loop")
        connection: ControlConnection = board.get("control_connection")
        gossip: Gossip | None = board.find("gossip")
        mingle: Mingle | None = board.find("mingle")

        def roster() -> dict[str, float] | None:
            ages = None if gossip is None else gossip.ages()
            if mingle is not None and mingle.has_namesake:
                return {**(ages or {}), run.hostname: NAMESAKES}
            return ages

        control_mailbox = ControlMailbox(
            connection, commands.PANEL, run.hostname, run.settings.control, run.settings.accept_content, roster
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
            clock=connection.clock,
            access=control_mailbox.access,
            queues=board.get("queues"),
            stop=lambda: run.stopper.warm(),
            started=run.began,
            mingle=mingle,
            autoscaler=board.find("autoscaler"),
            autoreloader=board.find("autoreload"),
        )
        loop.call_soon_threadsafe(control_mailbox.start, state)
        board.put("control", control_mailbox)


class MingleStep(Step):
    """Exchanges revoked ids with the other workers, and finds those of the same name, on every new connection."""

    name = "mingle"
    policy = "degrade"
    requires = ("run", "loop", "control_connection", "transport", "revokes", "intake")

    def enabled(self, settings: Settings) -> str | None:
        if not settings.worker.enable_remote_control:
            return "enable_remote_control under [worker] is false"
        return without_fanout(settings)

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        loop: EventLoop = board.get("loop")
        connection: ControlConnection = board.get("control_connection")
        intake: Intake = board.get("intake")
        self._mingle = Mingle(
            loop,
            board.get("transport"),
            run.hostname,
            board.get("revokes"),
            connection.clock,
            intake,
            run.settings.control,
            run.settings.accept_content,
            exchanging=run.settings.worker.mingle,
        )
        intake.held = run.settings.worker.mingle
        connection.prepare(self._mingle.look)
        # After `control` has subscribed its queue: of two workers that start together, one receives the other's hello.
        loop.call_soon_threadsafe(connection.notify, self._mingle.begin)
        board.put("mingle", self._mingle)

    def stop(self, deadline: float) -> None:
        self._mingle.close()


class ControlConnectStep(Step):
    """Opens the connection of remote control and events, after all its listeners are registered."""

    name = "control-connect"
    policy = "degrade"
    requires = ("loop", "control_connection")
    #: Subscriptions come before sends: RabbitMQ short of memory blocks a connection that has published.
    after = ("events", "gossip", "control", "mingle")

    def enabled(self, settings: Settings) -> str | None:
        return without_fanout(settings)

    def start(self, board: Board) -> None:
        loop: EventLoop = board.get("loop")
        connection: ControlConnection = board.get("control_connection")
        loop.call_soon_threadsafe(connection.start)
        board.put("control-connect", True)
