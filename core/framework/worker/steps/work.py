"""The steps of task processing: settle, revokes, intake, queues, rate limits, the loop's thread, consumption."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from framework._boot.hooks import Hooks
from framework._boot.loop import EventLoop
from framework.api.result_store import ResultStore
from framework.api.step import Board, Step
from framework.api.transport import Queue, Transport
from framework.client.request import Context
from framework.client.routing import Queues, select_queues, worker_direct
from framework.exceptions import ConfigError
from framework.message import read
from framework.wire.result_document import Documents
from framework.worker.dispatch.deduplication import Deduplication
from framework.worker.dispatch.dispatch import Dispatch
from framework.worker.dispatch.redelivery import Redelivery
from framework.worker.dispatch.revoked import Revokes
from framework.worker.dispatch.unknown_tasks import UnknownTasks
from framework.worker.intake.capacity import Prefetch
from framework.worker.intake.consumption import Consumption
from framework.worker.intake.intake import Intake
from framework.worker.intake.rate_limits import limits_of
from framework.worker.intake.shared_rate_limits import SharedRateLimits, find_store
from framework.worker.intake.subscriptions import Subscriptions
from framework.worker.settle.abnormal_ends import FailurePropagation
from framework.worker.settle.dead_letters import DeadLetters
from framework.worker.settle.outbox import Outbox
from framework.worker.settle.settle import Settle
from framework.worker.settle.termination import terminate_for_reconnect
from framework.worker.steps.consumer import consumer_steps
from framework.worker.steps.control.connection import ControlConnection

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.worker.process.run import WorkerRun

logger = logging.getLogger(__name__)


class SettleStep(Step):
    """Creates `Settle`, which settles messages when their tasks end, and its outputs."""

    name = "settle"
    requires = ("run", "loop", "transport", "results")
    provides = ("prefetch", "dead_letters", "outbox", "ticker")

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        settings = run.settings
        transport: Transport = board.get("transport")
        store: ResultStore = board.get("results")
        self._outbox = Outbox(transport.producer)
        dead_letters = DeadLetters(self._outbox, settings.task.dead_letter_queue)
        prefetch = Prefetch.of(settings.worker, run.concurrency)
        ticker = Ticker()
        documents = Documents.of(settings.result)
        settle = Settle(board.get("loop"), store, documents, dead_letters, self._outbox, prefetch, ticker)
        settle.failure_propagation = FailurePropagation(run.app)
        settle.request_of = request_of = lambda payload: Context.from_incoming(read(payload), run.app)
        if settings.worker.deduplicate_successful_tasks:
            settle.deduplication = Deduplication(settings, store, request_of, ticker)
        settle.hostname = run.hostname
        board.put("settle", settle)
        board.put("prefetch", prefetch)
        board.put("dead_letters", dead_letters)
        board.put("outbox", self._outbox)
        board.put("ticker", ticker)

    def close(self) -> None:
        self._outbox.close()


class Ticker:
    """Lets `settle`, which starts before the pool, request a tick of `intake`, which starts after the pool."""

    def __init__(self) -> None:
        self.ask: Callable[[], object] = lambda: None

    def __call__(self) -> None:
        """Request a tick."""
        self.ask()


class RevokesStep(Step):
    """Keeps the ids and stamps of revoked tasks; with a state file the ids survive restarts."""

    name = "revokes"
    requires = ("run", "logging")

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        worker = run.settings.worker
        #: None: the state file could not be used.
        self._revokes: Revokes | None = None
        file = None
        if run.statedb:
            # Memory: few workers have a state file, and it loads SQLite.
            from framework.worker.dispatch.revoked_file import StateFile

            file = StateFile(run.statedb)
        self._revokes = Revokes(worker.revokes_max, worker.revoke_expires, file)
        board.put("revokes", self._revokes)

    def close(self) -> None:
        if self._revokes is not None:
            self._revokes.close()


class IntakeStep(Step):
    """Connects the fetching of messages, the dispatch and the pool."""

    name = "intake"
    requires = (
        *(
            "run",
            "loop",
            "pool",
            "settle",
            "prefetch",
            "dead_letters",
            "outbox",
            "queues",
            "revokes",
            "ticker",
            "hooks",
        ),
    )
    provides = ("dispatch", "redelivery")

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        settings = run.settings
        settle: Settle = board.get("settle")
        limits = (settings.task.soft_time_limit, settings.task.time_limit)
        loop: EventLoop = board.get("loop")
        hooks: Hooks = board.get("hooks")
        dead_letters: DeadLetters = board.get("dead_letters")
        revokes: Revokes = board.get("revokes")
        unknown_tasks = UnknownTasks(loop, board.get("outbox"), settle, dead_letters, revokes, settings, hooks)
        intake = Intake(
            loop, board.get("pool"), settle, board.get("prefetch"), board.get("queues"), unknown_tasks, limits
        )
        policies = {name: task.policy for name, task in run.app.tasks.items()}
        redelivery = Redelivery(settle.unsettled)
        dispatch = Dispatch(
            policies, settle, intake.schedule, dead_letters, revokes, settings, hooks, redelivery, unknown_tasks
        )
        intake.bind(dispatch)
        board.put("redelivery", redelivery)
        ticker: Ticker = board.get("ticker")
        ticker.ask = intake.ask
        board.put("intake", intake)
        board.put("dispatch", dispatch)


class QueuesStep(Step):
    """Selects the queues to consume from; remote control may change them later."""

    name = "queues"
    requires = ("run",)

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        worker = run.settings.worker
        queues: Sequence[Queue] = select_queues(run.settings, worker.queues, worker.exclude_queues)
        if not queues:
            raise ConfigError("no queue is left to consume from: check -Q and -X")
        if worker.direct:
            queues = [*queues, worker_direct(run.hostname)]
        board.put("queues", Subscriptions(queues, Queues(run.settings.task)))


class RatesStep(Step):
    """Sets the rate limits of tasks, and connects to the store that counts shared limits."""

    name = "rates"
    requires = ("run", "loop", "transport", "intake")

    def enabled(self, settings: Settings) -> str | None:
        return "disable_rate_limits under [worker] is true" if settings.worker.disable_rate_limits else None

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        intake: Intake = board.get("intake")
        broker: Transport = board.get("transport")
        self._store = find_store(run.settings, broker)
        self._own = self._store is not broker
        self._shared_limits = None if self._store is None else SharedRateLimits(board.get("loop"), self._store)
        intake.rates.starts = self._shared_limits
        intake.rates.disabled = False
        for name, rate, shared in limits_of({name: task.policy for name, task in run.app.tasks.items()}):
            intake.rates.set(name, rate, shared=shared)
        board.put("rates", intake.rates)

    def close(self) -> None:
        if self._shared_limits is not None:
            self._shared_limits.close()
        if self._own and self._store is not None:
            self._store.close()


class LoopThreadStep(Step):
    """Runs the loop in its own thread.

    The main thread handles the signals, and runs tasks if the pool runs them in the main thread.
    """

    name = "loop-thread"
    requires = ("loop", "pool", "intake")
    after = ("rates", "autoscaler", "autoreload", "health")

    def start(self, board: Board) -> None:
        self._loop: EventLoop = board.get("loop")
        self._thread = threading.Thread(target=self._loop.run, name="framework-loop", daemon=True)
        self._thread.start()
        board.put("loop-thread", self._thread)

    def stop(self, deadline: float) -> None:
        self._loop.stop()
        self._thread.join(max(0.1, deadline - time.monotonic()))


class ConsumptionStep(Step):
    """Consumes from the broker: starts the consumer's graph, again after each loss of the connection."""

    name = "consumption"
    requires = (
        *(
            "run",
            "loop",
            "loop-thread",
            "transport",
            "intake",
            "redelivery",
            "queues",
            "revokes",
            "hooks",
            "settle",
            "pool",
        ),
    )
    #: Task events must be on before the first task runs. A worker that logs ready must answer remote control,
    #: have asked other workers for revoked ids, and be able to notify the service manager.
    after = ("control_connection", "events", "control", "mingle", "control-connect", "notify")

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        self._loop = loop = cast("EventLoop", board.get("loop"))
        hooks: Hooks = board.get("hooks")
        ready = hooks.bind("worker_ready")

        control: ControlConnection | None = board.find("control_connection")

        def on_ready() -> None:
            if control is not None:
                control.hurry()  # other workers know which of the first tasks are revoked
            if ready is not None:
                ready(app=run.app, hostname=run.hostname)
            run.ready()

        self._consumption = Consumption(
            loop,
            board.get("transport"),
            board.get("intake"),
            board.get("redelivery"),
            board.get("queues"),
            board.get("revokes"),
            run.settings,
            run.hostname,
            consumer_steps,
            on_ready,
            run.fail,
        )
        if run.settings.worker.cancel_long_running_tasks_on_connection_loss:
            self._consumption.on_loss = partial(terminate_for_reconnect, board.get("settle"), board.get("pool"))
        # On the board before it starts: the loop's thread may end the run at once, and needs it there.
        board.put("consumption", self._consumption)
        loop.call_soon_threadsafe(self._consumption.start)

    def stop(self, deadline: float) -> None:
        # The end of a stop has closed it already, unless the start failed. Only the loop's thread may close it.
        self._loop.call_soon_threadsafe(self._consumption.close)
