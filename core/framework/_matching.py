"""Which workers a request's pattern means: what the worker decides for itself, and the client for its roster.

What comes from outside is bounded: a pattern is a glob, or a regular expression that cannot take long.
"""

from __future__ import annotations

import fnmatch
import re
from typing import Final

from framework.exceptions import MessageError

#: More is refused, for a hostile expression must not stall the loop. Backtracking is exponential in repeated groups and
#: in the number of repetitions: a few of them, one after another, are harmless.
_PATTERN_MAX: Final = 128
_REPETITIONS_MAX: Final = 4
_REPETITION: Final = re.compile(r"[*+{]|(?<!\()\?")
_REPEATED_AGAIN: Final = re.compile(r"[)*+}][*+{]")


def matches(node: str, pattern: str, matcher: str) -> bool:
    """Say whether `pattern` means `node`; `matcher` is ``glob``, anything else means a regular expression.

    Raises `MessageError` for an expression that is none, or might take long.
    """
    if matcher == "glob":
        return fnmatch.fnmatchcase(node, pattern)
    if not _harmless(pattern):
        raise MessageError(
            f"the pattern is longer than {_PATTERN_MAX} characters, repeats a group or has more than "
            f"{_REPETITIONS_MAX} repetitions"
        )
    try:
        return re.match(pattern, node) is not None
    except re.error as error:
        raise MessageError(f"the pattern is no regular expression: {error}") from None


def _harmless(pattern: str) -> bool:
    """Return whether matching `pattern` against a host name takes no time worth mentioning."""
    return (
        len(pattern) <= _PATTERN_MAX
        and len(_REPETITION.findall(pattern)) <= _REPETITIONS_MAX
        and not _REPEATED_AGAIN.search(pattern)
    )
