"""Autoscaler `memory`: grows while tasks wait and memory for another slot is free, shrinks when memory runs short.

In a container with a memory limit, that limit counts.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from framework.api.autoscaler import Autoscaler, Observation


class MemoryOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of the autoscaler `memory`."""

    slot: Annotated[int, msgspec.Meta(gt=0, description="MiB that a slot and its task need.")] = 128
    reserve: Annotated[
        float, msgspec.Meta(ge=0, lt=1, description="Share of the memory to keep free, 0.1 for a tenth.")
    ] = 0.1


class MemoryAutoscaler(Autoscaler):
    """The autoscaler `memory`: decides by the available memory."""

    basis: ClassVar[Literal["queue", "machine"]] = "machine"
    options_type: ClassVar[type[msgspec.Struct]] = MemoryOptions

    def decide(self, seen: Observation) -> int:
        """Return the number of slots that the memory allows and the tasks need."""
        machine = seen.machine
        assert machine is not None
        # Negative when the reserve is in use: that many slots must end to free it.
        free = int((machine.memory_free - machine.memory_total * self.options.reserve) // self.options.slot)
        if free < 0:
            return seen.size + free
        if not seen.waiting:
            return seen.running
        # Half of it: the memory of recently started slots is not in use yet.
        return seen.size + min(free, max(1, free // 2))
