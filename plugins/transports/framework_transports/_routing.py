"""Routing by exchange type, for transports whose broker does not route.

1. `matches` compares a topic pattern with a routing key.
2. `routes` decides whether a binding of a direct, topic or fan-out exchange matches a routing key.

Source: AMQP 0-9-1, section 3.1.3: dots separate words, ``*`` matches one word, ``#`` matches zero or more.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

#: The exchange types that these transports support.
TYPES: Final = frozenset({"direct", "topic", "fanout"})


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compile `pattern` to a regular expression that matches each word with the dot before it."""
    parts: list[str] = []
    previous = ""
    for word in pattern.split("."):
        if word == "#":
            # Two in a row match the same keys as one, only slower.
            if previous != "#":
                parts.append(r"(?:\.[^.]*)*")
        elif word == "*":
            parts.append(r"\.[^.]*")
        else:
            parts.append(re.escape(f".{word}"))
        previous = word
    return re.compile("".join(parts), re.DOTALL)


def matches(pattern: str, routing_key: str) -> bool:
    """Return whether the topic `pattern` matches `routing_key`."""
    if "*" not in pattern and "#" not in pattern:
        return pattern == routing_key
    if not routing_key:
        # The empty key has no words, so only `#` matches it.
        return pattern.replace("#", "").strip(".") == ""
    return _compiled(pattern).fullmatch(f".{routing_key}") is not None


def routes(exchange_type: str, binding_key: str, routing_key: str) -> bool:
    """Return whether a binding with `binding_key` to an exchange of `exchange_type` matches `routing_key`."""
    if exchange_type == "fanout":
        return True
    if exchange_type == "topic":
        return matches(binding_key, routing_key)
    return binding_key == routing_key
