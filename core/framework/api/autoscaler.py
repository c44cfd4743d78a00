"""Contract of an autoscaler: how many slots the pool should have now.

An autoscaler only decides. It is shown an `Observation` and names a size; core grows and shrinks the pool.

Promises
1. `decide` looks at nothing but the `Observation` and its own options: no clock, no file, no network. The same
   observation gives the same size, so that `framework autoscale simulate` tells what a worker would do.
2. Core keeps what it returns within `Observation.smallest` and `Observation.largest`; it may return any number.
3. Growing happens at once. Shrinking waits until every answer for the keep-alive time (30 s by default) was smaller
   than the pool, and goes to the largest of them: an autoscaler need not remember, nor fear to flutter.
4. A slot that has to go ends idle, or after its task: no answer ends a running task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import msgspec

from framework.api.plugin import Plugin


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine, or the container around the worker, has left."""

    #: Load average of the last minute for each CPU that this process may use; 1.0: all are busy.
    load: float
    #: MiB that may still be used, and MiB in all.
    memory_free: int
    memory_total: int


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What an autoscaler is shown."""

    #: Slots that the pool has.
    size: int
    #: The bounds that the user set.
    smallest: int
    largest: int
    #: Tasks that run.
    running: int
    #: Tasks that the worker has received and that could run, were there a slot. Those that are held for their time or
    #: by a rate limit do not count.
    waiting: int
    #: Seconds that a task takes of late: the long ones weigh more, and those that run now count with what they have
    #: taken so far. None: nothing is known yet.
    runtime: float | None = None
    #: Seconds for which something has waited without a break, since the pool last grew.
    backed_up: float = 0.0
    #: Told to autoscalers whose basis it is.
    machine: Machine | None = None


class Autoscaler(Plugin, ABC):
    """An autoscaler's driver. Making one starts nothing."""

    #: What it goes by. ``queue``: what waits; it is asked as soon as something does, and the worker receives as many
    #: messages as the largest pool could run. ``machine``: what the machine has left; it is asked once a second, with
    #: `Observation.machine`, and the worker receives a message more than the pool can run, to see that there are more.
    basis: ClassVar[Literal["queue", "machine"]] = "queue"

    def __init__(self, options: msgspec.Struct) -> None:
        self.options: Any = options

    @abstractmethod
    def decide(self, seen: Observation) -> int:
        """Return the number of slots that the pool should have."""
