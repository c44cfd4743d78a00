"""Options of the prefork pool."""

from __future__ import annotations

from typing import Annotated

import msgspec


class PreforkOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The table ``[pool.prefork]`` of the configuration file."""

    stuck_after: Annotated[
        float,
        msgspec.Meta(
            ge=0, description="Seconds in one task after which its process's stack is logged, once a task; 0: never."
        ),
    ] = 3600.0
