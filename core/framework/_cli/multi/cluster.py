"""Nodes: from names and options to the command line that runs each.

1. Expands an integer N to the nodes ``celery1`` to ``celeryN``; without names, uses the tables ``[nodes.<name>]`` of
   the config file.
2. Merges the options of a node; the command line overrides the config file.
3. Expands ``%`` variables of the command line: ``%n`` the node's name, ``%h`` and ``%p`` name@host, ``%d`` its host.
   The worker expands ``%i``, ``%I`` and all variables in the config file (see `nodename`).
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

import click
import msgspec

from framework._cli.multi.words import Word, Words
from framework._config.nodename import file_path, node_name
from framework._config.options import Option, did_you_mean, options

PIDFILE: Final = "/var/run/celery/%n.pid"
LOGFILE: Final = "/var/log/celery/%n%I.log"
_VARIABLE: Final = re.compile(r"%(.)")
_RANGE: Final = re.compile(r"(\d+)(?:-(\d+))?")
#: Settings that name a file of the node, whose directory `multi` creates.
FILES: Final = ("worker_pidfile", "worker_logfile", "worker_state_db")


class ClusterNode(msgspec.Struct, frozen=True):
    """One worker on this machine, with its options."""

    #: name@host
    name: str
    words: tuple[Word, ...]
    assignments: tuple[str, ...]
    rest: tuple[str, ...]
    #: Files of all workers as the config file or the environment names them; the worker expands their ``%`` variables.
    configured: Mapping[str, str]

    @property
    def short(self) -> str:
        """The part before the @."""
        return self.name.rpartition("@")[0]

    def expand(self, template: str) -> str:
        """Return `template` with `multi`'s variables expanded."""
        short, _, host = self.name.rpartition("@")
        variables = {"n": short, "h": self.name, "p": self.name, "d": host, "%": "%"}
        return _VARIABLE.sub(lambda match: variables.get(match[1], match[0]), template)

    def argv(self) -> list[str]:
        """Return the arguments with which Python runs the node."""
        shared: list[str] = []
        own: list[str] = []
        for word in self.words:
            (shared if word.shared else own).extend(word.spelled(self._value(word)))
        own += ["-n", self.name]
        for key, flag, default in (
            ("worker_pidfile", "--pidfile", PIDFILE),
            ("worker_logfile", "--logfile", LOGFILE),
            ("worker_executable", "--executable", sys.executable),
        ):
            if self._word(key) is None and key not in self.configured:
                own.append(f"{flag}={self.expand(default)}")
        return ["-m", "framework", *shared, "worker", "--detach", *own, *self.assignments, *self.rest]

    def path(self, key: str) -> str | None:
        """Return the expanded path of the node's file that the setting `key` names; None: no such file."""
        word = self._word(key)
        default = {"worker_pidfile": PIDFILE, "worker_logfile": LOGFILE}.get(key)
        if word is not None:
            template = self._value(word)
        elif key in self.configured:
            template = self.configured[key]
        else:
            template = self.expand(default) if default else None
        return file_path(template, self.name) if template else None

    @property
    def pidfile(self) -> str:
        """The path of the pidfile."""
        return self.path("worker_pidfile") or ""

    def setting(self, key: str) -> str | None:
        """Return the value of the setting `key` in the node's options; None: not given."""
        word = self._word(key)
        return None if word is None else word.value

    def _word(self, key: str) -> Word | None:
        return next((word for word in self.words if word.key == key), None)

    def _value(self, word: Word) -> str | None:
        if word.value is None or word.literal:
            return word.value
        value = self.expand(word.value)
        return os.path.expanduser(value) if word.key in FILES else value


def cluster(
    words: Words, declared: Mapping[str, Mapping[str, Any]], configured: Mapping[str, str]
) -> list[ClusterNode]:
    """Return the nodes of the command line `words`.

    `declared`: the tables ``[nodes.<name>]``. `configured`: paths from ``[worker]`` or the environment.
    Raises `click.UsageError` if no node is named, or if an option names an unknown node.
    """
    names = words.names or list(declared)
    if not names:
        raise click.UsageError(
            "no nodes: give names (web mail) or a number (3), or declare [nodes.<name>] in framework.toml"
        )
    counted = len(names) == 1 and names[0].isdigit()
    if counted:
        if not int(names[0]):
            raise click.UsageError("0 nodes: wanted 1 or more")
        prefix = words.own.get("--range-prefix", "celery")
        names = [f"{prefix}{number}" for number in range(1, int(names[0]) + 1)]
    elif words.names:
        names = [name if "@" in name else words.own.get("--prefix", "") + name for name in names]
    hostname = next((word.value for word in reversed(words.options) if word.key == "worker_hostname"), None)
    tables = [declared.get(name.partition("@")[0], {}) for name in names]
    full = [
        _full_name(name, table, words.own.get("--suffix") or hostname)
        for name, table in zip(names, tables, strict=True)
    ]
    if twice := sorted({name for name in full if full.count(name) > 1}):
        raise click.UsageError(f"the node {twice[0]} is named twice")
    scoped = [(_select(which, full, word.spelling), word) for which, word in words.scoped]
    nodes = []
    for name, table in zip(full, tables, strict=True):
        own, assignments = _from_table(table)
        given = [*own, *words.options, *(word for chosen, word in scoped if name in chosen)]
        nodes.append(
            ClusterNode(name, tuple(_merged(given)), (*assignments, *words.assignments), tuple(words.rest), configured)
        )
    return nodes


def _full_name(name: str, table: Mapping[str, Any], host: str | None) -> str:
    if "@" not in name:
        declared = table.get("hostname")
        name = declared if declared and "@" in declared else f"{name}@{host or declared or '%h'}"
    return node_name(name, socket.gethostname())


def _merged(words: Iterable[Word]) -> list[Word]:
    """Return `words` with each setting once: the last value, at the position of the first."""
    found: dict[str, Word] = {}
    for word in words:
        if word.key != "worker_hostname":
            found[word.key] = word
    return list(found.values())


def _select(which: str, names: list[str], option: str) -> set[str]:
    """Return the nodes in `names` that `which`, such as ``1,3-5`` or ``web,mail``, selects."""
    chosen: set[str] = set()
    for item in which.split(","):
        named = [name for name in names if item in (name, name.rpartition("@")[0])]
        positions = _RANGE.fullmatch(item)
        if named:
            chosen.update(named)
        elif positions is not None:
            first, last = int(positions[1]), int(positions[2] or positions[1])
            if not 1 <= first <= last <= len(names):
                raise click.UsageError(f"option {option}:{which}: there are the nodes 1 to {len(names)}")
            chosen.update(names[first - 1 : last])
        else:
            near = did_you_mean(item, [name.rpartition("@")[0] for name in names])
            raise click.UsageError(f"option {option}:{which}: there is no node {item or repr('')}{near}")
    return chosen


def _from_table(table: Mapping[str, Any]) -> tuple[list[Word], list[str]]:
    """Return the settings in a table ``[nodes.<name>]`` as options, and as arguments if no option exists."""
    words, assignments = [], []
    for key, value in table.items():
        option = options()[f"worker_{key}"]
        if value is None or key == "hostname":
            continue
        if option.flag and option.value is None:
            words.append(Word(option.flag[-1], option.name, _text(option, value), "=", literal=True))
        elif option.flag and option.value is value:
            words.append(Word(option.flag[-1], option.name))
        else:
            assignments.append(f"worker.{key}={_text(option, value)}")
    return words, assignments


def _text(option: Option, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(map(str, value))
    return msgspec.json.encode(value).decode()
