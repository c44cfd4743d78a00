"""Finds the application: by ``-A``, the config file, or the files of the current directory.

1. ``-A proj`` imports the module and takes its attribute `app`, else `celery`, else its only `App`, else that of its
   submodule `proj.celery` or `proj.app`. ``-A proj:name`` names the attribute.
2. Without ``-A`` the setting `app` is the target; without that, an app.py or tasks.py in the current directory.
3. The current directory becomes the first of `sys.path`, here and in child processes.
4. An error in the user's module becomes one sentence with the file and line of its cause.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import msgspec

from framework._config import sources
from framework._config.options import did_you_mean
from framework._config.sources import display_path
from framework.exceptions import AppNotFound

if TYPE_CHECKING:
    from framework.client.app import App

_ATTRIBUTES: Final = ("app", "celery")
_SUBMODULES: Final = ("celery", "app")
_FILES: Final = ("app.py", "tasks.py")


class LocatedApp(msgspec.Struct, frozen=True):
    """An application, and the target that another process loads it by."""

    app: Any  # an `App`; importing that here would slow down `framework --help`
    #: ``module:attribute``, importable with `path` in front of `sys.path`.
    target: str
    path: tuple[str, ...]


def extend_path(directory: str | None = None) -> str:
    """Put `directory`, default the current one, in front of `sys.path`, and return it."""
    found = os.path.abspath(directory or os.getcwd())
    if found in sys.path:
        sys.path.remove(found)
    sys.path.insert(0, found)
    return found


def home_of(target: str | None) -> list[str]:
    """Return the directories of the module of `target` where a config file may lie, without importing it."""
    if not target:
        return []
    top = target.partition(":")[0].partition(".")[0]
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return []
    if spec is None or spec.origin is None or not spec.has_location:
        return []
    directory = os.path.dirname(os.path.abspath(spec.origin))
    return [directory, os.path.dirname(directory)] if spec.submodule_search_locations else [directory]


def find_app(target: str | None, configured: str | None = None, directory: str | None = None) -> LocatedApp:
    """Import and return the application: `target` (``-A``), else `configured` (the setting `app`), else of `directory`.

    Raises `AppNotFound`.
    """
    here = extend_path(directory)
    wanted = target or configured or _guess(here)
    module_name, _, attribute = wanted.partition(":")
    if module_name.endswith(".py") and os.sep not in module_name:
        module_name = module_name[:-3]
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise AppNotFound(
            f"{wanted!r} does not name an application; give module or module:attribute, as in -A proj.tasks:app"
        )
    module = _import(module_name, here)
    if attribute:
        return LocatedApp(_attribute(module, attribute), f"{module_name}:{attribute}", (here,))
    found = _search(module)
    if found is None:
        for name in _SUBMODULES:
            submodule = f"{module_name}.{name}"
            if hasattr(module, "__path__") and find_spec(submodule) is not None:
                found = _search(_import(submodule, here))
                if found is not None:
                    module_name = submodule
                    break
    if found is None:
        raise AppNotFound(
            f"the module {module_name} ({_file(module)}) has no App; write "
            f"`app = App({module_name.rpartition('.')[2]!r})` in it, or name the right module with -A module:attribute"
        )
    name, app = found
    return LocatedApp(app, f"{module_name}:{name}", (here,))


def load_app(target: str, path: Sequence[str], given: Mapping[str, Any]) -> App:
    """Import the application of a `LocatedApp` in another process, with its worker's configuration.

    `given` are the worker's `Sources` as builtins. Settings made in code are read again, because routing functions
    cannot be sent. Raises `AppNotFound`.
    """
    sources.install(msgspec.convert(given, sources.Sources))
    for directory in reversed(path or (os.getcwd(),)):
        extend_path(directory)
    module, _, attribute = target.partition(":")
    app = _attribute(_import(module, path[0] if path else os.getcwd()), attribute)
    import_modules(app)
    return app


def import_modules(app: App) -> None:
    """Import the modules of `imports` and `include`, with the tasks of the worker. Raises `AppNotFound`."""
    settings = app.conf.settings
    for module in dict.fromkeys((*settings.imports, *settings.include)):
        _import(module, os.getcwd())


def _guess(here: str) -> str:
    for name in _FILES:
        if os.path.isfile(os.path.join(here, name)):
            return name[:-3]
    raise AppNotFound(
        f'no application: give -A module, or write app = "module" into framework.toml, or an app.py or tasks.py in '
        f"{here} (`framework init` writes a starter project)"
    )


def _import(name: str, here: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            nearby = [entry.removesuffix(".py") for entry in os.listdir(here) if _is_module(here, entry)]
            near = did_you_mean(name, nearby)
            raise AppNotFound(f"there is no module {name} in {here} or on the Python path{near}") from error
        raise AppNotFound(_failure(name, error)) from error
    except Exception as error:  # a user's module may raise anything at import
        raise AppNotFound(_failure(name, error)) from error


def _is_module(here: str, entry: str) -> bool:
    return entry.endswith(".py") or os.path.isfile(os.path.join(here, entry, "__init__.py"))


def _failure(name: str, error: BaseException) -> str:
    """Return a sentence on the failed import of `name`, with the place in the user's code."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{display_path(error.filename)}, line {error.lineno}"
        text = f"{type(error).__name__}: {error.msg}"
    else:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith("<") and os.path.abspath(frame.filename) != os.path.abspath(__file__)
        ]
        # The innermost frame of the user's own code is more helpful than one deep inside a library.
        own = [frame for frame in frames if "site-packages" not in frame.filename and not _is_stdlib(frame.filename)]
        shown = own or frames
        place = f"{display_path(shown[-1].filename)}, line {shown[-1].lineno}" if shown else "no place known"
    return f"cannot import {name}: {text} ({place}); --traceback shows more"


def _is_stdlib(filename: str) -> bool:
    return filename.startswith(os.path.dirname(os.path.abspath(os.__file__)) + os.sep)


def _attribute(module: ModuleType, attribute: str) -> App:
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = did_you_mean(part, [name for name, _ in _apps(module)])
            raise AppNotFound(
                f"the module {module.__name__} ({_file(module)}) has no attribute {attribute}{near}"
            ) from None
    if isinstance(found, ModuleType) and (inner := _search(found)) is not None:
        found = inner[1]
    if not _is_app(found):
        raise AppNotFound(f"{module.__name__}:{attribute} is {_kind(found)}, not an App")
    return found


def _search(module: ModuleType) -> tuple[str, App] | None:
    for name in _ATTRIBUTES:
        found = getattr(module, name, None)
        if _is_app(found):
            return name, found
    apps = _apps(module)
    if len({id(app) for _, app in apps}) > 1:
        names = ", ".join(name for name, _ in apps)
        raise AppNotFound(
            f"the module {module.__name__} has several Apps ({names}); "
            f"choose one with -A {module.__name__}:{apps[0][0]}"
        )
    return apps[0] if apps else None


def _apps(module: ModuleType) -> list[tuple[str, App]]:
    return [(name, value) for name, value in vars(module).items() if not name.startswith("_") and _is_app(value)]


def _is_app(value: Any) -> TypeGuard[App]:
    from framework.client.app import App  # here: --help must not wait for it

    return isinstance(value, App)


def _kind(value: Any) -> str:
    foreign = type(value).__module__.partition(".")[0]
    if foreign == "celery":
        return "a Celery app (import App from framework instead)"
    return f"of type {type(value).__name__}"


def _file(module: ModuleType) -> str:
    return display_path(module.__file__) if module.__file__ else "a namespace package"
