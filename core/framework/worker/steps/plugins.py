"""The steps that load and start a plugin: the transport, the result store, the pool."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from framework._boot import catalog, loader
from framework._boot.loop import EventLoop
from framework._config.autoscale import autoscale_range
from framework._config.urls import NO_RESULTS
from framework.api.pool import Pool, PoolContext
from framework.api.step import Board, Step
from framework.exceptions import ConfigError
from framework.worker.autoscaler.system_load import measure
from framework.worker.process import child
from framework.worker.settle.abnormal_ends import AbnormalEnds
from framework.worker.settle.settle import Settle

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework._config.tables.worker import WorkerSettings
    from framework.worker.process.run import WorkerRun

logger = logging.getLogger(__name__)


def origin_of(family: str, name: str) -> str:
    """Return the plugin `name` and its distribution, for error texts and drawings."""
    found = catalog.find(family, name)
    return f"{family} {name} of {found[0].distribution} {found[0].version}" if found else f"{family} {name}"


def class_at(path: str, setting: str) -> Any:
    """Return the object at ``module:Class``, the value of the worker's `setting`. Raises `ConfigError`."""
    module, _, attribute = path.rpartition(":" if ":" in path else ".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{setting} under [worker] is {path!r}, which cannot be imported: {error}") from error


def without_fanout(settings: Settings) -> str | None:
    """Return why the transport supports neither remote control nor events; None: it supports them."""
    name, plugin = loader.load_transport(settings)
    if not plugin.traits.fanout:
        return f"the transport {name!r} has no fan-out, which remote control and events require"
    return None


class TransportStep(Step):
    """Loads the transport of the broker that the worker consumes from."""

    name = "transport"
    requires = ("run", "logging")

    def __init__(self, settings: Settings) -> None:
        self.origin = origin_of("transport", loader.transport_name(settings.broker.reading))

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        self._transport = loader.make_transport(run.settings)
        if run.settings.worker.send_task_events and not self._transport.traits.fanout:
            logger.warning(
                "The broker %s has no fan-out: no task events are sent, -E is ignored", self._transport.display_url
            )
        if run.settings.worker.enable_remote_control and (reason := without_fanout(run.settings)):
            logger.warning("This worker works without remote control: %s", reason)
        board.put("transport", self._transport)

    def close(self) -> None:
        self._transport.close()


class ResultsStep(Step):
    """Loads the result store that the result URL names."""

    name = "results"
    requires = ("run", "transport")

    def __init__(self, settings: Settings) -> None:
        self.origin = origin_of("result_store", loader.scheme_of(settings.result.backend or NO_RESULTS))

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        self._store = loader.make_result_store(run.settings, board.get("transport"))
        board.put("results", self._store)

    def close(self) -> None:
        self._store.close()


class PoolStep(Step):
    """Loads the pool, checks its traits against the settings, and starts it."""

    name = "pool"
    requires = ("run", "loop", "settle", "hooks")

    def __init__(self, settings: Settings) -> None:
        self.origin = origin_of("pool", settings.worker.pool)
        #: None until the pool was created.
        self._pool: Pool | None = None

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        worker = run.settings.worker
        plugin, options = loader.load_pool(run.settings)
        check_traits(plugin, run.settings)
        settle: Settle = board.get("settle")
        abnormal_ends = AbnormalEnds(settle, run.app, run.settings)
        self._loop: EventLoop = board.get("loop")
        self._pool = pool = plugin(
            PoolContext(
                loop=self._loop,
                events=settle,
                concurrency=run.concurrency,
                workload=lambda: child.make(run.app, run.settings, run.hostname, plugin.interrupts),
                recipe=run.recipe,
                outcome_for=abnormal_ends.outcome_for,
                hostname=run.hostname,
                max_tasks_per_child=worker.max_tasks_per_child,
                max_memory_per_child=_max_memory(worker, run.concurrency),
                start_timeout=worker.proc_alive_timeout,
                start_method=worker.pool_start_method,
                soft_limit=run.settings.task.soft_time_limit,
                hard_limit=run.settings.task.time_limit,
            ),
            options,
        )
        pool.prestart()
        pool.start()
        board.put("pool", pool)

    def stop(self, deadline: float) -> None:
        if self._pool is not None:
            self._pool.stop(deadline)


def _max_memory(worker: WorkerSettings, concurrency: int) -> int | None:
    """Return the memory limit of a child in KiB; for `auto` an equal share, with one for the worker itself."""
    if worker.max_memory_per_child != "auto":
        return worker.max_memory_per_child
    slots = concurrency if worker.autoscale is None else autoscale_range(worker.autoscale).largest
    return max(1, measure().memory_total * 1024 // (slots + 1))


def check_traits(plugin: type[Pool], settings: Settings) -> None:
    """Check the settings against the traits of the pool. Raises `ConfigError`."""
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
    if not plugin.patched():
        raise ConfigError(
            f"the pool {name!r} was chosen in code, too late to patch the standard library for it: "
            f"choose it with --pool, with FRAMEWORK_WORKER_POOL or in framework.toml"
        )
    if not traits.recycles and (settings.worker.max_tasks_per_child or settings.worker.max_memory_per_child):
        logger.warning(
            "The pool %r has no processes to recycle: max-tasks-per-child and max-memory-per-child are ignored", name
        )
    if settings.worker.autoscale is not None and not traits.resize:
        raise ConfigError(
            f"the pool {name!r} has a fixed size and cannot be scaled (--autoscale): "
            f"choose another with --pool, or leave the option out"
        )
    if settings.worker.cancel_long_running_tasks_on_connection_loss and not traits.terminate:
        raise ConfigError(
            f"the pool {name!r} cannot end a running task (cancel_long_running_tasks_on_connection_loss): "
            f"choose another with --pool, or leave the setting out"
        )
    if traits.main_thread and settings.worker.concurrency not in (None, 1, "auto"):
        logger.warning(
            "The pool %r runs one task at a time: the concurrency of %s is ignored", name, settings.worker.concurrency
        )
