"""Parses the words after ``framework multi COMMAND``: names of nodes, options for all or some nodes, and the rest.

1. Accepts the options of ``framework worker`` and suggests a name for a misspelt one.
2. Accepts options for some nodes, by position (from 1), range or name: ``-c:1-3 5``, ``--concurrency:web=5``.
3. Keeps the spelling of each option, which `multi show` prints.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

import click
import msgspec

from framework._cli.program import global_options
from framework._cli.worker import command
from framework._config.options import did_you_mean, options

_SCOPED: Final = re.compile(r"(--?[A-Za-z][\w-]*):([^=]+)(?:=(.*))?", re.DOTALL)
_ASSIGNMENT: Final = re.compile(r"\w+\.\w+=")
#: Options of `framework multi` itself that take a value.
_OWN: Final = ("--range-prefix", "--prefix", "--suffix")
_OWN_FLAGS: Final = {
    "--nosplash": "nosplash",
    "--quiet": "quiet",
    "-q": "quiet",
    "--verbose": "verbose",
    "--no-color": "no_color",
    "--json": "json",
    "-j": "json",
}


class Word(msgspec.Struct, frozen=True):
    """One option as written on the command line."""

    spelling: str
    #: The setting: the same for ``-c`` and ``--concurrency``.
    key: str
    #: The value; None: a flag.
    value: str | None = None
    #: The separator of option and value: nothing, a blank (two words), or an equals sign.
    join: str = ""
    #: A global option, written before ``worker`` on the command line.
    shared: bool = False
    #: The value is not expanded by `multi`, because it comes from the config file.
    literal: bool = False

    def spelled(self, value: str | None) -> list[str]:
        """Return the command-line words for this option with `value`."""
        if value is None:
            return [self.spelling]
        return [self.spelling, value] if self.join == " " else [f"{self.spelling}{self.join}{value}"]


class Words(msgspec.Struct):
    """A parsed command line."""

    names: list[str] = []
    options: list[Word] = []
    #: Options for some nodes: (which, option).
    scoped: list[tuple[str, Word]] = []
    #: Settings given as ``table.key=value``.
    assignments: list[str] = []
    #: ``--`` and the words after it.
    rest: list[str] = []
    #: Options of `framework multi` itself.
    own: dict[str, str] = {}
    flags: set[str] = set()
    #: The signal that ``-9`` or ``-QUIT`` names.
    signum: signal.Signals | None = None

    def value(self, key: str) -> str | None:
        """Return the value of `key` in the options for all nodes; None: not given."""
        return next((word.value for word in reversed(self.options) if word.key == key), None)


class _Known(msgspec.Struct, frozen=True):
    key: str
    takes_value: bool
    shared: bool


@cache
def known() -> dict[str, _Known]:
    """Return all options of the worker by spelling."""
    found: dict[str, _Known] = {}
    for shared, params in ((True, global_options()), (False, command.params)):
        for param in params:
            if isinstance(param, click.Option):
                # Two spellings of a setting can be two parameters of the command; the setting is their common key.
                key = _setting(param) or str(param.name)
                takes_value = not (param.is_flag or param.count)
                for spelling in (*param.opts, *param.secondary_opts):
                    found.setdefault(spelling, _Known(key, takes_value, shared))
    return found


@cache
def _settings() -> dict[str, str]:
    return {flag: option.name for option in options().values() for flag in (*option.flag, *option.hidden)}


def _setting(param: click.Option) -> str | None:
    return next((_settings()[spelling] for spelling in param.opts if spelling in _settings()), None)


def read(args: Sequence[str], signals: bool = False) -> Words:
    """Parse `args`; with `signals`, ``-9`` and ``-QUIT`` name a signal. Raises `click.UsageError`."""
    found = Words()
    words = iter(args)
    for word in words:
        if word == "--":
            found.rest = ["--", *words]
        elif not word.startswith("-") or word == "-":
            (found.assignments if _ASSIGNMENT.match(word) else found.names).append(word)
        elif word in _OWN_FLAGS:
            found.flags.add(_OWN_FLAGS[word])
        elif word.partition("=")[0] in _OWN:
            option, equals, value = word.partition("=")
            found.own[option] = value if equals else _next(words, option)
        elif signals and (signum := _signal(word[1:])) is not None:
            found.signum = signum
        else:
            _parse_option(found, word, words)
    return found


def _parse_option(found: Words, word: str, words: Iterator[str]) -> None:
    scoped = _SCOPED.fullmatch(word)
    if scoped is not None and (scoped[1].startswith("--") or len(scoped[1]) == 2):
        option, which, value = scoped.groups()
        what = _lookup(option)
        if what.shared:
            raise click.UsageError(f"option {option} is for all nodes: write it without :{which}")
        join = "=" if option.startswith("--") else " "
        if what.takes_value and value is None:
            value = _next(words, option)
        found.scoped.append((which, Word(option, what.key, value, join if what.takes_value else "")))
    elif word.startswith("--"):
        option, equals, text = word.partition("=")
        what = _lookup(option)
        if equals and not what.takes_value:
            raise click.UsageError(f"option {option} takes no value")
        given = (text if equals else _next(words, option)) if what.takes_value else None
        found.options.append(Word(option, what.key, given, "=" if what.takes_value else "", what.shared))
    else:
        _parse_short(found, word, words)


def _parse_short(found: Words, word: str, words: Iterator[str]) -> None:
    """Parse short options: ``-c 4``, ``-c4``, ``-E`` or ``-Ec4``."""
    rest = word[1:]
    while rest:
        option, rest = f"-{rest[0]}", rest[1:]
        what = _lookup(option, word)
        value, join = None, ""
        if what.takes_value:
            value, join, rest = (rest, "", "") if rest else (_next(words, option), " ", "")
        found.options.append(Word(option, what.key, value, join, what.shared))


def _lookup(option: str, word: str | None = None) -> _Known:
    if (what := known().get(option)) is None:
        spellings = [*known(), *_OWN, *_OWN_FLAGS]
        raise click.UsageError(f"no such option: {word or option}{did_you_mean(word or option, spellings)}")
    return what


def _next(words: Iterator[str], option: str) -> str:
    value = next(words, None)
    if value is None:
        raise click.UsageError(f"option {option} needs a value")
    return value


def _signal(text: str) -> signal.Signals | None:
    """Return the signal that `text` names, such as ``9``, ``KILL`` or ``SIGKILL``; None: it names none."""
    wanted: Any = None
    if text.isdigit():
        wanted = next((each for each in signal.Signals if each == int(text)), None)
    elif len(text) > 1:
        wanted = getattr(signal, f"SIG{text.removeprefix('SIG')}", None)
    return wanted if isinstance(wanted, signal.Signals) else None
