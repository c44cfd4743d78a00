"""Autoscaler `load`: grows while tasks wait and the load average is below a target, shrinks when it is above a ceiling.

The load average counts every program on the machine and lags by about a minute, so growth is limited to half the pool's
size, but at least one slot, a second.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from framework.api.autoscaler import Autoscaler, Observation


class LoadOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of the autoscaler `load`."""

    target: Annotated[
        float, msgspec.Meta(gt=0, description="Load average for each CPU above which the pool does not grow.")
    ] = 0.8
    ceiling: Annotated[
        float, msgspec.Meta(gt=0, description="Load average for each CPU above which the pool shrinks.")
    ] = 1.2


class LoadAutoscaler(Autoscaler):
    """The autoscaler `load`: decides by the load average."""

    basis: ClassVar[Literal["queue", "machine"]] = "machine"
    options_type: ClassVar[type[msgspec.Struct]] = LoadOptions

    def decide(self, seen: Observation) -> int:
        """Return the number of slots that the load allows and the tasks need."""
        assert seen.machine is not None
        load = seen.machine.load
        if load > self.options.ceiling:
            # In proportion: at twice the ceiling, half the slots.
            return int(seen.size * self.options.ceiling / load)
        if not seen.waiting:
            return seen.running
        if load >= self.options.target:
            return seen.size
        return seen.size + max(1, seen.size // 2)
