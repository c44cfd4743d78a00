"""The application: tasks, settings, and the connection to the broker.

1. `App.task` registers functions; `App.tasks` is the registry, shared tasks included.
2. `App.send_task`, `App.send_many` and `Task.delay` publish through one connection, opened on first use.
3. `App.AsyncResult` and the like read results; `App.control` controls workers.
4. An `App` reads no file and opens no connection when it is made. Without configuration the broker is embedded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from framework._config.conf import Conf
from framework._config.making import making
from framework.client import current
from framework.client.bulk import send_many
from framework.client.call_options import KNOWN, check
from framework.client.canvas import Signature, signature
from framework.client.publisher import Publisher
from framework.client.registry import Registry, SharedTask, enable_autoretry, make_task
from framework.client.request import Context, current_request, parent_request
from framework.client.results import AsyncResult, ResultSet
from framework.client.results.sets import Groups
from framework.client.task import Task, sequence
from framework.wire.identity import new_id

if TYPE_CHECKING:
    from framework._boot.hooks import Hooks
    from framework.api.result_store import ResultStore
    from framework.api.transport import Queue, Transport
    from framework.client.events import Events
    from framework.client.sender import Sender

__all__ = ["App", "shared_task"]

P = ParamSpec("P")
R = TypeVar("R")


class Maker(Protocol):
    """Makes a task from a function; the result of a coroutine function is the value of its coroutine."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BoundMaker(Protocol):
    """As `Maker`, for a function that gets the task as its first argument."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


class App:
    """An application."""

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: Sequence[str] = (),
        set_as_current: bool = True,
        task_cls: type[Task[..., Any]] | None = None,
        **settings: Any,
    ) -> None:
        """`main` names the application, and replaces ``__main__`` in the names of tasks.

        `broker` and `backend` are URLs; `include` are modules with tasks, imported by the worker; `settings` have flat
        names such as ``task_acks_late=True``. The config file, the environment and flags override all of them.
        """
        self.main = main
        self._made_in = _directory_of_caller()
        self.conf = Conf(lambda: self._made_in)
        if broker is not None:
            settings["broker_url"] = broker
        if backend is not None:
            settings["result_backend"] = backend
        if include:
            settings["include"] = list(include)
        if settings:
            self.conf.update(settings)
        self._registry = Registry()
        self.task_class = task_cls or Task
        self._hooks: Hooks | None = None
        self._publisher: tuple[object, Publisher] | None = None
        self._sender: tuple[object, Sender] | None = None
        self._control: Any = None
        current.remember(self)
        if not set_as_current:
            current.forget(self)

    @property
    def task_class(self) -> type[Task[..., Any]]:
        """The base class of tasks that name none, also of those made before it was set; Celery's name is `Task`."""
        return self._task_class

    @task_class.setter
    def task_class(self, kind: type[Task[..., Any]]) -> None:
        if not (isinstance(kind, type) and issubclass(kind, Task)):
            raise TypeError(f"the class of the tasks of {self!r} must be a subclass of Task, not {kind!r:.100}")
        self._registry.rebase(getattr(self, "_task_class", kind), kind)
        self._task_class = kind
        self._sender = None

    if not TYPE_CHECKING:  # type checkers refuse unknown attributes by themselves

        def __getattr__(self, name: str) -> Any:
            if name == "Task":  # not a property: the name would hide the class in the annotations here
                return self.task_class
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def __setattr__(self, name: str, value: Any) -> None:
            name = "task_class" if name == "Task" else name
            # A subclass may have attributes of its own.
            if type(self) is App and not (name.startswith("_") or name in ("main", "conf") or hasattr(App, name)):
                close = get_close_matches(name, [known for known in dir(self) if not known.startswith("_")], 1)
                raise AttributeError(
                    f"an App has no attribute {name!r}, so setting it would have no effect"
                    + (f"; did you mean {close[0]}?" if close else "")
                    + " (settings are set on app.conf; a subclass of App may have attributes of its own)"
                )
            super().__setattr__(name, value)

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...

    @overload
    def task(self, /, *, bind: Literal[True], **options: Any) -> BoundMaker: ...

    @overload
    def task(self, /, *, bind: Literal[False] = False, **options: Any) -> Maker: ...

    def task(self, function: Any = None, /, **options: Any) -> Any:
        """Make a task from a function: ``@app.task`` or ``@app.task(queue="media", acks_late=True)``.

        Options are the attributes of `Task`, and: `name` (default ``module.function``); `bind`: the function gets the
        task as its first argument; `base`: the class; `autoretry_for`: exceptions after which it is retried, with
        `dont_autoretry_for`, `retry_kwargs`, `retry_backoff` (seconds, or true for 1), `retry_backoff_max` (600 s) and
        `retry_jitter` (true). Raises `AlreadyRegistered` when another function has the name, `TypeError` for an unknown
        option.
        """
        if function is None:
            return lambda function: self._add(function, options)
        if not callable(function):
            raise TypeError(f"@app.task takes a function, or options by keyword, not {function!r:.100}")
        return self._add(function, options)

    def _add(self, function: Callable[..., Any], options: Mapping[str, Any]) -> Task[..., Any]:
        task = make_task(self, function, dict(options))
        return self._registry.add(task)

    def register_task(self, task: Task[P, R] | type[Task[P, R]], **options: Any) -> Task[P, R]:
        """Register an instance or subclass of `Task` that defines `run`; return the instance."""
        made: Task[P, R] = task(**options) if isinstance(task, type) else task
        if not made.name:
            made.name = self.gen_task_name(type(made).__name__, type(made).__module__)
        made.app = self
        enable_autoretry(made)
        return cast("Task[P, R]", self._registry.add(made))

    @property
    def tasks(self) -> Registry:
        """All tasks by name, without those of `include`: only the worker imports its modules."""
        self._registry.share(self)
        return self._registry

    def gen_task_name(self, name: str, module: str) -> str:
        """Return the task name of the function `name` in `module`.

        ``__main__`` is replaced by `main`, else by the name of the file, under which the worker will import it.
        """
        if module == "__main__":
            module = self.main or _main_module()
        return f"{module}.{name}" if module else name

    @property
    def current_task(self) -> Task[..., Any] | None:
        """The running task, or None."""
        request = current_request()
        return None if request is None or request.task is None else self.tasks.get(request.task)

    def autodiscover_tasks(
        self, packages: Iterable[str] | Callable[[], Iterable[str]], related_name: str = "tasks"
    ) -> None:
        """Import the module `related_name` of each of `packages` that has one."""
        for package in packages() if callable(packages) else packages:
            import_module(package)
            name = f"{package}.{related_name}"
            if find_spec(name) is not None:
                import_module(name)

    def set_current(self) -> None:
        """Make this the current application, which sends shared tasks."""
        current.choose(self)

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Read settings from an object, or from the module of that name; see `Conf.config_from_object`."""
        self.conf.config_from_object(obj, namespace=namespace, silent=silent, force=force)

    @property
    def hooks(self) -> Hooks:
        """The hooks of this application."""
        if (hooks := self._hooks) is not None:
            return hooks
        # Here: it imports pluggy and reads the metadata of installed packages.
        from framework._boot.hooks import Hooks

        with making():
            if self._hooks is None:
                self._hooks = Hooks()
            return self._hooks

    def register_hooks(self, implementation: object, name: str | None = None) -> None:
        """Add a module or object with `hookimpl` functions, see `framework.api.hook`. Raises `PluginInvalid`."""
        self.hooks.register(implementation, name)
        self._sender = None

    @property
    def publisher(self) -> Publisher:
        """The connection of this process to the broker."""
        settings = self.conf.settings
        known = self._publisher
        if known is None or known[0] is not settings:
            with making():
                known = self._publisher
                if known is None or known[0] is not settings:
                    if known is not None:
                        # The settings have changed, so the connections may lead to another broker.
                        known[1].close()
                    known = self._publisher = (settings, Publisher(settings))
        return known[1]

    @property
    def sender(self) -> Sender:
        """The builder and sender of messages for the current settings."""
        settings = self.conf.settings
        known = self._sender
        if known is None or known[0] is not settings:
            from framework.client.sender import Sender  # here: a program that only defines tasks does not need it

            with making():
                known = self._sender
                if known is None or known[0] is not settings:
                    known = self._sender = (settings, Sender(settings, self.publisher, self.hooks))
        return known[1]

    @property
    def oid(self) -> str:
        """The name of this process's reply queue."""
        return self.publisher.oid

    @property
    def transport(self) -> Transport:
        """The transport of the broker that workers consume from; it connects on first use."""
        return self.publisher.transport

    @property
    def result_store(self) -> ResultStore:
        """The configured result store; it connects on first use."""
        return self.publisher.store

    backend = result_store

    @property
    def control(self) -> Any:
        """Remote control of the workers."""
        if (control := self._control) is not None:
            return control
        from framework.client.control import Control  # here: few programs need it

        with making():
            if self._control is None:
                self._control = Control(self)
            return self._control

    @property
    def events(self) -> Events:
        """Events of workers and clients, for monitors: see `framework.events`."""
        from framework.client.events import Events  # here: few programs need it

        return Events(self)

    def queue_for(self, name: str) -> Queue:
        """Return the definition of the queue `name`. Raises `QueueNotFound`."""
        return self.sender.router.queue_for(name)

    def close(self) -> None:
        """Close all connections. A later call opens new ones."""
        if self._publisher is not None:
            self._publisher[1].close()
        self._publisher = self._sender = self._control = None

    def __enter__(self) -> App:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        add_to_parent: bool = True,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Send the task `name`, which need not exist in this process; options as in `Task.apply_async`."""
        if not isinstance(name, str):
            raise TypeError(f"send_task takes the name of a task, not {name!r:.100}; a task object has apply_async")
        if task_id is not None:
            options["task_id"] = task_id
        if self.sender.settings.task.always_eager:
            return self.tasks[name].apply_async(args, kwargs, **options)
        parent = parent_request()
        result: AsyncResult[Any] = self.send_one(name, None, sequence(args or ()), dict(kwargs or {}), options, parent)
        if parent is not None and add_to_parent:
            parent.add_child(result)
        return result

    def send_one(
        self,
        name: str,
        task: Task[..., Any] | None,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        options: Mapping[str, Any],
        parent: Context | None,
    ) -> AsyncResult[Any]:
        """Build and publish the message of a call, for `Task.apply_async` and `send_task`; return its result."""
        sender = self.sender
        plan = sender.plan(name, task)
        if not options and plan.plain:
            task_id = new_id()
            message = sender.messages.build_plain(plan, task_id, args, kwargs, parent)
            address = plan.address
            assert address is not None
        else:
            if not KNOWN.issuperset(options):
                check(options, parent is not None)
            task_id = options.get("task_id") or new_id()
            message, address = sender.messages.build(plan, task_id, args, kwargs, options, parent)
        ignored = message.headers.get("ignore_result") is True
        if not ignored:
            self.publisher.expect((task_id,), inside_task=parent is not None)
        sender.send(name, message, address, options)
        return AsyncResult(task_id, app=self, task_name=name, ignored=ignored)

    def send_many(
        self,
        calls: Task[..., Any] | Iterable[Signature[Any]] | tuple[Task[..., Any], Iterable[Iterable[Any]]],
        arguments: Iterable[Iterable[Any]] | None = None,
        *,
        add_to_parent: bool = True,
        **options: Any,
    ) -> ResultSet:
        """Send many calls at once: signatures, or a task and an iterable of its arguments.

        ``app.send_many(add, [(1, 2), (3, 4)])``, ``app.send_many(add.s(n, n) for n in range(1000))``. The broker has
        all messages when this returns (the transport publishes at most 10,000 at a time). `options` apply to all calls,
        as in `Task.apply_async`.
        """
        parent = parent_request()
        results = send_many(self, calls, arguments, options, parent)
        if parent is not None and add_to_parent:
            for result in results:
                parent.add_child(result)
        return ResultSet(results, app=self)

    @property
    def AsyncResult(self) -> Callable[..., AsyncResult[Any]]:  # noqa: N802 - Celery's name
        """``app.AsyncResult(task_id)``: the result of a task, by its id."""
        return partial(AsyncResult, app=self)

    @property
    def ResultSet(self) -> Callable[..., ResultSet]:  # noqa: N802 - Celery's name
        """``app.ResultSet(results)``: a set of results."""
        return partial(ResultSet, app=self)

    @property
    def GroupResult(self) -> Groups:  # noqa: N802 - Celery's name
        """``app.GroupResult(id, results)``: the results of a group; ``app.GroupResult.restore(id)``: a saved one."""
        return Groups(self)

    def signature(self, task: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Signature[Any]:
        """Return a signature of `task`: a name, a task, or a signature's document."""
        return signature(task, args, kwargs, app=self, **options)

    def __repr__(self) -> str:
        return f"<App {self.main or '__main__'}>"


def _main_module() -> str:
    """Return the name under which a worker will import the ``__main__`` file."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(file))[0] if file else "__main__"


def _directory_of_caller() -> tuple[str, ...]:
    """Return the directory of the module that makes an App, where a config file may lie."""
    frame = sys._getframe(2)
    file = frame.f_globals.get("__file__")
    return (os.path.dirname(os.path.abspath(file)),) if isinstance(file, str) else ()


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...


@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...


@overload
def shared_task(*, bind: Literal[True], **options: Any) -> BoundMaker: ...


@overload
def shared_task(*, bind: Literal[False] = False, **options: Any) -> Maker: ...


def shared_task(function: Any = None, /, **options: Any) -> Any:
    """Make a task of every application from a function, in a module without an application of its own.

    Each `App` adds it when it looks up its tasks, as the worker does. Calls go through the current application: that of
    the running task, else the one chosen by `App.set_current`, else the one made last.
    """
    if function is None:
        return lambda function: SharedTask(function, options)
    return SharedTask(function, options)
