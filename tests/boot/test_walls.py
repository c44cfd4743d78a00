"""The walls: which names are public, which doors lead where, which layer a room is in, what is imported late.

`TEST_WRITE_DOCS=1` writes the lists of names in `names/` from what the packages offer.
"""

from __future__ import annotations

import ast
import os
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "framework"
NAMES = Path(__file__).parent / "names"
ARCHITECTURE = ROOT / "docs" / "architecture.md"

#: Imports inside functions, in core without the conformance suites and in plugins. It may fall, not rise.
LATE_IMPORTS_MAX = 59
#: Statements of a door, its docstring included.
DOOR_STATEMENTS_MAX = 6


# ---------------------------------------------------------------- names


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def bound_by(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement of a module defines; what it imports is defined elsewhere."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield statement.name
        case ast.Assign():
            for target in statement.targets:
                yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case ast.If() | ast.Try() | ast.With():
            for child in ast.iter_child_nodes(statement):
                if isinstance(child, ast.stmt):
                    yield from bound_by(child)


def public_names(module: ModuleType) -> list[str]:
    """Return what `__all__` lists, else the names that the module itself defines."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    assert module.__file__ is not None
    found = {name for statement in tree_of(Path(module.__file__)).body for name in bound_by(statement)}
    return sorted(name for name in found if not name.startswith("_") and name != "logger")


def modules_of(package: str) -> list[str]:
    """Return the names of `package` and of every module below it."""
    paths = import_module(package).__path__
    return [package, *(info.name for info in pkgutil.walk_packages(paths, f"{package}."))]


def doors() -> dict[str, list[str]]:
    """Return the rooms behind each door, as the table in docs/architecture.md has them; none: it is the room itself."""
    section = ARCHITECTURE.read_text(encoding="utf-8").partition("\n## Doors\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `framework")]
    assert rows, "docs/architecture.md has no table under the heading Doors"
    return {door.strip(" `"): re.findall(r"`([\w.]+)`", room) for door, _, room, _ in rows}


PUBLIC = {
    "framework": lambda: ["framework"],
    "api": lambda: modules_of("framework.api"),
    "wire": lambda: modules_of("framework.wire"),
    "doors": lambda: sorted(doors()),
}


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_are_those_on_the_list(package):
    offered = [f"{module}: {name}" for module in PUBLIC[package]() for name in public_names(import_module(module))]
    path = NAMES / f"{package}.txt"
    if os.environ.get("TEST_WRITE_DOCS"):
        path.write_text("".join(f"{line}\n" for line in offered), encoding="utf-8")
    listed = path.read_text(encoding="utf-8").splitlines()
    came, went = sorted(set(offered) - set(listed)), sorted(set(listed) - set(offered))
    changes = [f"{line!r} came" for line in came] + [f"{line!r} went" for line in went]
    assert changes == [], (
        f"public names: {', '.join(changes)}. Others may import them: if that is meant, change "
        f"{path.relative_to(ROOT)} too (TEST_WRITE_DOCS=1 writes it)"
    )
    assert listed == offered, f"{path.relative_to(ROOT)} is in another order, or lists a name twice"


@pytest.mark.parametrize("package", PUBLIC)
def test_listed_names_can_be_imported(package):
    for line in (NAMES / f"{package}.txt").read_text(encoding="utf-8").splitlines():
        module, _, name = line.partition(": ")
        assert hasattr(import_module(module), name), line


# ---------------------------------------------------------------- doors


def passes_on(path: Path) -> bool:
    """Say whether the module only imports names and lists them."""
    body = tree_of(path).body
    lists = any("__all__" in bound_by(statement) for statement in body)
    return lists and all(
        isinstance(statement, ast.ImportFrom)
        or (isinstance(statement, ast.Assign) and list(bound_by(statement)) == ["__all__"])
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in body
    )


def source_of(module: str) -> Path:
    file = import_module(module).__file__
    assert file is not None
    return Path(file)


def test_the_table_lists_every_door():
    children = [
        f"{package}.{info.name}"
        for package in ("framework", "framework.worker", "framework.contrib")
        for info in pkgutil.iter_modules(import_module(package).__path__)
        if not info.name.startswith("_")
    ]
    existing = {module for module in children if passes_on(source_of(module))}
    listed = {door for door, rooms in doors().items() if rooms}
    assert listed == existing, "the table of doors in docs/architecture.md and the modules that are doors differ"


@pytest.mark.parametrize(("door", "rooms"), doors().items())
def test_a_door_is_a_few_lines_and_gives_what_is_behind_it(door, rooms):
    module = import_module(door)
    if not rooms:
        assert not passes_on(source_of(door)), f"{door} passes names on: the table has to name the room behind it"
        return
    assert len(tree_of(source_of(door)).body) <= DOOR_STATEMENTS_MAX
    behind = [import_module(room) for room in rooms]
    for name in module.__all__:
        # Behind it a thing may have another name: `Autoscaler` is Celery's for `AutoscalerDriver`.
        found = [value for room in behind for value in vars(room).values() if value is getattr(module, name)]
        assert found, f"{door}: {name} is in none of {rooms}"


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize("package", ["framework", "framework.worker"])
def test_every_room_has_a_layer(package):
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = [
        contract
        for contract in document["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers" and package in contract["containers"]
    ]
    assert len(contracts) == 1
    named = [name for layer in contracts[0]["layers"] for name in re.findall(r"\w+", layer)]
    assert len(named) == len(set(named)), "a room is in two layers"
    rooms = {info.name for info in pkgutil.iter_modules(import_module(package).__path__)}
    outside = set(contracts[0].get("exhaustive_ignores", ()))
    assert rooms - outside == set(named), f"the layers of {package} in pyproject.toml and its rooms differ"


# ---------------------------------------------------------------- late imports


def late_imports(tree: ast.Module) -> list[ast.stmt]:
    """Return the imports inside functions, in the order of their lines."""
    found = {
        node.lineno: node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return [found[line] for line in sorted(found)]


def comment_in(line: str) -> bool:
    """Say whether `line` has a comment that is for people."""
    comment = line.partition("#")[2].strip()
    return bool(comment) and not comment.startswith(("noqa", "type:"))


def without_reason(source: str) -> list[int]:
    """Return the lines of imports inside functions that no comment explains: on the line, or above it or its block."""
    lines = source.splitlines()
    found = []
    explained_to = -1
    for statement in late_imports(ast.parse(source)):
        first, last = statement.lineno, statement.end_lineno or statement.lineno
        above = lines[first - 2].strip()
        follows = explained_to == first - 1
        if follows or comment_in(lines[first - 1]) or (above.startswith("#") and comment_in(above)):
            explained_to = last
        else:
            found.append(first)
    return found


def sources() -> list[Path]:
    testing = CORE / "testing"
    core = [path for path in CORE.rglob("*.py") if testing not in path.parents]
    return sorted([*core, *(ROOT / "plugins").rglob("*.py")])


def test_late_imports_are_few():
    counts = {path.relative_to(ROOT): len(late_imports(tree_of(path))) for path in sources()}
    most = sorted(counts.items(), key=lambda item: -item[1])[:5]
    total = sum(counts.values())
    assert total <= LATE_IMPORTS_MAX, (
        f"{total} imports inside functions, and {LATE_IMPORTS_MAX} are allowed: put them at the top; most are in "
        + ", ".join(f"{path} ({count})" for path, count in most)
    )


def test_late_imports_say_why():
    found = []
    for path in sources():
        name = path.relative_to(ROOT)
        found += [f"{name}:{line}" for line in without_reason(path.read_text(encoding="utf-8"))]
    assert found == [], "imports inside functions: put them at the top, or write a comment with the reason"


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("import a", [2]),
        ("import a  # circle", []),
        ("import a  # noqa: PLC0415", [2]),
        ("# circle\n    import a\n    import b", []),
        ("# circle\n    import a\n\n    import b", [5]),
        ("import a  # circle\n    import b", []),
        ("x = 1  # no reason\n    import a", [3]),
    ],
)
def test_reasons_are_found(body, lines):
    assert without_reason(f"def f():\n    {body}\n") == lines
