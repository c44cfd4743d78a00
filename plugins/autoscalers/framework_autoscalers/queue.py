"""Autoscaler `queue`: provides the slots to begin every waiting task within `patience` seconds.

1. Long tasks get a slot each, at once: another task cannot wait behind one of them.
2. Short tasks share slots; thousands a second may need only one.
3. Doubles the pool when tasks have waited longer than `patience` without a break: more tasks arrive than the worker
   receives.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import msgspec

from framework.api.autoscaler import Autoscaler, Observation


class QueueOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of the autoscaler `queue`."""

    patience: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds that a task may wait in the worker before slots are added.")
    ] = 0.5


class QueueAutoscaler(Autoscaler):
    """The autoscaler `queue`: decides by the waiting tasks and their runtime."""

    options_type: ClassVar[type[msgspec.Struct]] = QueueOptions

    def decide(self, seen: Observation) -> int:
        """Return the number of slots that the running and waiting tasks need."""
        demand = seen.running + seen.waiting
        if not seen.waiting or seen.runtime is None:
            return demand
        patience: float = self.options.patience
        # So many slots that the last waiting task can begin in time.
        needed = math.ceil(seen.waiting * seen.runtime / patience)
        if seen.backed_up > patience:
            needed = max(needed, seen.size * 2)
        return max(seen.running, min(demand, needed))
