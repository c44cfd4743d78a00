"""The options of a call: which there are, and what becomes of one that is not among them.

Celery hands every other one on as a property of the message, so producers may have theirs, and none is refused, but
where its name is almost that of an option: then it is a slip, and the call would silently not do what it says.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

logger = logging.getLogger(__name__)

#: What people write.
_WRITTEN: Final = (
    "add_to_parent", "argsrepr", "compression", "countdown", "delivery_mode", "eta", "exchange", "exchange_type",
    "expires", "headers", "ignore_result", "kwargsrepr", "link", "link_error", "priority", "queue", "retries", "retry",
    "retry_policy", "routing_key", "serializer", "shadow", "soft_time_limit", "task_id", "time_limit",
)  # fmt: skip
#: What programs write, and Celery's clients for connections and messages of their own.
_PASSED_ON: Final = (
    "app_id", "chain", "chord", "chord_size", "connection", "content_encoding", "content_type", "correlation_id",
    "declare", "expiration", "group", "group_id", "group_index", "immediate", "interval", "mandatory", "max_retries",
    "message_id", "origin", "parent_id", "producer", "properties", "publisher", "replaced_task_nesting", "reply_to",
    "root_id", "route_name", "router", "stamped_headers", "stamps", "taskset_id", "throw", "timeout", "timestamp",
    "type", "user_id",
)  # fmt: skip
KNOWN: Final = frozenset((*_WRITTEN, *_PASSED_ON))
#: How like an option's a name must be to be taken for it: 1.0 is the same. A `trace_id` is no `task_id`.
_ALIKE: Final = 0.85
#: Shorter ones are like too much.
_SHORTEST: Final = 5

_told: set[str] = set()


def check(options: Mapping[str, Any], inside_a_task: bool) -> None:
    """Look at `options`, of which some are not in `KNOWN`.

    Raises `TypeError` for a misspelt one. `inside_a_task` it is only logged, once: a signature may have come in a
    message, and a task must not fail by the slip of somebody else.
    """
    stamps = options.get("stamped_headers") or ()
    for name in options:
        if name in KNOWN or name in stamps:
            continue
        meant = _meant(name)
        if meant is None:
            continue
        text = f"tasks have no option {name!r} when they are called; did you mean {meant}?"
        if not inside_a_task:
            raise TypeError(text)
        if name not in _told:
            _told.add(name)
            logger.warning("%s", text)


def _meant(name: str, candidates: Iterable[str] = _WRITTEN) -> str | None:
    close = difflib.get_close_matches(name, [each for each in candidates if len(each) >= _SHORTEST], 1, _ALIKE)
    return close[0] if close else None
