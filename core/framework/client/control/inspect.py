"""Asking workers what they know: `app.control.inspect()`. The methods are named after the commands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework.client.control.control import Control

logger = logging.getLogger(__name__)


class Inspect:
    """Asks workers what they know.

    Each method returns ``{node: reply}``, or the reply of the one node named; None: nobody answered.
    """

    #: Workers that did not answer the last question, and how many seconds ago they were last heard of.
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
            for node, value in reply.items():
                if node in merged:
                    logger.warning("More than one worker is called %s: give each a name of its own with -n", node)
                merged[node] = value
        if self._one is not None:
            return merged.get(self._one)
        return merged or None

    def ping(self) -> Any:
        """Who is there."""
        return self.ask("ping")

    def active(self, safe: bool | None = None) -> Any:
        """Tasks that run now."""
        return self.ask("active", safe=safe)

    def reserved(self) -> Any:
        """Tasks received and not started."""
        return self.ask("reserved")

    def scheduled(self) -> Any:
        """Tasks held for their eta."""
        return self.ask("scheduled")

    def revoked(self) -> Any:
        """Ids that were revoked."""
        return self.ask("revoked")

    def registered(self, *taskinfoitems: str) -> Any:
        """Names of the tasks that workers know."""
        return self.ask("registered", taskinfoitems=list(taskinfoitems) or None)

    def stats(self) -> Any:
        """What workers have done and are made of."""
        return self.ask("stats")

    def active_queues(self) -> Any:
        """Queues that workers consume from."""
        return self.ask("active_queues")

    def query_task(self, *ids: str) -> Any:
        """What workers have of these tasks."""
        return self.ask("query_task", ids=list(ids))

    def conf(self, with_defaults: bool = False) -> Any:
        """Settings, secrets masked."""
        return self.ask("conf", with_defaults=with_defaults)

    def clock(self) -> Any:
        """Logical clocks."""
        return self.ask("clock")

    def report(self) -> Any:
        """What a bug report should say of the workers."""
        return self.ask("report")

    def memsample(self) -> Any:
        """Take a sample of the memory that the workers' main processes hold."""
        return self.ask("memsample")

    def memdump(self, samples: int = 10) -> Any:
        """The samples of memory taken so far."""
        return self.ask("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:  # noqa: A002 - Celery's name
        """Have the workers draw what refers to the objects of a type, each into a file of its own."""
        return self.ask("objgraph", num=n, max_depth=max_depth, type=type)

    def hello(self, from_node: str, revoked: Sequence[str] | None = None) -> Any:
        """Exchange revoked ids and clocks, as a worker that starts does."""
        return self.ask("hello", from_node=from_node, revoked=revoked)
