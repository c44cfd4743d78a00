"""The catalog: which plugins are installed. It reads distributions' metadata and imports none of them."""

from __future__ import annotations

from functools import cache
from importlib import metadata

import msgspec

from framework._boot.families import FAMILIES


class PluginInfo(msgspec.Struct, frozen=True, order=True):
    """One installed plugin."""

    family: str
    name: str
    #: ``module:object`` that it is loaded from.
    target: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.family} {self.name!r} of {self.distribution} {self.version}"


@cache
def _by_group() -> dict[str, tuple[PluginInfo, ...]]:
    installed = metadata.entry_points()
    found: dict[str, set[PluginInfo]] = {}
    for family in FAMILIES.values():
        found[family.name] = {
            PluginInfo(
                family.name,
                entry_point.name,
                entry_point.value,
                entry_point.dist.name if entry_point.dist else "unknown distribution",
                entry_point.dist.version if entry_point.dist else "?",
            )
            for entry_point in installed.select(group=family.group)
        }
    return {name: tuple(sorted(infos)) for name, infos in found.items()}


def plugins(family: str | None = None) -> list[PluginInfo]:
    """Return every installed plugin, of `family` or of all, sorted by family and name."""
    groups = _by_group()
    if family is not None:
        return list(groups[family])
    return [info for name in sorted(groups) for info in groups[name]]


def find(family: str, name: str) -> list[PluginInfo]:
    """Return the plugins of `family` called `name`: none, one, or several in conflict."""
    return [info for info in plugins(family) if info.name == name]


def refresh() -> None:
    """Read the metadata again: a distribution may have been installed while this process runs."""
    _by_group.cache_clear()
    # stevedore keeps the entry points of a group for the life of the process, too. Imported here for the start-up time.
    from stevedore.extension import ExtensionManager

    ExtensionManager.ENTRY_POINT_CACHE.clear()
