"""The pool of processes.

A *fork server*, a fresh interpreter, imports the application and forks children on request; the worker itself never
forks.

1. In the worker: `pool`, `supervisor`, `slot`, `launcher`, `assignment`, `limits`, `watchdog`, `exit_status`, `stats`.
2. In the fork server and its children: `server`, `spawner`, `bootstrap`, `spawn_child`, `child`.
3. Between the processes: `framing`, `shared_memory`, `stacks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework_pools.prefork.pool import PreforkPool

__all__ = ["PreforkPool"]


def __getattr__(name: str) -> Any:
    if name == "PreforkPool":
        # Not imported with the package: the fork server and its children have no use for the worker's side.
        from framework_pools.prefork.pool import PreforkPool

        return PreforkPool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
