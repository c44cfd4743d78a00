"""Reloads code in the worker's main process.

1. `Reloading` imports new modules and reloads imported ones, each after the modules that it imports.
2. A list of patterns limits the modules: their names come from outside.
3. If a module creates a new application, its tasks move to the worker's application, which replaces it in the module.
4. All or nothing: when one module fails, modules and tasks are restored.
5. `apply_policies` passes the policies of new and changed tasks to the worker.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import ModuleType
from typing import TYPE_CHECKING, Any

from framework.client import current
from framework.exceptions import FrameworkError

if TYPE_CHECKING:
    from framework.client.app import App
    from framework.client.task_policy import TaskPolicy
    from framework.worker.intake.intake import Intake

logger = logging.getLogger(__name__)


class Reloading:
    """Imports and reloads the modules of one application."""

    def __init__(self, app: App, target: str, allowed: Sequence[str]) -> None:
        """`target`: the application's path, ``module:attribute``; `allowed`: patterns of module names."""
        self._app = app
        self._target = target
        self._allowed = allowed

    def task_modules(self) -> list[str]:
        """Return the modules that define the application's tasks, and those that the settings import."""
        settings = self._app.conf.settings
        defined = [task.__module__ for task in self._app.tasks.values()]
        own = [name for name in defined if name.partition(".")[0] != __name__.partition(".")[0]]
        return [name for name in dict.fromkeys((*settings.imports, *settings.include, *own)) if name in sys.modules]

    def load(self, names: Iterable[str], reload: bool, reloader: str | None = None) -> None:
        """Import the modules `names`; with `reload`, reload the imported ones, by the function at `reloader` if set.

        Raises `FrameworkError` when a module is not allowed, or its import fails.
        """
        wanted = list(dict.fromkeys(names))
        for name in (*wanted, *((reloader.rpartition(".")[0],) if reloader else ())):
            self._check(name)
        reload_module = self._function(reloader) if reloader else importlib.reload
        importlib.invalidate_caches()
        imported = in_order([name for name in wanted if name in sys.modules]) if reload else []
        new = [name for name in wanted if name not in sys.modules]
        with self._all_or_nothing([sys.modules[name] for name in imported], new):
            for name in imported:
                _forget_compiled(sys.modules[name])
                self._call(f"reload {name}", reload_module, sys.modules[name])
                self._adopt()
            for name in new:
                self._call(f"import {name}", importlib.import_module, name)
                self._adopt()
            # Registered here, so that a name that is already in use fails the reload.
            self._call("register the shared tasks", self._app.tasks.share, self._app)

    @contextlib.contextmanager
    def _all_or_nothing(self, imported: Sequence[ModuleType], new: Sequence[str]) -> Iterator[None]:
        tasks = self._app.tasks.copy()
        shared = len(current.shared)
        contents = [(module, dict(vars(module))) for module in imported]
        try:
            yield
        except BaseException:  # a restart that was ended, too
            # Removed first: reading the tasks would register the shared ones.
            del current.shared[shared:]
            self._app.tasks.restore(tasks)
            for module, content in contents:
                _put_back(module, content)
            for name in new:
                sys.modules.pop(name, None)
            raise

    def _check(self, name: str) -> None:
        if not all(part.isidentifier() for part in name.split(".")):
            raise FrameworkError(f"{name!r:.80} is no module name")
        if not any(fnmatchcase(name, pattern) for pattern in self._allowed):
            patterns = ", ".join(self._allowed) or "none"
            raise FrameworkError(
                f"the module {name} may not be imported by pool_restart; pool_restart_modules under [worker] "
                f"allows {patterns}"
            )

    def _function(self, path: str) -> Callable[[ModuleType], object]:
        module, _, attribute = path.rpartition(".")
        found = getattr(self._call(f"import {module}", importlib.import_module, module), attribute, None)
        if not callable(found):
            raise FrameworkError(f"the reloader {path} is no function: wanted a dotted path such as proj.tools.renew")
        return found  # type: ignore[no-any-return]

    @staticmethod
    def _call(what: str, function: Callable[..., Any], argument: Any) -> Any:
        try:
            return function(argument)
        except (Exception, SystemExit) as error:  # a user's module may raise anything, and must not end the worker
            logger.debug("Cannot %s", what, exc_info=True)
            raise FrameworkError(f"cannot {what}: {error!r}{_place(error)}") from error

    def _adopt(self) -> None:
        """Take over the tasks of an application that replaced ours at `target`, and put ours back."""
        module, _, attribute = self._target.partition(":")
        *way, last = attribute.split(".")
        holder: Any = sys.modules.get(module)
        for part in way:
            holder = getattr(holder, part, None)
        found = getattr(holder, last, None)
        if isinstance(found, type(self._app)) and found is not self._app:
            self._app.tasks.adopt(self._app, found.tasks)
            setattr(holder, last, self._app)
            # Else messages sent without an explicit application would use the new one, which is never closed.
            current.forget(found)


def _put_back(module: ModuleType, content: dict[str, Any]) -> None:
    # Updated before names are removed: running tasks may use the module.
    now = vars(module)
    now.update(content)
    for name in now.keys() - content.keys():
        del now[name]


def _forget_compiled(module: ModuleType) -> None:
    """Remove the cached bytecode: after two changes in one second it may be stale without looking so."""
    cached = getattr(module, "__cached__", None)
    if cached is not None:
        with contextlib.suppress(OSError):
            os.unlink(cached)


def policies_of(app: App) -> dict[str, TaskPolicy]:
    """Return the policies of all tasks, by task name."""
    return {name: task.policy for name, task in app.tasks.items()}


def apply_policies(app: App, intake: Intake, before: Mapping[str, TaskPolicy]) -> None:
    """Pass the policies that differ from `before` to the worker's intake and its rate limits."""
    changed = {name: policy for name, policy in policies_of(app).items() if before.get(name) != policy}
    intake.update_policies(changed)
    for name, policy in changed.items():
        if name not in before or policy.rate_limit != before[name].rate_limit:
            intake.rates.set(name, policy.rate_limit, shared=policy.rate_limit_scope == "cluster")


def in_order(names: Sequence[str]) -> list[str]:
    """Return the modules `names`, each after the others that it imports."""
    ordered: dict[str, None] = {}
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name not in seen:
            seen.add(name)
            for other in imports_of(sys.modules[name]):
                if other in wanted:
                    visit(other)
            ordered[name] = None

    wanted = set(names)
    for name in names:
        visit(name)
    return list(ordered)


def imports_of(module: ModuleType) -> list[str]:
    """Return the names that the source of `module` imports; empty without readable source."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            if node.level:
                try:
                    base = importlib.util.resolve_name(base, module.__package__ or None)
                except ImportError:
                    continue
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return found


def _place(error: BaseException) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
