"""Autoreload: runs new code when a source file of the tasks has changed. For development.

1. Watches the files of the modules that tasks come from, and of those in `imports` and `include` (`fsnotify` tells).
2. Waits until a burst of saves is over, and looks at the contents: a file that was only touched has not changed. The
   pool gets ready meanwhile.
3. Reloads the modules that changed and those of the watched ones that import them, each after what it imports, in the
   worker's process; then has the pool replace its slots, each after its task. prefork starts a server that imports all
   code anew.
4. If a module cannot be reloaded, says where, and everything is as it was: the old code goes on.

Everything happens in the loop.
"""

from __future__ import annotations

import hashlib
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
from framework.worker.autoreload.reloading import Reloading, imports_of, policies_of, take_up
from framework.worker.intake.intake import Intake

logger = logging.getLogger(__name__)

#: Seconds without news after which a burst of saves is over.
_QUIET: Final = 0.1
#: Seconds from the first news after which the burst is taken for over.
_PATIENCE: Final = 1.0


class AutoreloadContext(msgspec.Struct, kw_only=True):
    """What autoreload needs of the worker."""

    app: App
    #: Where the application is found, ``module:attribute``.
    target: str
    loop: Loop
    watcher: Watcher
    #: What the watcher is called.
    watcher_name: str
    pool: Pool
    intake: Intake
    #: Lets the pool begin with what needs none of the new code.
    prepare: Callable[[], object]


class Autoreloader:
    """Keeps the worker's code as it is on the disk."""

    def __init__(self, worker: AutoreloadContext) -> None:
        self.worker = worker
        self._app = worker.app
        self._loop = worker.loop
        self._watcher = worker.watcher
        self._reloading = Reloading(worker.app, worker.target, ["*"])
        #: Modules by file, and what each file contained when it was last looked at.
        self._modules: dict[str, str] = {}
        self._digests: dict[str, bytes] = {}
        self._told: set[str] = set()
        self._first_told = 0.0
        self._timer: Timer | None = None
        self._poll_timer: Timer | None = None

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Begin to watch. Raises `OSError` when the system refuses."""
        self.renew()
        if (fd := self._watcher.fileno()) is not None:
            self._loop.add_reader(fd, self._read)
        else:
            self._poll_timer = self._loop.call_later(self._watcher.interval, self._poll)
        logger.info("Autoreload watches %d modules by %s", len(self._modules), self.worker.watcher_name)

    def stop(self) -> None:
        """Watch no longer."""
        if (fd := self._watcher.fileno()) is not None:
            self._loop.remove_reader(fd)
        for timer in (self._timer, self._poll_timer):
            if timer is not None:
                timer.cancel()
        self._watcher.close()

    def renew(self) -> None:
        """Watch the modules that have come as well."""
        for name in self._reloading.task_modules():
            path = _source(sys.modules[name])
            if name != "__main__" and path is not None and path not in self._modules:
                self._modules[path] = name
                self._digests[path] = _digest(path) or b""
        self._watcher.watch(self._modules)

    # ------------------------------------------------------------ news

    def _poll(self) -> None:
        self._poll_timer = self._loop.call_later(self._watcher.interval, self._poll)
        self._read()

    def _read(self) -> None:
        news = self._watcher.read()
        if not news:
            return
        now = self._loop.time()
        if not self._told:
            self._first_told = now
            self.worker.prepare()
        self._told |= news
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, min(_QUIET, self._first_told + _PATIENCE - now))
        self._timer = self._loop.call_later(delay, self._settled)

    def _settled(self) -> None:
        self._timer = None
        told, self._told = self._told, set()
        changed = []
        for path in sorted(told & self._modules.keys()):
            digest = _digest(path)
            # One that is gone runs on until there is another in its place.
            if digest is not None and digest != self._digests[path]:
                self._digests[path] = digest
                changed.append(path)
        if changed and not self.worker.intake.draining:
            self._changed([self._modules[path] for path in changed])

    # ------------------------------------------------------------ reloading

    def _changed(self, names: list[str]) -> None:
        logger.info("Detected modified modules: %r", names)
        try:
            self.reload(names)
        except FrameworkError as error:
            logger.error("The old code goes on, because the new one cannot be loaded: %s", error)

    def reload(self, names: list[str]) -> None:
        """Bring the new code of the modules `names` into the worker and its pool.

        Raises `FrameworkError` when that cannot be done; then nothing has changed.
        """
        before = policies_of(self._app)
        modules = [sys.modules[name] for name in _with_importers(names, self._modules.values())]
        for module in modules:
            _check(module)
        self._reloading.bring([module.__name__ for module in modules], reload=True)
        take_up(self._app, self.worker.intake, before)
        self.worker.pool.restart((), fresh=True)
        self.renew()


def _with_importers(names: Iterable[str], watched: Iterable[str]) -> list[str]:
    """Return `names` and those of the `watched` modules that import one of them, directly or not."""
    importers = {name: set(imports_of(sys.modules[name])) for name in watched}
    found = dict.fromkeys(names)
    while more := [name for name, imports in importers.items() if name not in found and imports & found.keys()]:
        found.update(dict.fromkeys(more))
    return list(found)


def _check(module: ModuleType) -> None:
    """Raise `FrameworkError` if the file of `module` is no Python."""
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
    """Return the file that `module` was made from; None: it was made from no Python source."""
    try:
        path = inspect.getsourcefile(module)
    except TypeError:
        return None
    return os.path.abspath(path) if path else None


def _digest(path: str) -> bytes | None:
    try:
        return hashlib.blake2b(Path(path).read_bytes()).digest()
    except OSError:
        return None
