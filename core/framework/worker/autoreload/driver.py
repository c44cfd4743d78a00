"""Autoreload: reloads the code when a source file of the tasks has changed. For development.

1. Watches the files of the modules that define tasks, and of those in `imports` and `include`, through `fsnotify`.
2. Waits until a burst of saves is over, and compares the contents: a touched file has not changed. The pool prepares
   its restart meanwhile.
3. Reloads, in the worker's process, the changed modules and the watched modules that import them, imported ones first.
   The pool then replaces each slot after its task; prefork starts a new server, which imports all code.
4. If a module cannot be reloaded, logs where, and restores everything: tasks still run the old code.

Everything runs in the loop.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Final

import msgspec

from framework.api.fsnotify import Watcher
from framework.api.loop import Loop, Timer
from framework.api.pool import Pool
from framework.client.app import App
from framework.exceptions import FrameworkError
from framework.worker.autoreload.reloading import Reloading, apply_policies, imports_of, policies_of
from framework.worker.intake.intake import Intake

logger = logging.getLogger(__name__)

#: Seconds without a further change after which a burst of saves is over.
_BURST_PAUSE: Final = 0.1
#: The most seconds of a burst, from its first change.
_BURST_MAX: Final = 1.0


class AutoreloadContext(msgspec.Struct, kw_only=True):
    """The parts of the worker that autoreload uses."""

    app: App
    #: The application's path, ``module:attribute``.
    target: str
    loop: Loop
    watcher: Watcher
    #: The watcher's name, for the log.
    watcher_name: str
    pool: Pool
    intake: Intake
    #: Prepares the restart of the pool, as far as it needs no new code.
    prepare: Callable[[], object]


class Autoreloader:
    """Reloads changed source files into the worker and its pool."""

    def __init__(self, worker: AutoreloadContext) -> None:
        self.worker = worker
        self._app = worker.app
        self._loop = worker.loop
        self._watcher = worker.watcher
        self._reloading = Reloading(worker.app, worker.target, ["*"])
        #: Module names by file, and the hash of each file's contents when it was last read.
        self._modules: dict[str, str] = {}
        self._hashes: dict[str, int | None] = {}
        self._reported: set[str] = set()
        self._first_reported = 0.0
        self._timer: Timer | None = None
        self._poll_timer: Timer | None = None

    # ------------------------------------------------------------ start and stop

    def start(self) -> None:
        """Start watching. Raises `OSError` when the system refuses."""
        self.watch_modules()
        if (fd := self._watcher.fileno()) is not None:
            self._loop.add_reader(fd, self._read)
        else:
            self._poll_timer = self._loop.call_later(self._watcher.interval, self._poll)
        logger.info("Autoreload watches %d modules by %s", len(self._modules), self.worker.watcher_name)

    def stop(self) -> None:
        """Stop watching."""
        if (fd := self._watcher.fileno()) is not None:
            self._loop.remove_reader(fd)
        for timer in (self._timer, self._poll_timer):
            if timer is not None:
                timer.cancel()
        self._watcher.close()

    def watch_modules(self) -> None:
        """Watch also the modules that were imported since the last call."""
        for name in self._reloading.task_modules():
            path = _source(sys.modules[name])
            if name != "__main__" and path is not None and path not in self._modules:
                self._modules[path] = name
                self._hashes[path] = _hash(path)
        self._watcher.watch(self._modules)

    # ------------------------------------------------------------ changes

    def _poll(self) -> None:
        self._poll_timer = self._loop.call_later(self._watcher.interval, self._poll)
        self._read()

    def _read(self) -> None:
        changed = self._watcher.read()
        if not changed:
            return
        now = self._loop.time()
        if not self._reported:
            self._first_reported = now
            self.worker.prepare()
        self._reported |= changed
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, min(_BURST_PAUSE, self._first_reported + _BURST_MAX - now))
        self._timer = self._loop.call_later(delay, self._on_burst_over)

    def _on_burst_over(self) -> None:
        self._timer = None
        reported, self._reported = self._reported, set()
        changed = []
        for path in sorted(reported & self._modules.keys()):
            new = _hash(path)
            # The code of a removed file stays loaded until the file exists again.
            if new is not None and new != self._hashes[path]:
                self._hashes[path] = new
                changed.append(path)
        if changed and not self.worker.intake.draining:
            self._reload_changed([self._modules[path] for path in changed])

    # ------------------------------------------------------------ reloading

    def _reload_changed(self, names: list[str]) -> None:
        logger.info("Detected modified modules: %r", names)
        try:
            self.reload(names)
        except FrameworkError as error:
            logger.error("The new code cannot be loaded, tasks still run the old code: %s", error)

    def reload(self, names: list[str]) -> None:
        """Reload the modules `names` in the worker and restart its pool.

        Raises `FrameworkError` when a module cannot be reloaded; then nothing has changed.
        """
        before = policies_of(self._app)
        modules = [sys.modules[name] for name in _with_importers(names, self._modules.values())]
        for module in modules:
            _check(module)
        self._reloading.load([module.__name__ for module in modules], reload=True)
        apply_policies(self._app, self.worker.intake, before)
        self.worker.pool.restart((), fresh=True)
        self.watch_modules()


def _with_importers(names: Iterable[str], watched: Iterable[str]) -> list[str]:
    """Return `names` and the `watched` modules that import one of them, directly or indirectly."""
    importers = {name: set(imports_of(sys.modules[name])) for name in watched}
    found = dict.fromkeys(names)
    while more := [name for name, imports in importers.items() if name not in found and imports & found.keys()]:
        found.update(dict.fromkeys(more))
    return list(found)


def _check(module: ModuleType) -> None:
    """Raise `FrameworkError` if the file of `module` cannot be read or compiled."""
    path = _source(module)
    if path is None:
        return
    try:
        compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    except OSError as error:
        raise FrameworkError(f"cannot read {path}: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        text = getattr(error, "msg", None) or error
        raise FrameworkError(f"{path}, line {line or 1}: {type(error).__name__}: {text}") from error


def _source(module: ModuleType) -> str | None:
    """Return the source file of `module`; None: it has no Python source."""
    try:
        path = inspect.getsourcefile(module)
    except TypeError:
        return None
    return os.path.abspath(path) if path else None


def _hash(path: str) -> int | None:
    try:
        return hash(Path(path).read_bytes())
    except OSError:
        return None
