"""A task worker for Python: tasks, the client that sends them, and the worker that runs them.

Importing this package imports none of its modules; each name is imported at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework.api.transport import Broadcast, Exchange, Queue
    from framework.client.app import App, shared_task
    from framework.client.canvas import Signature, chain, chord, chunks, group, signature, xmap, xstarmap
    from framework.client.current import current_app, current_task
    from framework.client.results import AsyncResult, EagerResult, GroupResult, ResultSet
    from framework.client.task import Task

__all__ = [
    "App",
    "AsyncResult",
    "Broadcast",
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
    "App": "framework.client.app",
    "AsyncResult": "framework.client.results",
    "Broadcast": "framework.api.transport",
    "EagerResult": "framework.client.results",
    "Exchange": "framework.api.transport",
    "GroupResult": "framework.client.results",
    "Queue": "framework.api.transport",
    "ResultSet": "framework.client.results",
    "Signature": "framework.client.canvas",
    "Task": "framework.client.task",
    "chain": "framework.client.canvas",
    "chord": "framework.client.canvas",
    "chunks": "framework.client.canvas",
    "current_app": "framework.client.current",
    "current_task": "framework.client.current",
    "group": "framework.client.canvas",
    "shared_task": "framework.client.app",
    "signature": "framework.client.canvas",
    "xmap": "framework.client.canvas",
    "xstarmap": "framework.client.canvas",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # imported here: the import of this package stays fast

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
