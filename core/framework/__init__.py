"""A task worker for Python: tasks, the client that sends them, and the worker that runs them.

Importing this module imports nothing else; each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework._current import current_app, current_task
    from framework.api.transport import Exchange, Queue
    from framework.app import App, shared_task
    from framework.canvas import Signature, chain, chord, chunks, group, signature, xmap, xstarmap
    from framework.results import AsyncResult, EagerResult, GroupResult, ResultSet
    from framework.task import Task

__all__ = [
    "App",
    "AsyncResult",
    "EagerResult",
    "Exchange",
    "GroupResult",
    "Queue",
    "ResultSet",
    "Signature",
    "Task",
    "__version__",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "shared_task",
    "signature",
    "xmap",
    "xstarmap",
]

__version__ = "0.1.0"

_MODULES = {
    "App": "framework.app",
    "AsyncResult": "framework.results",
    "EagerResult": "framework.results",
    "Exchange": "framework.api.transport",
    "GroupResult": "framework.results",
    "Queue": "framework.api.transport",
    "ResultSet": "framework.results",
    "Signature": "framework.canvas",
    "Task": "framework.task",
    "chain": "framework.canvas",
    "chord": "framework.canvas",
    "chunks": "framework.canvas",
    "current_app": "framework._current",
    "current_task": "framework._current",
    "group": "framework.canvas",
    "shared_task": "framework.app",
    "signature": "framework.canvas",
    "xmap": "framework.canvas",
    "xstarmap": "framework.canvas",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
