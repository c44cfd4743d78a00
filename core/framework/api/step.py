"""Contract of a bootstep: one thing that is started when the worker starts and stopped when it stops.

1. A step names what it `requires` and what it `provides` (its own name always). The graph orders by that alone.
2. `start` puts what it provides on the board (`Board.put`); `Board.get` hands out only what the step requires: the
   graph shows everything that anything needs.
3. Steps start in order. If one fails, those that had started are stopped, in reverse; unless its `policy` is
   ``degrade``:
   then it is left out, and with it what requires it.
4. On stop, in reverse order, every step gets `stop(deadline)` and then `close()`. Both are called once, also after a
   failed start, and only for steps whose `start` was called. Neither may raise; what they raise is logged.
5. There are two graphs: ``worker`` lives as long as the process; ``consumer`` as long as a connection to the broker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Protocol

#: What a step's failure to start means.
Policy = Literal["required", "degrade"]


class Board(Protocol):
    """Where steps leave what others need."""

    def get(self, name: str) -> Any:
        """Return what the step `name` provided. Raises `GraphError` unless the asking step requires `name`."""

    def find(self, name: str) -> Any:
        """Return what a step named in `after` provided, None if there is none. Raises `GraphError` for other names."""

    def put(self, name: str, value: Any) -> None:
        """Provide `value` as `name`, which must be the step's own name or in its `provides`."""


class Step(ABC):
    """One part of the worker."""

    #: Unique within its graph.
    name: ClassVar[str]
    #: ``required``: when it cannot start, nothing does. ``degrade``: the rest starts without it, and readiness says so.
    policy: ClassVar[Policy] = "required"
    graph: ClassVar[Literal["worker", "consumer"]] = "worker"
    requires: ClassVar[tuple[str, ...]] = ()
    #: Ordered after these where they exist, without needing them.
    after: ClassVar[tuple[str, ...]] = ()
    provides: ClassVar[tuple[str, ...]] = ()

    def enabled(self, settings: Any) -> str | None:
        """Return None to take part, or the reason in words for staying out. `settings` is the worker's `Settings`."""
        return None

    @abstractmethod
    def start(self, board: Board) -> None:
        """Start, and put on the board what others need."""

    def stop(self, deadline: float) -> None:
        """Stop gently by `deadline` (monotonic seconds)."""

    def close(self) -> None:
        """Let go of everything, at once."""

    def info(self) -> dict[str, Any]:
        """Return what `inspect stats` should show of this step."""
        return {}
