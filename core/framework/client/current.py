"""The applications of this process, and the current one.

There is no global application. What is not bound to one (`shared_task`, a signature that came in a message) uses
the current one:
1. that of the running task; else
2. the one that `App.set_current` chose; else
3. the one made last.
`current_app` and `current_task` stand for the current ones in code that does not know which application it is used in.
A shared task is registered with every `App` when that looks its tasks up for the first time.
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
#: Functions that want to be a task of every application, with the options they were decorated with.
shared: list[tuple[Callable[..., Any], dict[str, Any]]] = []


def remember(app: App) -> None:
    """Note that `app` was made."""
    _made[:] = [known for known in _made if known() is not None]
    _made.append(weakref.ref(app))


def choose(app: App | None) -> None:
    """Make `app` the current one; None: the one made last."""
    global _chosen
    _chosen = None if app is None else weakref.ref(app)


def forget(app: App) -> None:
    """`app` was closed: it is not the current one any more if there is another."""
    if len([known for known in _made if known() is not None]) > 1:
        _made[:] = [known for known in _made if known() is not None and known() is not app]


def find_app() -> App:
    """Return the current application. Raises `FrameworkError` when there is none."""
    request = current_request()
    if request is not None and request._app is not None:
        return request._app
    app = _chosen() if _chosen is not None else None
    for known in reversed(_made):
        app = app or known()
    if app is None:
        raise FrameworkError(
            "there is no application in this process: make one, as in app = App('proj'), before calling shared tasks"
        )
    return app


class AppBound:
    """Belongs to an application: the one it was made with, else the one that is current when it is first needed."""

    __slots__ = ()

    _app: App | None

    @property
    def app(self) -> App:
        """The application it belongs to."""
        if self._app is None:
            self._app = find_app()  # type: ignore[misc] # a class that has slots has one for it
        return self._app


# ---------------------------------------------------------------- current_app and current_task


class _Current:
    """Stands for what is the current one whenever it is used; false while there is none."""

    __slots__ = ("_find", "_what")

    def __init__(self, find: Callable[[], Any], what: str) -> None:
        object.__setattr__(self, "_find", find)
        object.__setattr__(self, "_what", what)

    def __getattr__(self, name: str) -> Any:
        found = self._find()
        if found is None:
            raise AttributeError(f"no task runs here: {self._what}.{name} is of use inside of tasks only")
        return getattr(found, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._find(), name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._find()(*args, **kwargs)

    def __bool__(self) -> bool:
        return self._find() is not None

    def __repr__(self) -> str:
        return repr(self._find())


def _task_that_runs_here() -> Task[..., Any] | None:
    return None if current_request() is None else find_app().current_task


#: The current application, see `shared_task`.
current_app: Any = _Current(find_app, "current_app")
#: The task that runs here: ``current_task.request.id``.
current_task: Any = _Current(_task_that_runs_here, "current_task")
