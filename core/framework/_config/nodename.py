"""Expands ``%`` variables in the names of nodes and of their files.

In a node name (``-n worker1@%h``) the variables are parts of the machine's host name: ``%h`` george.example.com,
``%n`` george, ``%d`` example.com. In a file name (``--logfile %n%I.log``) they are parts of the node name: ``%p``
w1@george.example.com, ``%h`` george.example.com, ``%n`` w1, ``%d`` example.com; ``%i`` is the index of the pool
process, 0 in the worker's main process, and ``%I`` the same after a dash, empty in the main process. A slash in the
name of a node is an underscore in that of a file.
``%%`` is a percent sign.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

from framework.exceptions import ConfigError

DEFAULT_NAME = "celery"
_VARIABLE = re.compile(r"%(.?)", re.DOTALL)


def node_name(template: str | None = None, machine: str | None = None) -> str:
    """Return the full name ``name@host``.

    `template`: default ``celery@%h``; `machine`: default the host name of this machine.
    Raises `ConfigError` for an unknown variable or an invalid name.
    """
    text = full_name(template or "%h")
    host = machine or socket.gethostname()
    short, _, domain = host.partition(".")
    name = _expand(text, {"h": host, "n": short, "d": domain, "i": "0", "I": ""}, "node name")
    blank = any(character.isspace() or not character.isprintable() for character in name)
    if not all(name.partition("@")[::2]) or blank:
        raise ConfigError(
            f"the node name {text!r} becomes {name!r}; wanted name@host, without blanks or control characters"
        )
    return name


def full_name(text: str) -> str:
    """Return `text`, a node's name, with the default name in front if it is a bare host; "" stays."""
    return f"{DEFAULT_NAME}@{text}" if text and "@" not in text else text


def file_path(template: str, node: str, index: int = 0) -> str:
    """Return `template` expanded for the node `node` and its pool process `index`. Raises `ConfigError`."""
    name, _, host = node.rpartition("@")
    variables = {
        "p": _part(node),
        "h": _part(host),
        "n": _part(name),
        "d": _part(host.partition(".")[2]),
        "i": str(index),
        "I": f"-{index}" if index else "",
    }
    return _expand(template, variables, "file name")


def _part(text: str) -> str:
    """Return `text` as a part of a file name: the name of a node leads to no other directory."""
    return "_" * len(text) if text in (".", "..") else text.replace("/", "_")


def per_process(template: str) -> bool:
    """Return whether `template` gives each pool process its own file."""
    return any(match[1] in ("i", "I") for match in _VARIABLE.finditer(template))


def _expand(template: str, variables: Mapping[str, str], kind: str) -> str:
    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name == "%":
            return "%"
        if name not in variables:
            known = " ".join(f"%{each}" for each in variables)
            raise ConfigError(f"the {kind} {template!r} has the unknown variable %{name}; known are {known} %%")
        return variables[name]

    return _VARIABLE.sub(replace, template)
