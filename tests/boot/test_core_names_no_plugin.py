"""Core knows plugins by their contracts only: no built-in plugin, and no library of one, stands in it by name.

A name is a word of its own (``"gevent"``), or the beginning of one (``"gevent.monkey"``, ``"redis://"``): what people
read, docstrings, help and messages, has spaces and may give examples.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from framework._boot import catalog

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core" / "framework"
#: Families whose plugins are chosen by name.
CHOSEN = ("transport", "pool", "result_store", "autoscaler", "fsnotify")
#: Names of plugins that are also words, or modules of the standard library.
WORDS = {"asyncio", "load", "memory", "none", "processes", "queue", "stat", "threads"}
#: Libraries that core uses itself; kombu's registries of serializers and compressions are open to applications.
OF_CORE = {"click", "kombu", "msgspec", "rich", "setproctitle"}
#: Files of core that may have names, and which; None: all.
ALLOWED: dict[str, set[str] | None] = {
    # What Celery's configurations and the manual call things, known before any plugin is loaded.
    "_config/urls.py": None,
    # The config table [redis], which Celery's settings of that name fill.
    "_config/tables/unused.py": {"redis"},
    # The log of a library that kombu brings, whatever the broker is.
    "worker/process/logs.py": {"amqp"},
}


@cache
def libraries() -> set[str]:
    """The libraries that plugins import."""
    found = set()
    for path in (ROOT / "plugins").rglob("*.py"):
        for _, name in imports(ast.parse(path.read_text())):
            found.add(name.partition(".")[0])
    own = {name for name in found if name == "framework" or name.startswith("framework_")}
    return found - own - OF_CORE - sys.stdlib_module_names


@cache
def names() -> set[str]:
    """The names of the built-in plugins; of those that belong together, such as redis-cluster, the first word."""
    built_in = {
        word(info.name) for family in CHOSEN for info in catalog.plugins(family) if info.distribution == "framework"
    }
    return built_in - WORDS - OF_CORE


def word(text: str) -> str:
    """The word that `text` begins with; nothing of a text of several words."""
    return "" if re.search(r"\s", text) else re.split(r"\W", text, maxsplit=1)[0]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module or ""


def texts(tree: ast.AST, defaults: bool) -> Iterator[tuple[int, str]]:
    """The strings of a module but docstrings; without the `defaults` of fields, which are the user's to change."""
    left_out = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            left_out.add(node.value)
        elif isinstance(node, ast.ClassDef) and not defaults:
            left_out.update(each.value for each in node.body if isinstance(each, ast.AnnAssign) and each.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            yield node.lineno, node.value


def found_in(root: Path) -> list[str]:
    """Return every place of the core at `root` where a plugin or its library is named."""
    plugins, foreign = names(), libraries()
    found = []
    for path in sorted(root.rglob("*.py")):
        where = path.relative_to(root).as_posix()
        if where.startswith("testing/"):
            continue
        tree = ast.parse(path.read_text())
        for line, module in imports(tree):
            top = module.partition(".")[0]
            if top in foreign or top.startswith("framework_"):
                found.append(f"{where}:{line} imports {module}")
        for line, text in texts(tree, defaults=not where.startswith("_config/")):
            name = word(text)
            allowed = ALLOWED.get(where, set())
            if name in plugins | foreign and allowed is not None and name not in allowed:
                found.append(f"{where}:{line} says {text!r}")
    return found


def test_core_names_no_plugin():
    assert found_in(CORE) == []


def test_what_may_have_names_has_them():
    """What is allowed and no longer needed is struck off."""
    for where, allowed in ALLOWED.items():
        said = {word(text) for _, text in texts(ast.parse((CORE / where).read_text()), defaults=True)}
        assert said & (names() | libraries()) >= (allowed or set())
        assert said & (names() | libraries())


def test_there_are_names_to_look_for():
    assert {"prefork", "solo", "gevent", "eventlet", "redis", "amqp", "sqlite", "rpc", "inotify", "kqueue"} <= names()
    assert {"gevent", "eventlet", "amqp", "hiredis"} <= libraries()


@pytest.mark.parametrize(
    "source",
    [
        "import gevent",
        "def patch():\n    from eventlet import patcher",
        "from framework_pools.gevent import GeventPool",
        "library = sys.modules.get('gevent.monkey')",
        "if library == 'gevent': pass",
        "url = f'redis://{host}'",
        "kind: Literal['gevent', 'eventlet'] | None = None",
        "url.startswith('sqlite:')",
        "TABLES = {'rediss': 'redis'}",
        "class Driver:\n    fallback: str = 'solo'",
    ],
)
def test_a_name_is_found(tmp_path, source):
    (tmp_path / "module.py").write_text(source)
    assert found_in(tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "'''gevent'''",
        "raise ConfigError('name one, as in redis://localhost:6379/0')",
        "import asyncio",
        "import sqlite3",
        "queue = message['queue']",
        "from kombu.serialization import registry",
        "environ['CELERY_REDIS_HOST']",
    ],
)
def test_what_is_no_name_is_not_found(tmp_path, source):
    (tmp_path / "module.py").write_text(textwrap.dedent(source))
    assert found_in(tmp_path) == []


def test_a_default_of_a_setting_is_not_found(tmp_path):
    (tmp_path / "_config").mkdir()
    (tmp_path / "_config" / "settings.py").write_text("class Worker:\n    pool: str = 'prefork'\n")
    assert found_in(tmp_path) == []
