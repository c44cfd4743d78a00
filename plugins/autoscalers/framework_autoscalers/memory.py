"""Autoscaler `memory`: grows while something waits and memory for another slot is free, shrinks when it runs short.

In a container with a limit of its own, that limit counts.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from framework.api.autoscaler import Autoscaler, Observation


class MemoryOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of the autoscaler `memory`."""

    slot: Annotated[int, msgspec.Meta(gt=0, description="MiB that a slot needs with its task.")] = 128
    reserve: Annotated[
        float, msgspec.Meta(ge=0, lt=1, description="Share of the memory that stays free, 0.1 for a tenth.")
    ] = 0.1


class MemoryAutoscaler(Autoscaler):
    """Goes by the available memory."""

    basis: ClassVar[Literal["queue", "machine"]] = "machine"
    options_type: ClassVar[type[msgspec.Struct]] = MemoryOptions

    def decide(self, seen: Observation) -> int:
        """Return the slots that the memory allows and the work needs."""
        machine = seen.machine
        assert machine is not None
        # Below zero when the reserve is touched: as many slots have to go as free it again.
        room = int((machine.memory_free - machine.memory_total * self.options.reserve) // self.options.slot)
        if room < 0:
            return seen.size + room
        if not seen.waiting:
            return seen.running
        # Half of it: what the slots of a moment ago will use is not seen yet.
        return seen.size + min(room, max(1, room // 2))
