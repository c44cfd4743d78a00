"""Queries to workers: `app.control.inspect()`. The methods have the names of their commands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework.client.control.control import Control

logger = logging.getLogger(__name__)


class Inspect:
    """Queries workers; each method returns ``{node: reply}``, or the reply of the one `destination`, or None."""

    #: Workers that did not answer the last query, with the seconds since their last heartbeat (None: unknown).
    missing: Mapping[str, float | None] = MappingProxyType({})

    def __init__(
        self,
        control: Control,
        destination: str | Sequence[str] | None,
        timeout: float,
        callback: Callable[[dict[str, Any]], object] | None,
        limit: int | None,
        pattern: str | None,
        matcher: str | None,
    ) -> None:
        self._control = control
        self._one = destination if isinstance(destination, str) else None
        self._destination = [destination] if isinstance(destination, str) else destination
        self._options: dict[str, Any] = {
            "timeout": timeout,
            "callback": callback,
            "limit": limit,
            "pattern": pattern,
            "matcher": matcher,
        }

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send the inspect command `command` and return the merged replies."""
        given = {name: value for name, value in arguments.items() if value is not None}
        replies = self._control.broadcast(command, given, destination=self._destination, reply=True, **self._options)
        assert replies is not None
        self.missing = replies.missing
        merged: dict[str, Any] = {}
        for reply in replies:
            merged.update(reply)
        for node, number in replies.namesakes.items():
            logger.warning("%d workers are called %s: give each its own name with -n", number, node)
        if self._one is not None:
            return merged.get(self._one)
        return merged or None

    def ping(self) -> Any:
        """Return ``{"ok": "pong"}`` of each worker."""
        return self.ask("ping")

    def active(self, safe: bool | None = None) -> Any:
        """Running tasks."""
        return self.ask("active", safe=safe)

    def reserved(self) -> Any:
        """Tasks received but not started."""
        return self.ask("reserved")

    def scheduled(self) -> Any:
        """Tasks held for their eta."""
        return self.ask("scheduled")

    def revoked(self) -> Any:
        """Revoked ids."""
        return self.ask("revoked")

    def registered(self, *taskinfoitems: str) -> Any:
        """Names of the registered tasks."""
        return self.ask("registered", taskinfoitems=list(taskinfoitems) or None)

    def stats(self) -> Any:
        """Statistics of the workers and their parts."""
        return self.ask("stats")

    def active_queues(self) -> Any:
        """Queues that workers consume from."""
        return self.ask("active_queues")

    def query_task(self, *ids: str) -> Any:
        """The state of these tasks, from the workers that have them."""
        return self.ask("query_task", ids=list(ids))

    def conf(self, with_defaults: bool = False) -> Any:
        """Settings, secrets masked."""
        return self.ask("conf", with_defaults=with_defaults)

    def clock(self) -> Any:
        """Logical clocks."""
        return self.ask("clock")

    def report(self) -> Any:
        """The report on each worker, for bug reports."""
        return self.ask("report")

    def memsample(self) -> Any:
        """Take a memory sample of the workers' main processes."""
        return self.ask("memsample")

    def memdump(self, samples: int = 10) -> Any:
        """The memory samples so far."""
        return self.ask("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:  # noqa: A002 - Celery's name
        """Make each worker draw a graph of the references to objects of a type, into a file."""
        return self.ask("objgraph", num=n, max_depth=max_depth, type=type)

    def hello(self, from_node: str, revoked: Sequence[str] | None = None) -> Any:
        """Exchange revoked ids and clocks, as a starting worker does."""
        return self.ask("hello", from_node=from_node, revoked=revoked)
