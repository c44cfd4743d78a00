"""The applications of this process, and the current one.

Shared tasks, and signatures from messages, belong to no application and use the current one:
1. that of the running task; else
2. the one chosen by `App.set_current`; else
3. the one made last.
`current_app` and `current_task` are proxies for library code. Each `App` registers shared tasks when it looks up its
tasks for the first time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from framework.client.request import current_request
from framework.exceptions import FrameworkError

if TYPE_CHECKING:
    from framework.client.app import App
    from framework.client.task import Task

_made: list[weakref.ref[App]] = []
_chosen: weakref.ref[App] | None = None
#: The functions of shared tasks, with the options of their decorator.
shared: list[tuple[Callable[..., Any], dict[str, Any]]] = []


def remember(app: App) -> None:
    """Add `app` to the applications of this process."""
    _made[:] = [known for known in _made if known() is not None]
    _made.append(weakref.ref(app))


def choose(app: App | None) -> None:
    """Make `app` the current application; None: the one made last."""
    global _chosen
    _chosen = None if app is None else weakref.ref(app)


def forget(app: App) -> None:
    """Make another application the current one, if this process has another than `app`."""
    if len([known for known in _made if known() is not None]) > 1:
        _made[:] = [known for known in _made if known() is not None and known() is not app]


class NoApp(FrameworkError, AttributeError):
    """This process has no application; for `hasattr` of a proxy, the attribute does not exist."""


def find_app() -> App:
    """Return the current application. Raises `NoApp` without one."""
    request = current_request()
    if request is not None and request._app is not None:
        return request._app
    app = _chosen() if _chosen is not None else None
    for known in reversed(_made):
        app = app or known()
    if app is None:
        raise NoApp("this process has no application: make one, as in app = App('proj'), before calling shared tasks")
    return app


class AppBound:
    """Mixin with the attribute `app`: the application it was made with, else the current one on first use."""

    __slots__ = ()

    _app: App | None

    @property
    def app(self) -> App:
        """The application it belongs to."""
        if self._app is None:
            self._app = find_app()  # type: ignore[misc] # a class with slots has one for it
        return self._app


class _Current:
    """Proxy for the current object; falsy without one."""

    __slots__ = ("_find", "_what")

    def __init__(self, find: Callable[[], Any], what: str) -> None:
        object.__setattr__(self, "_find", find)
        object.__setattr__(self, "_what", what)

    def __getattr__(self, name: str) -> Any:
        found = self._find()
        if found is None:
            raise AttributeError(f"no task is running: use {self._what}.{name} inside tasks only")
        return getattr(found, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._find(), name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._find()(*args, **kwargs)

    def __bool__(self) -> bool:
        return self._find() is not None

    def __repr__(self) -> str:
        return repr(self._find())


def _running_task() -> Task[..., Any] | None:
    return None if current_request() is None else find_app().current_task


#: The current application, see `shared_task`.
current_app: Any = _Current(find_app, "current_app")
#: The running task: ``current_task.request.id``.
current_task: Any = _Current(_running_task, "current_task")
