"""Contract of a bootstep: a part of the worker that starts and stops with it.

1. A step declares the names that it `requires` and `provides` (always its own name). They determine the start order.
2. `start` puts the provided objects on the board (`Board.put`); `Board.get` returns only required objects, so that the
   graph shows every dependency.
3. Steps start in order. If a step fails, the started steps are stopped in reverse order. If the `policy` of the failed
   step is ``degrade``, only that step and the steps that require it are left out.
4. On stop, in reverse order, `stop(deadline)` and then `close()` are called, once, also after a failed start, and only
   for steps whose `start` was called. Neither may raise; an exception is logged.
5. There are two graphs: ``worker`` lives as long as the process; ``consumer`` as long as a connection to the broker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Protocol

#: What happens when a step fails to start; see `Step.policy`.
Policy = Literal["required", "degrade"]


class Board(Protocol):
    """Where steps share objects."""

    def get(self, name: str) -> Any:
        """Return the object provided as `name`. Raises `GraphError` unless the calling step requires `name`."""

    def find(self, name: str) -> Any:
        """Return the object provided as `name`, or None. Raises `GraphError` unless `name` is in the step's `after`."""

    def put(self, name: str, value: Any) -> None:
        """Provide `value` as `name`, which must be the step's own name or in its `provides`."""


class Step(ABC):
    """Base class of steps: one part of the worker."""

    #: Unique within its graph.
    name: ClassVar[str]
    #: When the step fails to start. ``required``: the start fails. ``degrade``: the worker starts without the step,
    #: and the health endpoint lists it in ``missing_steps``.
    policy: ClassVar[Policy] = "required"
    graph: ClassVar[Literal["worker", "consumer"]] = "worker"
    requires: ClassVar[tuple[str, ...]] = ()
    #: Names that this step starts after, if they exist; it does not require them.
    after: ClassVar[tuple[str, ...]] = ()
    provides: ClassVar[tuple[str, ...]] = ()

    def enabled(self, settings: Any) -> str | None:
        """Return None if the step runs, else the reason in words. `settings` is the worker's `Settings`."""
        return None

    @abstractmethod
    def start(self, board: Board) -> None:
        """Start, and put the provided objects on the board."""

    def stop(self, deadline: float) -> None:
        """Stop gently by `deadline` (monotonic seconds)."""

    def close(self) -> None:
        """Release all resources at once."""

    def info(self) -> dict[str, Any]:
        """Return this step's part of `inspect stats`."""
        return {}
