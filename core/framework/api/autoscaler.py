"""Contract of an autoscaler: how many slots the pool should have now.

An autoscaler only decides: it returns a size for an `Observation`; core grows and shrinks the pool.

Promises
1. `decide` depends only on the `Observation` and its own options: no clock, no file, no network. The same observation
   gives the same size, so that `framework autoscale simulate` shows what a worker would do.
2. `decide` may return any number; core limits it to `Observation.smallest` and `Observation.largest`.
3. Core grows the pool at once. It shrinks the pool when every size returned during the keep-alive time (30 s by
   default) was below the pool's size, and then to the largest of them: an autoscaler needs no memory and no damping.
4. Core removes idle slots, and busy slots after their task: no returned size ends a running task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import msgspec

from framework.api.plugin import Plugin


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Load and free memory of the machine, or of the container around the worker."""

    #: Load average of the last minute for each CPU that this process may use; 1.0: all are busy.
    load: float
    #: Available and total memory in MiB.
    memory_free: int
    memory_total: int


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the worker that an autoscaler decides by."""

    #: Slots of the pool.
    size: int
    #: The bounds that the user set.
    smallest: int
    largest: int
    #: Running tasks.
    running: int
    #: Received tasks that only wait for a slot. Tasks held for their ETA or by a rate limit do not count.
    waiting: int
    #: Recent runtime of a task in seconds: long tasks weigh more, and running tasks count with their time so far.
    #: None: not known yet.
    runtime: float | None = None
    #: Seconds for which tasks have been waiting without a break, since the pool last grew.
    backed_up: float = 0.0
    #: Set only for autoscalers whose `basis` is ``machine``.
    machine: Machine | None = None


class Autoscaler(Plugin, ABC):
    """Base class of autoscalers. Creating an autoscaler starts nothing."""

    #: What the decision depends on. ``queue``: waiting tasks; core calls `decide` as soon as a task waits, and reserves
    #: as many messages as the largest pool could run. ``machine``: load and free memory; core calls `decide` once a
    #: second, with `Observation.machine`, and reserves one message more than the pool can run, to see that more wait.
    basis: ClassVar[Literal["queue", "machine"]] = "queue"

    def __init__(self, options: msgspec.Struct) -> None:
        self.options: Any = options

    @abstractmethod
    def decide(self, seen: Observation) -> int:
        """Return the number of slots that the pool should have."""
