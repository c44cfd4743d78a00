"""The options of the pool, ``[pool.prefork]`` in the configuration file."""

from __future__ import annotations

from typing import Annotated

import msgspec


class PreforkOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``[pool.prefork]``."""

    stuck_after: Annotated[
        float,
        msgspec.Meta(
            ge=0, description="Seconds in one task after which the log tells, once, where the task is; 0: never."
        ),
    ] = 3600.0
