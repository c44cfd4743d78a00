"""Descriptors of the prefork pool: how many children the limit of open files allows.

1. Raises the soft limit when it is too low for the children that are wanted; the hard limit stays.
2. Keeps descriptors back for the connections, which are opened after the children have been requested.
"""

from __future__ import annotations

import logging
import os
import resource
from contextlib import suppress
from typing import Final

logger = logging.getLogger(__name__)

#: Descriptors that the worker holds for one child: see `slot`.
_PER_CHILD: Final = 5
#: Descriptors kept back for broker, result store, remote control, and the server's next start.
_KEPT_BACK: Final = 32
#: Descriptors beyond those of the children that a raised soft limit leaves.
_HEADROOM: Final = 128


class Descriptors:
    """Limits the number of children; created before the first child."""

    def __init__(self) -> None:
        self._in_use = len(os.listdir("/dev/fd"))
        self._logged = 0

    def affordable(self, wanted: int) -> int:
        """Return how many of `wanted` children there can be, at least 1; raise the soft limit if that is too low."""
        limit = _raise_limit(self._in_use + wanted * _PER_CHILD + _HEADROOM)
        most = max(1, (limit - self._in_use - _KEPT_BACK) // _PER_CHILD)
        if most >= wanted:
            return wanted
        if wanted != self._logged:
            self._logged = wanted
            logger.warning(
                "The limit of open files, %d, allows %d processes instead of %d: the pool continues with these; "
                "raise the hard limit (ulimit -Hn, LimitNOFILE) or lower --concurrency",
                limit,
                most,
                wanted,
            )
        return most


def _raise_limit(needed: int) -> int:
    """Raise the soft limit of open files to `needed`, or to the hard limit if that is lower; return the soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return max(soft, needed)
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    # A system may have a lower maximum of its own.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
