"""The catalog of installed plugins. It reads the metadata of distributions and imports no plugin."""

from __future__ import annotations

from functools import cache
from importlib import metadata

import msgspec

from framework._boot.families import FAMILIES


class PluginInfo(msgspec.Struct, frozen=True, order=True):
    """One installed plugin."""

    family: str
    name: str
    #: Where the plugin is loaded from: ``module:object``.
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
    """Return every installed plugin, of `family` or of all families, sorted by family and name."""
    groups = _by_group()
    if family is not None:
        return list(groups[family])
    return [info for name in sorted(groups) for info in groups[name]]


def find(family: str, name: str) -> list[PluginInfo]:
    """Return the plugins of `family` called `name`; more than one is a conflict."""
    return [info for info in plugins(family) if info.name == name]


def refresh() -> None:
    """Forget the metadata, so that the next call sees distributions installed since."""
    _by_group.cache_clear()
    # stevedore caches the entry points of a group, too. Imported here to keep the start fast.
    from stevedore.extension import ExtensionManager

    ExtensionManager.ENTRY_POINT_CACHE.clear()
