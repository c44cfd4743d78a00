"""Texts for people: `safe_repr`, a repr of bounded length and depth that never raises, and `printable`."""

from __future__ import annotations

import re
from typing import Any, Final

_PLAIN: Final = frozenset({int, bool, type(None), float})
_BRACKETS: Final[dict[type, tuple[str, str]]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    dict: ("{", "}"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}

#: The most characters that are shown of an id or a name.
NAME_MAX: Final = 255
#: What a terminal obeys, what ends a line somewhere, what changes the direction of writing, and what cannot be encoded.
_CONTROL: Final = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


def printable(text: str, keep: str = "", maxlen: int | None = None) -> str:
    """Return `text` with control characters as escapes, except those in `keep`, and cut at `maxlen` characters."""
    if maxlen is not None and len(text) > maxlen:
        text = f"{text[:maxlen]}..."
    if text.isprintable():
        return text
    return _CONTROL.sub(lambda match: match[0] if match[0] in keep else repr(match[0])[1:-1], text)


def printable_json(text: str) -> str:
    """Return the JSON `text` with the control characters escaped that JSON allows in strings."""
    if text.isascii():
        return text
    return _CONTROL.sub(lambda match: match[0] if match[0] < " " else f"\\u{ord(match[0]):04x}", text)


def safe_repr(obj: Any, maxlen: int = 1024, maxlevels: int = 3) -> str:
    """Return the repr of `obj`, cut with ``...`` at about `maxlen` characters and below `maxlevels` levels."""
    kind = type(obj)
    if kind is tuple or kind is list:
        # A fast path for the usual arguments, a few plain values.
        left = maxlen
        for item in obj:
            item_kind = type(item)
            if item_kind is str:
                left -= 2 * len(item) + 4
            elif item_kind in _PLAIN:
                left -= 26 if item_kind is not int or -(10**20) < item < 10**20 else maxlen
            else:
                break
            if left < 0:
                break
        else:
            return repr(obj)
    elif obj is None or kind is bool or kind is float:
        return repr(obj)
    elif not obj and (kind is dict or kind is str):
        return "{}" if kind is dict else "''"
    writer = _Writer(maxlen, maxlevels)
    writer.write(obj, 0)
    return "".join(writer.parts)


class _Writer:
    """Writes until the length limit is used up, then only closing brackets."""

    def __init__(self, left: int, levels: int) -> None:
        self.parts: list[str] = []
        self.left = left
        self.levels = levels
        self.open: set[int] = set()

    def put(self, text: str) -> None:
        self.parts.append(text)
        self.left -= len(text)

    def write(self, obj: Any, level: int) -> None:
        kind = type(obj)
        if kind in _BRACKETS:
            self.write_container(obj, kind, level)
        elif kind is str or kind is bytes:
            self.write_text(obj)
        else:
            self.write_other(obj)

    def write_text(self, obj: str | bytes) -> None:
        left = max(self.left, 0)
        if len(obj) <= left:
            text = repr(obj)
            self.put(text if len(text) <= left + 2 else f"{text[:left]}...{text[-1]}")
        else:
            text = repr(obj[:left])
            self.put(f"{text[: left + 1]}...{text[-1]}")

    def write_other(self, obj: Any) -> None:
        try:
            text = repr(obj)
        except Exception as error:  # noqa: BLE001 - a user's __repr__ may raise anything
            text = f"<{type(obj).__name__}: its repr raises {type(error).__name__}>"
        if len(text) > self.left:
            text = f"{text[: max(self.left, 0)]}..."
        self.put(text)

    def write_container(self, obj: Any, kind: type, level: int) -> None:
        if not obj:
            self.put("set()" if kind is set else "frozenset()" if kind is frozenset else "".join(_BRACKETS[kind]))
            return
        before, after = _BRACKETS[kind]
        if level >= self.levels or id(obj) in self.open:
            self.put(f"{before}...{after}")
            return
        self.open.add(id(obj))
        self.put(before)
        try:
            self.write_items(obj, level, is_dict=kind is dict)
        except RuntimeError:  # another thread changed it meanwhile
            self.put("...")
        if kind is tuple and len(obj) == 1:
            after = f",{after}"
        self.parts.append(after)
        self.open.discard(id(obj))

    def write_items(self, obj: Any, level: int, *, is_dict: bool) -> None:
        first = True
        for item in obj:
            if not first:
                self.put(", ")
            first = False
            if self.left <= 0:
                self.parts.append("...")
                return
            self.write(item, level + 1)
            if is_dict:
                self.put(": ")
                self.write(obj[item], level + 1)
