"""The hook manager: who listens, asked once.

1. Holds pluggy's registry: the entry points of ``framework.hooks`` and what an `App` registered.
2. `bind(name)` returns a callable for a hook, or None when nobody implements it: hot paths keep that in a local and
   pay nothing.
3. What a hook raises is logged, with the plugin's name (the hook-call wall).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pluggy

from framework._boot import catalog, loader
from framework.api.hook import PROJECT, HookSpecs
from framework.exceptions import FrameworkError, PluginInvalid

logger = logging.getLogger(__name__)


class Hooks:
    """The hooks of one `App`."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(HookSpecs)
        self._loaded = False

    def register(self, implementation: object, name: str | None = None) -> None:
        """Add a module, class instance or namespace with `hookimpl` functions.

        Raises `PluginInvalid` when a hook does not exist or asks for arguments that it does not get.
        """
        try:
            self._manager.register(implementation, name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginInvalid(f"the hooks of {name or implementation!r} cannot be used: {error}") from error

    def load_installed(self) -> None:
        """Register every installed plugin of the family `hook`, once."""
        if self._loaded:
            return
        self._loaded = True
        for info in catalog.plugins("hook"):
            self.register(loader.load("hook", info.name), info.name)

    def bind(self, name: str) -> Callable[..., object] | None:
        """Return a callable that runs every implementation of the hook `name`, or None when there is none.

        Call it with all of the hook's arguments, by keyword. It lets `FrameworkError` through and logs everything else.
        """
        caller = getattr(self._manager.hook, name)
        implementations = caller.get_hookimpls()
        if not implementations:
            return None

        def call(**arguments: Any) -> None:
            # One by one rather than through pluggy's caller, so that one listener's error does not silence the next.
            for implementation in reversed(implementations):
                try:
                    implementation.function(*(arguments[argument] for argument in implementation.argnames))
                except FrameworkError:
                    raise
                except Exception:  # the hook-call wall: a listener must not break what it listens to
                    logger.exception("The hook %s of %s failed", name, implementation.plugin_name)

        return call
