"""The registry of tasks, and the making of tasks from functions.

1. `make_task` builds a class for a function and makes its one instance.
2. `Registry` is a mapping by name that refuses two different functions with one name.
3. `SharedTask` is a proxy for the task of the current application.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from framework._config.making import making
from framework.client import current
from framework.client.task import Task
from framework.client.workflow.builtin_tasks import BUILT_IN
from framework.exceptions import AlreadyRegistered, Ignore, NotRegistered, Reject, Retry

if TYPE_CHECKING:
    from framework.client.app import App

#: Options of the decorator that are not attributes of a task.
_RETRY_OPTIONS = ("dont_autoretry_for", "retry_kwargs", "retry_backoff", "retry_backoff_max", "retry_jitter")
#: Ignored options of Celery's decorator: here a task is registered with its application at once.
_CELERYS = ("lazy", "shared")


class Registry(Mapping[str, Task[..., Any]]):
    """Tasks by name."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}
        self._shared = 0
        self._built_in = False
        self._sharing = False

    def add(self, task: Task[..., Any]) -> Task[..., Any]:
        """Add `task`; return it, or the one made from the same function before.

        Raises `AlreadyRegistered` when the name belongs to another function.
        """
        known = self._tasks.get(task.name)
        if known is not None and known is not task:
            if _origin(known) != _origin(task):
                raise AlreadyRegistered(
                    f"the task name {task.name!r} is taken by {_describe(known)}; "
                    f"give {_describe(task)} another one: @app.task(name=…)"
                )
            # Not the same function: a reloaded module brings new code.
            if _function_of(known) == _function_of(task):
                return known
        self._tasks[task.name] = task
        return task

    def adopt(self, app: App, tasks: Mapping[str, Task[..., Any]]) -> None:
        """Add `tasks` of another application to those of `app`, replacing tasks of the same name."""
        for name, task in tasks.items():
            task.app = app
            self._tasks[name] = task

    def rebase(self, old: type[Task[..., Any]], new: type[Task[..., Any]]) -> None:
        """Give the tasks that were made from functions with the base class `old` the base class `new`."""
        for task in self._tasks.values():
            kind = type(task)
            if "__wrapped__" in vars(kind) and kind.__bases__ == (old,):
                kind.__bases__ = (new,)
                task._policy = None

    def copy(self) -> dict[str, Task[..., Any]]:
        """Return the present tasks, for `restore`."""
        return dict(self._tasks)

    def restore(self, tasks: Mapping[str, Task[..., Any]]) -> None:
        """Replace all tasks by `tasks`; shared tasks defined from now on are added as usual."""
        self._tasks = dict(tasks)
        self._built_in = "celery.accumulate" in self._tasks
        self._shared = min(self._shared, len(current.shared))

    def share(self, app: App) -> None:
        """Add the shared tasks defined since the last call, and at the first call the built-in tasks."""
        if self._built_in and self._shared >= len(current.shared):
            return
        with making():
            if self._sharing:  # the same thread, from the making of a task
                return
            self._sharing = True
            try:
                self._share(app)
            finally:
                self._sharing = False

    def _share(self, app: App) -> None:
        if not self._built_in:
            for name, function, options in BUILT_IN:
                task = make_task(app, function, {"name": name, "bind": True, "typing": False, **options})
                self._tasks.setdefault(name, task)
            self._built_in = True
        while self._shared < len(current.shared):
            function, options = current.shared[self._shared]
            try:
                self.add(make_task(app, function, dict(options)))
            finally:
                self._shared += 1

    def __getitem__(self, name: str) -> Task[..., Any]:
        try:
            return self._tasks[name]
        except KeyError:
            raise NotRegistered(name) from None

    def get(self, name: str, default: Any = None) -> Any:
        """Return the task `name`, or `default`."""
        return self._tasks.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


def _function_of(task: Task[..., Any]) -> Any:
    return getattr(task, "__wrapped__", None) or type(task)


def _origin(task: Task[..., Any]) -> tuple[str, str]:
    function = _function_of(task)
    return function.__module__, function.__qualname__


def _describe(task: Task[..., Any]) -> str:
    return ".".join(_origin(task))


def make_task(app: App, function: Callable[..., Any], options: dict[str, Any]) -> Task[..., Any]:
    """Return a task made from `function`. Raises `TypeError` for an unknown option."""
    base: type[Task[..., Any]] = options.pop("base", None) or app.task_class
    bind = bool(options.pop("bind", False))
    name = options.pop("name", None) or app.gen_task_name(
        getattr(function, "__name__", type(function).__name__), function.__module__
    )
    autoretry = _classes(options.pop("autoretry_for", None) or getattr(base, "autoretry_for", ()))
    retrying = {key: options.pop(key, getattr(base, key, None)) for key in _RETRY_OPTIONS}
    for key in _CELERYS:
        options.pop(key, None)
    unknown = [key for key in options if not hasattr(base, key)]
    if unknown:
        close = difflib.get_close_matches(unknown[0], [key for key in dir(base) if not key.startswith("_")], 1)
        hint = (
            f"; did you mean {close[0]}?" if close else " (define it as an attribute of a class, and pass that as base)"
        )
        raise TypeError(f"the task {name} has the unknown option {unknown[0]!r}{hint}")
    kind = type(
        getattr(function, "__name__", "task"),
        (base,),
        {
            **options,
            "name": name,
            "app": app,
            "bind": bind,
            "run": function if bind else staticmethod(function),
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            "__wrapped__": staticmethod(function),
            "__annotations__": getattr(function, "__annotations__", {}),
        },
    )
    task: Task[..., Any] = kind()
    if autoretry:
        _retry_automatically(task, autoretry, retrying)
    return task


def _classes(errors: Any) -> tuple[type[BaseException], ...]:
    """Return one or several exception classes as a tuple."""
    return (errors,) if isinstance(errors, type) else tuple(errors)


def enable_autoretry(task: Task[..., Any]) -> None:
    """Make a class-based task retry after the exceptions in its attribute `autoretry_for`."""
    errors = _classes(getattr(task, "autoretry_for", None) or ())
    if errors and "run" not in vars(task):  # once
        _retry_automatically(task, errors, {key: getattr(task, key, None) for key in _RETRY_OPTIONS})


def _retry_automatically(task: Task[..., Any], errors: tuple[type[BaseException], ...], how: Mapping[str, Any]) -> None:
    """Make `task` retry when it raises one of `errors`."""
    run = task.run
    spared = _classes(how["dont_autoretry_for"] or ())
    backoff = how["retry_backoff"]
    longest = 600 if how["retry_backoff_max"] is None else how["retry_backoff_max"]
    jitter = True if how["retry_jitter"] is None else how["retry_jitter"]

    def again(error: BaseException) -> BaseException:
        """Send the call again; return the exception to raise."""
        if isinstance(error, (Ignore, Reject, Retry, *spared)) or task.request.called_directly:
            return error
        options = dict(how["retry_kwargs"] or {})
        if backoff:
            # At least a second, as in Celery: a fraction would round down to zero.
            wait = min(longest, max(1, int(backoff)) * 2**task.request.retries)
            options["countdown"] = random.randrange(int(wait) + 1) if jitter else wait
        return task.retry(exc=error, **options)

    @functools.wraps(run)
    def run_and_retry(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except errors as error:
            if (other := again(error)) is error:
                raise
            raise other from error

    @functools.wraps(run)
    async def arun_and_retry(*args: Any, **kwargs: Any) -> Any:
        try:
            return await run(*args, **kwargs)
        except errors as error:
            if (other := again(error)) is error:
                raise
            raise other from error

    # On the instance: the class may be the base of another task.
    task.run = arun_and_retry if inspect.iscoroutinefunction(run) else run_and_retry  # type: ignore[method-assign]


class SharedTask:
    """A task of every application: a proxy for that of the current one, and without one for its function."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self._options = options
        current.shared.append((function, options))

    def _task(self) -> Task[..., Any]:
        app = current.find_app()
        name = self._options.get("name") or app.gen_task_name(self._function.__name__, self._function.__module__)
        return app.tasks[name]

    def __getattr__(self, name: str) -> Any:
        if "_function" not in vars(self):  # a copy that is being made
            raise AttributeError(name)
        try:
            task = self._task()
        except current.NoApp:
            if hasattr(self._function, name):
                return getattr(self._function, name)
            raise
        return getattr(task, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task of the current application."""
        return self._task()(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<shared task {self._function.__module__}.{self._function.__qualname__}>"
