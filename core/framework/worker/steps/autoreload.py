"""The steps of autoreload: the file watcher, and the reloading."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from framework._boot import loader
from framework._boot.preload import prepare
from framework.api.fsnotify import Watcher
from framework.api.pool import Pool
from framework.api.step import Board, Step
from framework.exceptions import ConfigError
from framework.worker.autoreload.driver import AutoreloadContext, Autoreloader
from framework.worker.steps.plugins import class_at, origin_of

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.api.loop import Loop
    from framework.worker.process.run import WorkerRun

#: Class paths in Celery configurations that select the default.
_OLD: Final = ("celery.worker.autoreload:Autoreloader", "celery.worker.autoreload.Autoreloader")


def _enabled(settings: Settings) -> str | None:
    return None if settings.worker.autoreload else "no --autoreload"


class FsnotifyStep(Step):
    """Loads the file watcher that the settings name, by default the best available one."""

    name = "fsnotify"
    requires = ("run",)

    def __init__(self, settings: Settings) -> None:
        if settings.worker.fsnotify is not None:
            self.origin = origin_of("fsnotify", settings.worker.fsnotify)

    def enabled(self, settings: Settings) -> str | None:
        return _enabled(settings)

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        self._watcher = loader.make_watcher(run.settings)
        board.put("fsnotify", self._watcher)


class AutoreloadStep(Step):
    """Reloads the tasks' modules when their files change."""

    name = "autoreload"
    requires = ("run", "loop", "fsnotify", "pool", "intake")

    def enabled(self, settings: Settings) -> str | None:
        return _enabled(settings)

    def start(self, board: Board) -> None:
        run: WorkerRun = board.get("run")
        pool: Pool = board.get("pool")
        if not pool.traits.restart:
            raise ConfigError(
                f"the pool {run.settings.worker.pool!r} cannot be restarted, which --autoreload requires: "
                f"choose another with --pool"
            )
        watcher: Watcher = board.get("fsnotify")
        self._loop: Loop = board.get("loop")
        self._autoreloader = _choose(run.settings)(
            AutoreloadContext(
                app=run.app,
                target=run.target,
                loop=self._loop,
                watcher=watcher,
                watcher_name=type(watcher).__module__.rpartition(".")[2],
                pool=pool,
                intake=board.get("intake"),
                prepare=partial(prepare, type(pool), run.settings.worker.pool_start_method),
            )
        )
        # Called directly: the loop does not run yet, because `loop-thread` starts after this step.
        self._autoreloader.start()
        board.put("autoreload", self._autoreloader)

    def stop(self, deadline: float) -> None:
        self._loop.call_soon_threadsafe(self._autoreloader.stop)


def _choose(settings: Settings) -> type[Autoreloader]:
    path = settings.worker.autoreloader
    if path is None or path in _OLD:
        return Autoreloader
    found = class_at(path, "autoreloader")
    if not (isinstance(found, type) and issubclass(found, Autoreloader)):
        raise ConfigError(
            f"autoreloader under [worker] is {path!r}, which is no subclass of framework.worker.autoreload.Autoreloader"
        )
    return found
