"""Preload: what must happen before anything else is imported.

1. `preload` patches the standard library for a green pool, before the application, or even a transport, imports it.
   The pool's name is known from flags, environment and file by then; its trait `patch` names the library.
2. It lets a pool of processes begin with what needs no application.
3. `is_patched` says whether that has been done: a pool that is chosen later, in code, is refused.
"""

from __future__ import annotations

from framework._boot import loader
from framework.api.pool import Pool

#: What a process imports that runs tasks, besides the application.
_EXECUTION = ("framework.worker.process.child", "framework.client.app", "framework._config.nodename")


def preload(pool: str, start_method: str) -> None:
    """Do for the pool called `pool` what must come first. Raises `PluginError` when it cannot be used."""
    plugin = loader.load("pool", pool)
    preload_library(plugin.traits.patch)
    prepare(plugin, start_method)


def prepare(pool: type[Pool], start_method: str) -> None:
    """Let `pool` begin with what needs no application: it is about to be loaded, for the first time or anew."""
    pool.preload(start_method, _EXECUTION)


def preload_library(library: str | None) -> None:
    """Have `library` patch the interpreter; None: there is nothing to patch."""
    if library == "gevent":
        from gevent import monkey

        monkey.patch_all()
    elif library == "eventlet":
        import eventlet

        eventlet.monkey_patch()


def is_patched(library: str) -> bool:
    """Say whether `library` has patched the interpreter, by us or by the application."""
    if library == "gevent":
        from gevent import monkey

        return bool(monkey.is_module_patched("socket"))
    from eventlet import patcher

    return bool(patcher.is_monkey_patched("socket"))
