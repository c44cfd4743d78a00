"""Finds the line of a key in a TOML file.

The standard parser does not keep lines, and a parser that does is too slow for every start. So the file is scanned
again, but only for an error message or `framework config show --origin`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_HEADER = re.compile(r"^\s*\[\[?\s*(?P<key>[^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_ASSIGNMENT = re.compile(rf"^\s*(?P<key>{_NAME}(?:\s*\.\s*{_NAME})*)\s*=")
_PART = re.compile(_NAME)
_FENCES = ('"""', "'" * 3)


def find_line(text: str, key: Sequence[str]) -> int | None:
    """Return the 1-based line of `key` (``("worker", "pool")``), or of the nearest table around it."""
    wanted = tuple(key)
    table: tuple[str, ...] = ()
    best: tuple[int, int | None] = (0, None)
    fence: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if fence is not None:
            if fence in line:
                fence = None
            continue
        path: tuple[str, ...] | None = None
        if header := _HEADER.match(line):
            table = path = _parts(header["key"])
        elif assignment := _ASSIGNMENT.match(line):
            path = table + _parts(assignment["key"])
        if path is not None and path == wanted[: len(path)] and len(path) > best[0]:
            best = (len(path), number)
        fence = next((mark for mark in _FENCES if line.count(mark) % 2), None)
    return best[1]


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(key))
