"""Preload: what must happen before anything else is imported.

1. `preload` lets a green pool patch the standard library, before the application, or even a transport, imports it.
   The pool's name is known from flags, environment and file by then.
2. It lets a pool of processes begin with what needs no application.
"""

from __future__ import annotations

from framework._boot import loader
from framework.api.pool import Pool

#: What a process imports that runs tasks, besides the application.
_EXECUTION = ("framework.worker.process.child", "framework.client.app", "framework._config.nodename")


def preload(pool: str, start_method: str) -> None:
    """Do for the pool called `pool` what must come first. Raises `PluginError` when it cannot be used."""
    plugin = loader.load("pool", pool)
    plugin.patch()
    prepare(plugin, start_method)


def prepare(pool: type[Pool], start_method: str) -> None:
    """Let `pool` begin with what needs no application: it is about to be loaded, for the first time or anew."""
    pool.preload(start_method, _EXECUTION)
