"""Routing by exchange type, for transports whose broker does not route.

1. `matches` compares a topic pattern with a routing key.
2. `routes` decides whether a binding of a direct, topic or fan-out exchange matches a routing key.

Source: AMQP 0-9-1, section 3.1.3: dots separate words, ``*`` matches one word, ``#`` matches zero or more.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

#: The exchange types that these transports support.
TYPES: Final = frozenset({"direct", "topic", "fanout"})


@lru_cache(maxsize=1024)
def matches(pattern: str, routing_key: str) -> bool:
    """Return whether the topic `pattern` matches `routing_key`, in time bounded by the product of their lengths.

    Both come from outside: a regular expression with a repetition for every ``#`` would try ways without end.
    """
    if "*" not in pattern and "#" not in pattern:
        return pattern == routing_key
    # The empty key has no words, so only `#` matches it.
    words = routing_key.split(".") if routing_key else []
    parts = pattern.split(".")
    count = len(parts)
    word = part = 0
    # The last `#`, and the word up to which it matches so far. An earlier one never has to match more than it did.
    last, until = -1, 0
    while word < len(words):
        if part < count and parts[part] == "#":
            last, until = part, word
            part += 1
        elif part < count and parts[part] in ("*", words[word]):
            part += 1
            word += 1
        elif last >= 0:
            until += 1
            part, word = last + 1, until
        else:
            return False
    return all(rest == "#" for rest in parts[part:])


def routes(exchange_type: str, binding_key: str, routing_key: str) -> bool:
    """Return whether a binding with `binding_key` to an exchange of `exchange_type` matches `routing_key`."""
    if exchange_type == "fanout":
        return True
    if exchange_type == "topic":
        return matches(binding_key, routing_key)
    return binding_key == routing_key
