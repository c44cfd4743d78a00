"""`current_app` and `current_task`, for code that does not know which application it is used in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from framework import _apps
from framework._request import current_request

if TYPE_CHECKING:
    from framework.task import Task


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
    return None if current_request() is None else _apps.current_app().current_task


#: The current application, see `shared_task`.
current_app: Any = _Current(_apps.current_app, "current_app")
#: The task that runs here: ``current_task.request.id``.
current_task: Any = _Current(_task_that_runs_here, "current_task")
