"""The steps of the worker's graph: each starts one part and says what it needs.

Order comes from `requires` alone; what a step leaves on the board is named after the step.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from framework._boot.consumption import Consumption
from framework._boot.preload import is_patched
from framework._documents import Documents
from framework._plugins import catalog, loader
from framework._plugins.hooks import Hooks
from framework.api.pool import Pool, PoolContext
from framework.api.result_store import ResultStore
from framework.api.step import Board, Step
from framework.api.transport import Queue, Transport
from framework.exceptions import ConfigError
from framework.routing import select_queues
from framework.worker import execute
from framework.worker.clock import Clock
from framework.worker.control import COMMANDS, ConsumerView, ControlState, Qos
from framework.worker.deadletters import DeadLetters
from framework.worker.dispatch import Dispatch
from framework.worker.intake import Intake
from framework.worker.logs import setup_logging
from framework.worker.loop import Loop
from framework.worker.mailroom import Mailroom
from framework.worker.pidfile import Pidfile
from framework.worker.prefetch import Prefetch
from framework.worker.revokes import Revokes
from framework.worker.settle import Settle
from framework.worker.verdicts import Verdicts

if TYPE_CHECKING:
    from framework._boot.worker import WorkerRun
    from framework._config.settings import Settings
    from framework.app import App

logger = logging.getLogger(__name__)


def origin_of(family: str, name: str) -> str:
    """Return which distribution brings the plugin `name`, for error texts and drawings."""
    found = catalog.find(family, name)
    return f"{family} {name} of {found[0].distribution} {found[0].version}" if found else f"{family} {name}"


class LoggingStep(Step):
    """Sets up the log."""

    name = "logging"
    requires = ("run", "hooks")

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        setup_logging(run.settings.worker, run.hostname, board.get("hooks"))
        board.put("logging", True)


class HooksStep(Step):
    """Loads the installed hooks and calls `worker_init`."""

    name = "hooks"
    requires = ("run",)

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        hooks: Hooks = run.app.hooks
        hooks.load_installed()
        if (worker_init := hooks.bind("worker_init")) is not None:
            worker_init(app=run.app, hostname=run.hostname)
        board.put("hooks", hooks)
        self._on_shutdown = hooks.bind("worker_shutdown")
        self._hostname = run.hostname

    def close(self) -> None:
        if self._on_shutdown is not None:
            self._on_shutdown(hostname=self._hostname)


class PidfileStep(Step):
    """Keeps the pidfile while the worker runs."""

    name = "pidfile"
    requires = ("run",)

    def enabled(self, settings: Settings) -> str | None:
        return None if settings.worker.pidfile else "no --pidfile"

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        self._pidfile = Pidfile(run.pidfile)
        self._pidfile.take()
        board.put("pidfile", self._pidfile)

    def close(self) -> None:
        self._pidfile.release()


class LoopStep(Step):
    """Makes the event loop; `turning` turns it."""

    name = "loop"
    requires = ("logging",)

    def start(self, board: Board) -> None:
        self._loop = Loop()
        board.put("loop", self._loop)

    def close(self) -> None:
        self._loop.close()


class TransportStep(Step):
    """Loads the transport that the broker's URL names."""

    name = "transport"
    requires = ("run", "logging")

    def __init__(self, settings: Settings) -> None:
        self.origin = origin_of("transport", loader.transport_name(settings.broker.url))

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        self._transport = loader.make_transport(run.settings)
        board.put("transport", self._transport)

    def close(self) -> None:
        self._transport.close()


class ResultsStep(Step):
    """Loads the result store that the result URL names."""

    name = "results"
    requires = ("run", "transport")

    def __init__(self, settings: Settings) -> None:
        self.origin = origin_of("result_store", loader.scheme_of(settings.result.backend or "none://"))

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        self._store = loader.make_result_store(run.settings, board.get("transport"))
        board.put("results", self._store)

    def close(self) -> None:
        self._store.close()


class PoolStep(Step):
    """Loads the pool, holds its traits against what was asked for, and starts it."""

    name = "pool"
    requires = ("run", "loop", "settle", "hooks")

    def __init__(self, settings: Settings) -> None:
        self.origin = origin_of("pool", settings.worker.pool)
        #: None: it was refused before it was made.
        self._pool: Pool | None = None

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        worker = run.settings.worker
        plugin, options = loader.load_pool(run.settings)
        check_traits(plugin, run.settings, run.app)
        settle: Settle = board.get("settle")
        verdicts = Verdicts(settle, run.app, run.settings)
        self._loop: Loop = board.get("loop")
        self._pool = pool = plugin(
            PoolContext(
                loop=self._loop,
                events=settle,
                concurrency=run.concurrency,
                workload=lambda: execute.make(run.app, run.settings, run.hostname),
                recipe=run.recipe,
                verdict=verdicts.verdict,
                hostname=run.hostname,
                max_tasks_per_child=worker.max_tasks_per_child,
                max_memory_per_child=worker.max_memory_per_child,
                start_method=worker.pool_start_method,
            ),
            options,
        )
        pool.prestart()
        pool.start()
        board.put("pool", pool)

    def stop(self, deadline: float) -> None:
        if self._pool is not None:
            self._pool.stop(deadline)


def check_traits(plugin: type[Pool], settings: Settings, app: App) -> None:
    """Refuse, in words, what the pool cannot do. Raises `ConfigError`."""
    name, traits, task = settings.worker.pool, plugin.traits, settings.task
    wanted = (
        (task.soft_time_limit, traits.soft_limit, "a soft time limit (--soft-time-limit)"),
        (task.time_limit, traits.hard_limit, "a hard time limit (--time-limit)"),
    )
    for value, able, what in wanted:
        if value is not None and not able:
            raise ConfigError(
                f"the pool {name!r} cannot enforce {what}: choose another with --pool, or leave the limit out"
            )
    if traits.green and (names := [each.name for each in app.tasks.values() if inspect.iscoroutinefunction(each.run)]):
        # Greenlets share one thread, and asyncio allows one running loop a thread. A warning: the queues of this worker
        # may bring none of these.
        logger.warning(
            "The pool %r cannot run two tasks at a time that are async functions (%s): "
            "have a worker with asyncio, prefork, threads or solo consume them",
            name,
            ", ".join(names),
        )
    if traits.patch is not None and not is_patched(traits.patch):
        raise ConfigError(
            f"the pool {name!r} was chosen in code, when it was too late to patch the standard library for it: "
            f"choose it with --pool, with FRAMEWORK_WORKER_POOL or in framework.toml"
        )
    if not traits.recycles and (settings.worker.max_tasks_per_child or settings.worker.max_memory_per_child):
        logger.warning(
            "The pool %r has no processes to recycle: max-tasks-per-child and max-memory-per-child are ignored",
            name,
        )
    if traits.main_thread and settings.worker.concurrency not in (None, 1, "auto"):
        logger.warning(
            "The pool %r runs one task at a time: the concurrency of %s is ignored",
            name,
            settings.worker.concurrency,
        )


class SettleStep(Step):
    """Makes what decides about messages when their tasks end, and what it writes to."""

    name = "settle"
    requires = ("run", "loop", "transport", "results")
    provides = ("prefetch", "deadletters", "ticker")

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        settings = run.settings
        transport: Transport = board.get("transport")
        store: ResultStore = board.get("results")
        self._deadletters = DeadLetters(transport.producer, settings.task.dead_letter_queue)
        prefetch = Prefetch(settings.worker.prefetch_multiplier, run.concurrency)
        ticker = Ticker()
        documents = Documents(settings.result.serializer, settings.result.compression)
        settle = Settle(board.get("loop"), store, documents, self._deadletters, prefetch, ticker)
        board.put("settle", settle)
        board.put("prefetch", prefetch)
        board.put("deadletters", self._deadletters)
        board.put("ticker", ticker)

    def close(self) -> None:
        self._deadletters.close()


class Ticker:
    """Lets `settle`, which comes before the pool, ask for a tick of `intake`, which comes after it."""

    def __init__(self) -> None:
        self.ask: Callable[[], object] = lambda: None

    def __call__(self) -> None:
        """Ask for a tick."""
        self.ask()


class IntakeStep(Step):
    """Joins fetching, deciding and feeding the pool."""

    name = "intake"
    requires = ("run", "loop", "pool", "settle", "prefetch", "deadletters", "ticker", "hooks")
    provides = ("revokes",)

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        settings = run.settings
        settle: Settle = board.get("settle")
        revokes = Revokes(settings.worker.revokes_max, settings.worker.revoke_expires)
        limits = (settings.task.soft_time_limit, settings.task.time_limit)
        intake = Intake(board.get("loop"), board.get("pool"), settle, board.get("prefetch"), limits)
        policies = {name: task.policy for name, task in run.app.tasks.items()}
        intake.bind(
            Dispatch(
                policies,
                settle,
                intake.schedule,
                board.get("deadletters"),
                revokes,
                settings,
                board.get("hooks"),
            )
        )
        ticker: Ticker = board.get("ticker")
        ticker.ask = intake.ask
        board.put("intake", intake)
        board.put("revokes", revokes)


class QueuesStep(Step):
    """Selects the queues to consume from."""

    name = "queues"
    requires = ("run",)

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        worker = run.settings.worker
        queues: Sequence[Queue] = select_queues(run.settings, worker.queues, worker.exclude_queues)
        if not queues:
            raise ConfigError("no queue is left to consume from: check -Q and -X")
        board.put("queues", list(queues))


class TurningStep(Step):
    """Turns the loop in a thread of its own.

    The main thread keeps the signals, and runs tasks where a pool wants that.
    """

    name = "turning"
    requires = ("loop", "pool", "intake")

    def start(self, board: Board) -> None:
        self._loop: Loop = board.get("loop")
        self._thread = threading.Thread(target=self._loop.run, name="framework-loop", daemon=True)
        self._thread.start()
        board.put("turning", self._thread)

    def stop(self, deadline: float) -> None:
        self._loop.stop()
        self._thread.join(max(0.1, deadline - time.monotonic()))


class ConsumptionStep(Step):
    """Consumes: keeps the consumer graph up while there is a broker."""

    name = "consumption"
    requires = ("run", "loop", "turning", "transport", "intake", "queues", "hooks")

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        self._loop = loop = cast("Loop", board.get("loop"))
        self._consumption = Consumption(
            loop,
            board.get("transport"),
            board.get("intake"),
            board.get("queues"),
            run.settings,
            run.hostname,
            run.ready,
        )
        hooks: Hooks = board.get("hooks")
        if (ready := hooks.bind("worker_ready")) is not None:
            self._consumption.on_ready = lambda: ready(app=run.app, hostname=run.hostname)
        # On the board before it starts: the loop is in another thread, and may end the run from there at once.
        board.put("consumption", self._consumption)
        loop.call_soon_threadsafe(self._consumption.start)

    def stop(self, deadline: float) -> None:
        # The drain has closed it already, unless the start failed half-way. It is the loop's, so the loop closes it.
        self._loop.call_soon_threadsafe(self._consumption.close)


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
            COMMANDS,
            clock,
            run.hostname,
            run.settings.control,
            run.settings.accept_content,
        )
        intake: Intake = board.get("intake")
        pool: Pool = board.get("pool")
        consumption: Consumption = board.get("consumption")
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
            queues=lambda: consumption.queues,
            stop=lambda: run.stopper.warm(),
            started=run.began,
        )
        loop.call_soon_threadsafe(self._mailroom.start, state)
        board.put("control", self._mailroom)

    def stop(self, deadline: float) -> None:
        self._loop.call_soon_threadsafe(self._mailroom.close)


def worker_steps(settings: Settings) -> list[Step]:
    """Return the built-in steps of the worker's graph."""
    return [
        HooksStep(),
        LoggingStep(),
        PidfileStep(),
        LoopStep(),
        TransportStep(settings),
        ResultsStep(settings),
        SettleStep(),
        PoolStep(settings),
        IntakeStep(),
        QueuesStep(),
        TurningStep(),
        ConsumptionStep(),
        ControlStep(),
    ]
