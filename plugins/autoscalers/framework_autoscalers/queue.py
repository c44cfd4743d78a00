"""Autoscaler `queue`: as many slots as it takes to begin what waits within `patience` seconds.

1. Long tasks get a slot each, at once: waiting behind one of them would take too long.
2. Short tasks get only as many slots as work them off in time; thousands of them a second may need no more than one.
3. If something has waited all the same for longer than that, without a break, the pool doubles: more comes in than
   the worker sees.
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
    """Goes by what waits and how long it takes."""

    options_type: ClassVar[type[msgspec.Struct]] = QueueOptions

    def decide(self, seen: Observation) -> int:
        """Return the slots that what runs and waits needs."""
        demand = seen.running + seen.waiting
        if not seen.waiting or seen.runtime is None:
            return demand
        patience: float = self.options.patience
        # As many slots as end a task often enough for the last of those that wait to begin in time.
        needed = math.ceil(seen.waiting * seen.runtime / patience)
        if seen.backed_up > patience:
            needed = max(needed, seen.size * 2)
        return max(seen.running, min(demand, needed))
