"""Preload: prepares the process for the chosen pool before the application or a transport is imported.

1. `preload` lets a green pool patch the standard library.
2. `prepare` lets a pool of processes start a process that imports the modules needed besides the application.
"""

from __future__ import annotations

from framework._boot import loader
from framework.api.pool import Pool

#: Modules that every process that runs tasks needs, besides the application.
_EXECUTION = ("framework.worker.process.child", "framework.client.app", "framework._config.nodename")


def preload(pool: str, start_method: str) -> None:
    """Patch and prepare the process for the pool called `pool`. Raises `PluginError`."""
    plugin = loader.load("pool", pool)
    plugin.patch()
    prepare(plugin, start_method)


def prepare(pool: type[Pool], start_method: str) -> None:
    """Let `pool` preload modules: the application is about to be loaded, for the first time or again."""
    pool.preload(start_method, _EXECUTION)
