"""`app.conf`: reads and writes the settings of an application from code.

1. Settings are attributes and items with flat names: ``app.conf.task_acks_late``, ``app.conf["task_acks_late"]``.
   Older names work too; each logs one note.
2. The config file, the environment and flags win over values set in code; see `framework._config.sources`.
3. `settings` holds all settings, merged. It is computed at the first use and after each change.
4. Unknown names are kept as they are, for settings of the application; a name close to a setting logs a note.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import Any

from framework._config import sources as _sources
from framework._config.making import making
from framework._config.options import accept, aliases, options
from framework._config.settings import Settings
from framework._config.sources import Config, Layer, Origin, Sources, Value
from framework.exceptions import ConfigError

logger = logging.getLogger(__name__)


class Conf(MutableMapping[str, Any]):
    """The settings of one application. `directories`: where to look for a config file besides the current one."""

    __slots__ = ("_assigned", "_directories", "_extra", "_loaded", "_noted", "_objects", "_pending", "_resolved")

    def __init__(self, directories: Callable[[], Iterable[str]] | None = None) -> None:
        set_ = object.__setattr__
        set_(self, "_assigned", {})
        set_(self, "_objects", {})
        set_(self, "_pending", [])
        set_(self, "_extra", {})
        set_(self, "_noted", set())
        set_(self, "_resolved", None)
        set_(self, "_loaded", None)
        set_(self, "_directories", directories)

    _assigned: Layer
    _objects: Layer
    _pending: list[tuple[Any, str | None, str]]
    _extra: dict[str, Any]
    _noted: set[str]
    _resolved: Config | None
    _loaded: Sources | None
    _directories: Callable[[], Iterable[str]] | None

    # ------------------------------------------------ merged

    @property
    def settings(self) -> Settings:
        """All settings, merged. Raises `ConfigError`."""
        return self.config.settings

    @property
    def config(self) -> Config:
        """The settings with their origins."""
        resolved = self._resolved
        installed = _sources.installed()
        if resolved is not None and (installed is None or resolved.sources is installed):
            return resolved
        with making():
            resolved = self._resolved
            if resolved is not None and (installed is None or resolved.sources is installed):
                return resolved
            self._load_objects()
            found = installed or self._loaded or _sources.load(directories=self._search_directories())
            object.__setattr__(self, "_loaded", found)
            resolved = _sources.resolve(found, (self._objects, self._assigned))
            object.__setattr__(self, "_resolved", resolved)
            for note in found.notes:
                self._note(note)
            return resolved

    def origin(self, name: str) -> Origin:
        """Return the origin of the setting `name`."""
        return self.config.origin(aliases().get(name, name))

    def _search_directories(self) -> list[str]:
        return [os.getcwd(), *(self._directories() if self._directories is not None else ())]

    # ------------------------------------------------ writing

    def config_from_object(
        self, obj: Any, namespace: str | None = None, silent: bool = False, force: bool = False
    ) -> None:
        """Take settings from a mapping, an object, a module, or the name of one (``"settings"``, ``"mod:attr"``).

        The object is read when a setting is first needed, or now with `force`. With `namespace` only names that
        begin with it count (``CELERY_TASK_ACKS_LATE`` for ``"CELERY"``). Assignments win over the object. With
        `silent` a missing module is no error.
        """
        if isinstance(obj, str) and silent:
            try:
                obj = _load_object(obj)
            except ConfigError:
                return
        self._pending.append((obj, namespace, obj if isinstance(obj, str) else type(obj).__name__))
        self._changed()
        if force:
            self._load_objects()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Assign many settings at once."""
        where = _caller()
        for name, value in dict(*args, **kwargs).items():
            self._assign(name, value, where)

    def __setattr__(self, name: str, value: Any) -> None:
        self._assign(name, value, _caller())

    def __setitem__(self, name: str, value: Any) -> None:
        self._assign(name, value, _caller())

    def __delitem__(self, name: str) -> None:
        flat = aliases().get(name, name)
        if self._assigned.pop(flat, None) is None and self._objects.pop(flat, None) is None:
            del self._extra[name]
        self._changed()

    def _assign(self, name: str, value: Any, where: str) -> None:
        with making():
            self._put(self._assigned, name, value, Origin("code", where))
            self._changed()

    def _put(self, layer: Layer, name: str, value: Any, origin: Origin) -> None:
        flat = name if name in options() else aliases().get(name)
        if flat is None:
            near = get_close_matches(name, list(options()), 1, 0.85)
            if near:
                self._note(f"{origin}: unknown setting {name}; did you mean {near[0]}?")
            self._extra[name] = value
            return
        if flat != name and not name.startswith("CELERY_" + flat.upper()):
            self._note(f"{origin}: {name} is an older name; write {flat}")
        layer[flat] = Value(accept(options()[flat], value, str(origin)), origin)

    def _changed(self) -> None:
        object.__setattr__(self, "_resolved", None)

    def _load_objects(self) -> None:
        with making():
            while self._pending:
                obj, namespace, label = self._pending[0]
                source = _load_object(obj) if isinstance(obj, str) else obj
                for name, value in _members(source, namespace):
                    self._put(self._objects, name, value, Origin("code", label))
                del self._pending[0]
                self._changed()

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            logger.warning("%s", text)

    # ------------------------------------------------ reading

    def __getitem__(self, name: str) -> Any:
        option = options().get(aliases().get(name, name))
        if option is None:
            self._load_objects()
            return self._extra[name]
        return self.config.value(option)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            near = get_close_matches(name, list(options()), 1, 0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise AttributeError(f"unknown setting {name}{hint}") from None

    def __iter__(self) -> Iterator[str]:
        self._load_objects()
        return iter([*options(), *self._extra])

    def __len__(self) -> int:
        self._load_objects()
        return len(options()) + len(self._extra)

    def __contains__(self, name: object) -> bool:
        self._load_objects()
        return name in options() or name in aliases() or name in self._extra

    def __repr__(self) -> str:
        names = sorted({*self._assigned, *self._objects})
        return f"<Conf: {', '.join(names) or 'defaults'}>"


def _load_object(name: str) -> Any:
    """Import ``"module"`` or ``"module:attribute"``. Raises `ConfigError` if it does not exist."""
    module, _, attribute = name.partition(":")
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigError(f"config_from_object: no module named {module} (missing: {error.name})") from None
        raise
    for part in attribute.split(".") if attribute else ():
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigError(f"config_from_object: the module {module} has no attribute {attribute}") from None
    return found


def _members(source: Any, namespace: str | None) -> Iterator[tuple[str, Any]]:
    """Yield the settings in a mapping, module, class or object."""
    if isinstance(source, Mapping):
        members: Iterable[tuple[str, Any]] = list(source.items())
    else:
        members = [(name, getattr(source, name)) for name in dir(source) if not name.startswith("_")]
    prefix = f"{namespace.rstrip('_')}_" if namespace else ""
    for name, value in members:
        if prefix:
            if not name.startswith(prefix):
                continue
            short = name.removeprefix(prefix)
            name = short.lower() if short.lower() in options() else name if name in aliases() else short.lower()
        known = name in options() or name in aliases()
        # A module also holds its imports and helpers: callables and modules count only under the name of a setting.
        if known or (isinstance(source, Mapping) or not (callable(value) or isinstance(value, ModuleType))):
            yield name, value


def _caller() -> str:
    """Return ``file.py:12`` of the nearest frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith(
        ("framework.", "framework_", "_collections_abc")
    ):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
