"""Patterns of node names, which come from other machines, matched in linear time.

1. A glob goes to `fnmatch`, which never steps back over a ``*`` once what follows it has matched.
2. A regular expression becomes a program of states, and all states that can be reached are followed at once: the time
   is bounded by states times characters. The standard library's engine tries ways one after another instead, and sees
   one character, set or escape at a time here.
3. The length is bounded before anything else, then repetitions: no name of a node needs more.

Source: Thompson, "Regular Expression Search Algorithm" (1968); the program's form is Pike's, of the text editor sam.
"""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache
from typing import Final, TypeAlias

from framework.exceptions import MessageError

#: The most characters of a pattern. Host names have up to 253.
_GLOB_MAX: Final = 512
_EXPRESSION_MAX: Final = 128
#: The most repetitions in an expression, and the highest number of ``{m,n}``.
_REPETITIONS_MAX: Final = 4
_COUNT_MAX: Final = 255
#: Most characters of a refused pattern that an error shows.
_SHOWN: Final = 80

#: A character, set, escape or assertion that must match; or where to go on, as offsets.
_Program: TypeAlias = list["re.Pattern[str] | tuple[int, ...]"]

_WORD: Final = re.compile(
    r"\(\?:|[()|^$.]|[*+?]\??|\{(?P<least>\d{0,4})(?P<range>,(?P<most>\d{0,4}))?\}\??"
    r"|\[\^?\]?(?:\\.|[^\]\\])*\]|\\[AZbBdDsSwW]|\\[^A-Za-z0-9]|[^\\\[]",
    re.DOTALL,
)


def matches(node: str, pattern: str, matcher: str) -> bool:
    """Return whether `pattern` matches `node`: a glob if `matcher` is ``glob``, else a regular expression.

    A glob matches the whole name, an expression its beginning. Raises `MessageError` for a pattern that is too long or
    is no such expression.
    """
    limit = _GLOB_MAX if matcher == "glob" else _EXPRESSION_MAX
    if len(pattern) > limit:
        raise MessageError(f"the pattern has {len(pattern):,} characters; a {matcher:.9} pattern has at most {limit}")
    if matcher == "glob":
        return fnmatch.fnmatchcase(node, pattern)
    return _run(_compiled(pattern), node)


@lru_cache(maxsize=16)
def _compiled(pattern: str) -> _Program:
    try:
        return _Parser(pattern).program()
    except (ValueError, RecursionError, re.error, FutureWarning) as error:  # the warning: of a set, under -W error
        raise MessageError(
            f"the pattern {pattern[:_SHOWN]!r} is no regular expression that is taken here: {error}; there are groups, "
            f"|, sets, at most {_REPETITIONS_MAX} of * + ? {{m,n}}, ^ $ . and \\d \\s \\w \\b, with (?i) in front"
        ) from None


class _Parser:
    """Makes the program of one expression. Offsets are relative, so that a part can be repeated as it is."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._ignore_case = pattern.startswith("(?i)")
        self._at = 4 if self._ignore_case else 0
        self._repetitions = 0
        self._word = self._next()

    def program(self) -> _Program:
        program = self._alternatives()
        if self._word is not None:
            raise ValueError("a ) without its (")
        return program

    def _next(self) -> re.Match[str] | None:
        if self._at == len(self._pattern):
            return None
        found = _WORD.match(self._pattern, self._at)
        if found is None:
            raise ValueError(f"{self._pattern[self._at : self._at + 2]!r} is not known")
        self._at = found.end()
        return found

    def _take(self) -> str:
        word, self._word = self._word, self._next()
        return "" if word is None else word[0]

    def _is(self, *words: str) -> bool:
        return self._word is not None and self._word[0] in words

    def _alternatives(self) -> _Program:
        program = self._sequence()
        while self._is("|"):
            self._take()
            other = self._sequence()
            program = [(1, len(program) + 2), *program, (len(other) + 1,), *other]
        return program

    def _sequence(self) -> _Program:
        program: _Program = []
        while self._word is not None and not self._is("|", ")"):
            group = self._is("(", "(?:")
            program += self._repeated(self._single(), group)
        return program

    def _single(self) -> _Program:
        word = self._take()
        if word in ("(", "(?:"):
            if self._is("?", "??"):
                raise ValueError("(? is known as (?: and, in front, as (?i)")
            program = self._alternatives()
            if self._take() != ")":
                raise ValueError("a ( without its )")
            return program
        # A `{` that is no count stands for itself; so does a count with nothing before it, to which `re` objects.
        if word[0] in "*+?" or (word[0] == "{" and len(word) > 1):
            raise ValueError(f"{word} repeats nothing, or a repetition")
        return [re.compile(word, re.IGNORECASE if self._ignore_case else 0)]

    def _repeated(self, program: _Program, group: bool) -> _Program:
        word = self._word
        if word is None or word[0][0] not in "*+?{" or word[0] == "{":
            return program
        self._take()
        self._repetitions += 1
        if self._repetitions > _REPETITIONS_MAX:
            raise ValueError(f"it has more than {_REPETITIONS_MAX} repetitions")
        if group and word[0][0] != "?":
            raise ValueError(f"{word[0]} repeats a group")
        least, most = _count(word)
        if max(least, most or 0) > _COUNT_MAX or (most is not None and most < least):
            raise ValueError(f"{word[0]} must count up, to {_COUNT_MAX} at most")
        size = len(program)
        if most is None:
            return [*program * least, (1, size + 2), *program, (-size - 1,)]
        return [*program * least, *[(1, size + 1), *program] * (most - least)]


def _count(word: re.Match[str]) -> tuple[int, int | None]:
    """Return how often at least and at most; None: any number of times."""
    if word[0][0] != "{":
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[word[0][0]]
    least = int(word["least"] or 0)
    return least, least if word["range"] is None else int(word["most"]) if word["most"] else None


def _run(program: _Program, text: str) -> bool:
    """Return whether `program` matches `text` from its beginning."""
    current = [0]
    for position in range(len(text) + 1):
        seen: set[int] = set()
        following: list[int] = []
        while current:
            state = current.pop()
            if state == len(program):
                return True
            if state in seen:
                continue
            seen.add(state)
            step = program[state]
            if isinstance(step, tuple):
                current += [state + offset for offset in step]
            elif (found := step.match(text, position)) is not None:
                # An assertion matches without a character.
                (following if found.end() > position else current).append(state + 1)
        current = following
    return False
