"""The options of a call, and a check for misspelt ones.

Celery passes an unknown option on as a property of the message, so unknown names are allowed. A name that is almost
that of an option is a misspelling, and the call would silently ignore it: such a name is refused.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

logger = logging.getLogger(__name__)

#: Options that people write.
_WRITTEN: Final = (
    "add_to_parent", "argsrepr", "compression", "countdown", "delivery_mode", "eta", "exchange", "exchange_type",
    "expires", "headers", "ignore_result", "kwargsrepr", "link", "link_error", "priority", "queue", "retries", "retry",
    "retry_policy", "routing_key", "serializer", "shadow", "soft_time_limit", "task_id", "time_limit",
)  # fmt: skip
#: Options that programs write, and those of Celery's clients for connections and messages.
_PASSED_ON: Final = (
    "app_id", "chain", "chord", "chord_size", "connection", "content_encoding", "content_type", "correlation_id",
    "declare", "expiration", "group", "group_id", "group_index", "immediate", "interval", "mandatory", "max_retries",
    "message_id", "origin", "parent_id", "producer", "properties", "publisher", "replaced_task_nesting", "reply_to",
    "root_id", "route_name", "router", "stamped_headers", "stamps", "taskset_id", "throw", "timeout", "timestamp",
    "type", "user_id",
)  # fmt: skip
KNOWN: Final = frozenset((*_WRITTEN, *_PASSED_ON))
#: Options that are no properties of the message.
NO_PROPERTIES: Final = KNOWN - {"app_id", "message_id", "timestamp", "type", "user_id"}
#: The least similarity to an option's name that counts as a misspelling (1.0: equal). `trace_id` is below it.
_ALIKE: Final = 0.85
#: Shorter names match too easily.
_SHORTEST: Final = 5

_warned: set[str] = set()


def check(options: Mapping[str, Any], inside_a_task: bool) -> None:
    """Check `options` for misspelt names.

    Raises `TypeError` for one; `inside_a_task` logs it once instead: the signature may have come in a message, and a
    task must not fail because of another program's mistake.
    """
    stamps = options.get("stamped_headers") or ()
    for name in options:
        if name in KNOWN or name in stamps:
            continue
        meant = _meant(name)
        if meant is None:
            continue
        text = f"a call has no option {name!r}; did you mean {meant}?"
        if not inside_a_task:
            raise TypeError(text)
        if name not in _warned:
            _warned.add(name)
            logger.warning("%s", text)


def _meant(name: str, candidates: Iterable[str] = _WRITTEN) -> str | None:
    close = difflib.get_close_matches(name, [each for each in candidates if len(each) >= _SHORTEST], 1, _ALIKE)
    return close[0] if close else None


def still_valid(options: Mapping[str, Any], over: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return those of `options` that stay when the options `over` win over them: another place replaces theirs."""
    if over.get("queue") is not None:
        gone = {"exchange", "exchange_type"}
        if "queue" in options or "exchange" in options:
            gone.add("routing_key")
    elif over.get("exchange") is not None:
        gone = {"queue", "exchange_type"}
    else:
        return options
    return {name: value for name, value in options.items() if name not in gone}
