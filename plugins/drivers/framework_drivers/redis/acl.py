"""What an account of a Redis server lacks, as the rule of an ACL that grants it.

Source: the error texts of Redis 6 and 7, and the rules of ``ACL SETUSER``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: How replies begin to commands, keys or channels that the account has no right to.
DENIED: Final = "NOPERM"
#: Commands of which each subcommand is a right of its own.
_CONTAINERS: Final = frozenset({"ACL", "CLIENT", "CLUSTER", "CONFIG", "MEMORY", "PUBSUB", "SCRIPT"})
_SCRIPTS: Final = frozenset({"EVAL", "EVALSHA"})
#: The most keys that a text names.
_NAMED: Final = 4


def remedy(reply: str, command: Sequence[object], user: str) -> str:
    """Return what an operator has to enter so that `user` may run `command`, which got the error `reply`."""
    words = [word.decode(errors="replace") if isinstance(word, bytes) else str(word) for word in command]
    return f"; to allow it: ACL SETUSER {user} {_rules(reply, words)}"


def _rules(reply: str, words: list[str]) -> str:
    name = words[0].upper()
    if "channel" in reply:
        channels = words[1:2] if name == "PUBLISH" else words[1:]
        return " ".join(f"&{channel}" for channel in channels)
    if "key" in reply:
        keys = words[3 : 3 + int(words[2])] if name in _SCRIPTS else words[1:2]
        return " ".join(f"~{key}" for key in keys[:_NAMED])
    return f"+{name.lower()}|{words[1].lower()}" if name in _CONTAINERS else f"+{name.lower()}"
