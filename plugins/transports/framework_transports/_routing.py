"""How an exchange chooses queues: the three types of AMQP 0-9-1, for transports that route by themselves.

1. `matches` compares a topic pattern with a routing key.
2. `routes` says whether a binding takes a message, for an exchange of any of the three types.

Source: AMQP 0-9-1, section 3.1.3: words are separated by dots, ``*`` stands for one word, ``#`` for zero or
more.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

#: The exchange types that the self-routing transports know.
TYPES: Final = frozenset({"direct", "topic", "fanout"})


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Translate `pattern` so that each word is matched together with the dot before it (``#`` may match none)."""
    parts: list[str] = []
    previous = ""
    for word in pattern.split("."):
        if word == "#":
            # Two in a row mean the same as one, and would only make the match slow.
            if previous != "#":
                parts.append(r"(?:\.[^.]*)*")
        elif word == "*":
            parts.append(r"\.[^.]*")
        else:
            parts.append(re.escape(f".{word}"))
        previous = word
    return re.compile("".join(parts), re.DOTALL)


def matches(pattern: str, routing_key: str) -> bool:
    """Return whether the topic `pattern` takes `routing_key`."""
    if "*" not in pattern and "#" not in pattern:
        return pattern == routing_key
    if not routing_key:
        # The empty key has no word at all, which only `#` can stand for.
        return pattern.replace("#", "").strip(".") == ""
    return _compiled(pattern).fullmatch(f".{routing_key}") is not None


def routes(exchange_type: str, binding_key: str, routing_key: str) -> bool:
    """Return whether a binding with `binding_key` to an exchange of `exchange_type` takes `routing_key`."""
    if exchange_type == "fanout":
        return True
    if exchange_type == "topic":
        return matches(binding_key, routing_key)
    return binding_key == routing_key
