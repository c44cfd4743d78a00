"""Making tasks of functions, and the registry that holds them.

1. `make_task` builds a class for a function and makes its one instance.
2. `Registry` is a mapping by name that refuses two different functions under one name.
3. `SharedTask` stands for the task of the current application.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from framework.client import current
from framework.client.task import Task
from framework.client.workflow.builtin_tasks import BUILT_IN
from framework.exceptions import AlreadyRegistered, Ignore, NotRegistered, Reject, Retry

if TYPE_CHECKING:
    from framework.client.app import App

#: Options of the decorator that are not attributes of a task.
_RETRY_OPTIONS = ("dont_autoretry_for", "retry_kwargs", "retry_backoff", "retry_backoff_max", "retry_jitter")

#: Options of Celery's decorator that say how its registry is filled; here a task belongs to the application it is made
#: with, at once.
_CELERYS = ("lazy", "shared")


class Registry(Mapping[str, Task[..., Any]]):
    """Tasks by name."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}
        self._shared = 0
        self._built_in = False

    def add(self, task: Task[..., Any]) -> Task[..., Any]:
        """Add `task`, or return the one that was made of the same function before.

        Raises `AlreadyRegistered` when the name belongs to another function.
        """
        known = self._tasks.get(task.name)
        if known is not None and known is not task:
            if _origin(known) != _origin(task):
                raise AlreadyRegistered(
                    f"the task name {task.name!r} is taken by {_describe(known)}; "
                    f"give {_describe(task)} another one: @app.task(name=…)"
                )
            if _line(known) == _line(task):
                return known
        self._tasks[task.name] = task
        return task

    def adopt(self, app: App, tasks: Mapping[str, Task[..., Any]]) -> None:
        """Have `tasks`, those of another application, be those of `app`; they take the place of its own."""
        for name, task in tasks.items():
            task.app = app
            self._tasks[name] = task

    def copy(self) -> dict[str, Task[..., Any]]:
        """Return the tasks as they are now, for `restore`."""
        return dict(self._tasks)

    def restore(self, tasks: Mapping[str, Task[..., Any]]) -> None:
        """Have `tasks` and no others, but for shared ones that are defined from now on."""
        self._tasks = dict(tasks)
        self._built_in = "celery.accumulate" in self._tasks
        self._shared = min(self._shared, len(current.shared))

    def share(self, app: App) -> None:
        """Add the shared tasks that were defined since the last call, and at the first those that every worker has."""
        if not self._built_in:
            self._built_in = True
            for name, function, options in BUILT_IN:
                task = make_task(app, function, {"name": name, "bind": True, "typing": False, **options})
                self._tasks.setdefault(name, task)
        while self._shared < len(current.shared):
            function, options = current.shared[self._shared]
            self._shared += 1
            self.add(make_task(app, function, dict(options)))

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


def _line(task: Task[..., Any]) -> object:
    """Tell two executions of one definition from one: a module that is reloaded brings new code."""
    return _function_of(task)


def _describe(task: Task[..., Any]) -> str:
    return ".".join(_origin(task))


def make_task(app: App, function: Callable[..., Any], options: dict[str, Any]) -> Task[..., Any]:
    """Return a task of `function`. Raises `TypeError` for an option that no task has."""
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
            f"; did you mean {close[0]}?" if close else " (define it as an attribute of a class, and give that as base)"
        )
        raise TypeError(f"the task {name} has an option {unknown[0]!r} that tasks do not have{hint}")
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
    """Return one exception class, or several, as a tuple."""
    return (errors,) if isinstance(errors, type) else tuple(errors)


def retry_as_its_class_says(task: Task[..., Any]) -> None:
    """Have a class-based task retried for the exceptions in its attribute `autoretry_for`."""
    errors = _classes(getattr(task, "autoretry_for", None) or ())
    if errors and "run" not in vars(task):  # once
        _retry_automatically(task, errors, {key: getattr(task, key, None) for key in _RETRY_OPTIONS})


def _retry_automatically(task: Task[..., Any], errors: tuple[type[BaseException], ...], how: Mapping[str, Any]) -> None:
    """Have `task` retried when it raises one of `errors`."""
    run = task.run
    spared = _classes(how["dont_autoretry_for"] or ())
    backoff = how["retry_backoff"]
    longest = 600 if how["retry_backoff_max"] is None else how["retry_backoff_max"]
    jitter = True if how["retry_jitter"] is None else how["retry_jitter"]

    def again(error: BaseException) -> BaseException:
        """Send it again; return what to raise."""
        if isinstance(error, (Ignore, Reject, Retry, *spared)) or task.request.called_directly:
            return error
        options = dict(how["retry_kwargs"] or {})
        if backoff:
            # At least a second, as with Celery: a fraction would come to no wait at all.
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

    # On the instance: the class may be another task's base.
    task.run = arun_and_retry if inspect.iscoroutinefunction(run) else run_and_retry  # type: ignore[method-assign]


class SharedTask:
    """A task of every application; it behaves as that of the current one."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self._function = function
        self._options = options
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self.__module__ = function.__module__
        current.shared.append((function, options))

    def _task(self) -> Task[..., Any]:
        app = current.find_app()
        name = self._options.get("name") or app.gen_task_name(self._function.__name__, self._function.__module__)
        return app.tasks[name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task of the current application."""
        return self._task()(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<shared task {self._function.__module__}.{self._function.__qualname__}>"
