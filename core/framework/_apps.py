"""The applications of this process.

There is no global application. What is not bound to one (`shared_task`, a signature that came in a message) uses
the current one:
1. that of the running task; else
2. the one that `App.set_current` chose; else
3. the one made last.
A shared task is registered with every `App` when that looks its tasks up for the first time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from framework._request import current_request
from framework.exceptions import FrameworkError

if TYPE_CHECKING:
    from framework.app import App

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


def current_app() -> App:
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
