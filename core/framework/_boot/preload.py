"""Preload: what must happen before anything else is imported.

A green pool needs the standard library patched before the application, or even a transport, imports it. The pool's
name is known
from flags, environment and file by then; its trait `patch` names the library.
"""

from __future__ import annotations

from framework._plugins import loader


def preload(pool: str) -> None:
    """Patch the interpreter if the pool called `pool` is a green one. Raises `PluginError` when it cannot be used."""
    patch = loader.load("pool", pool).traits.patch
    if patch == "gevent":
        from gevent import monkey

        monkey.patch_all()
    elif patch == "eventlet":
        import eventlet

        eventlet.monkey_patch()
