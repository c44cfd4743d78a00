"""The step that scales the pool."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from framework._boot import loader
from framework._config.autoscale import autoscale_range
from framework.api.autoscaler import Autoscaler as Decider
from framework.api.step import Board, Step
from framework.exceptions import ConfigError
from framework.worker.autoscaler.driver import AutoscaleContext, AutoscalerDriver
from framework.worker.steps.plugins import class_at, origin_of

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.api.loop import Loop
    from framework.worker.process.run import WorkerRun

logger = logging.getLogger(__name__)

#: The autoscaler plugin for a driver class of the user.
DEFAULT: Final = "queue"
#: Class paths in older configurations that select the default.
_OLD: Final = ("celery.worker.autoscale:Autoscaler", "framework.worker.autoscaler:Autoscaler")


class AutoscalerStep(Step):
    """Loads the autoscaler, and keeps the pool at the size that it returns."""

    name = "autoscaler"
    requires = ("run", "loop", "pool", "intake", "settle", "prefetch")

    def __init__(self, settings: Settings) -> None:
        self.origin = origin_of("autoscaler", settings.worker.autoscaler)
        self._autoscaler: AutoscalerDriver | None = None

    def enabled(self, settings: Settings) -> str | None:
        return None if settings.worker.autoscale is not None else "no --autoscale"

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        worker = run.settings.worker
        driver, decider = choose(run.settings)
        largest, smallest = autoscale_range(worker.autoscale or "")
        if worker.concurrency not in (None, "auto"):
            logger.warning("The pool is scaled between %d and %d slots: --concurrency is ignored", smallest, largest)
        self._autoscaler = driver(
            board.get("pool"),
            largest,
            smallest,
            worker=AutoscaleContext(
                loop=board.get("loop"),
                intake=board.get("intake"),
                settle=board.get("settle"),
                prefetch=board.get("prefetch"),
                decider=decider,
            ),
            keepalive=worker.autoscale_keepalive,
        )
        # Called directly: the loop does not run yet, because `loop-thread` starts after this step.
        self._autoscaler.start()
        self._loop: Loop = board.get("loop")
        board.put("autoscaler", self._autoscaler)

    def stop(self, deadline: float) -> None:
        if self._autoscaler is not None:
            self._loop.call_soon_threadsafe(self._autoscaler.stop)


def choose(settings: Settings) -> tuple[type[AutoscalerDriver], Decider]:
    """Return the driver's class and the autoscaler that the settings name.

    A class path may name a subclass of either. Raises `ConfigError`, or the errors of loading a plugin.
    """
    name = settings.worker.autoscaler
    if ":" not in name and "." not in name:
        return AutoscalerDriver, loader.make_autoscaler(settings, name)
    if name.replace(":", ".") in [old.replace(":", ".") for old in _OLD]:
        return AutoscalerDriver, loader.make_autoscaler(settings, DEFAULT)
    found = class_at(name, "autoscaler")
    if isinstance(found, type) and issubclass(found, AutoscalerDriver):
        return found, loader.make_autoscaler(settings, DEFAULT)
    if isinstance(found, type) and issubclass(found, Decider):
        return AutoscalerDriver, found(loader.options("autoscaler", name, found, settings.autoscaler.get(name, {})))
    raise ConfigError(
        f"autoscaler under [worker] is {name!r}, which is no subclass of framework.worker.autoscaler.Autoscaler "
        f"or framework.api.autoscaler.Autoscaler"
    )
