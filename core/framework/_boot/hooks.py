"""The hook manager: registers hook implementations and calls them.

1. Holds pluggy's registry: the entry points of ``framework.hooks`` and the implementations registered by an `App`.
2. `bind(name)` returns a callable for a hook, or None if it has no implementation: callers bind once, so that an
   unused hook costs nothing.
3. An exception of a hook is logged with the plugin's name (the hook-call wall); a `FrameworkError` passes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pluggy

from framework._boot import catalog, loader
from framework._config.making import making
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

        Raises `PluginInvalid` for a hook or a hook argument that does not exist.
        """
        try:
            self._manager.register(implementation, name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginInvalid(f"the hooks of {name or implementation!r} cannot be used: {error}") from error

    def load_installed(self) -> None:
        """Register every installed plugin of the family `hook`, once."""
        with making():
            if not self._loaded:
                self._loaded = True
                for info in catalog.plugins("hook"):
                    self.register(loader.load("hook", info.name), info.name)

    def bind(self, name: str) -> Callable[..., object] | None:
        """Return a callable that runs every implementation of the hook `name`; None: it has no implementation.

        The callable takes all arguments of the hook by keyword. It passes a `FrameworkError` on and logs other errors.
        """
        caller = getattr(self._manager.hook, name)
        implementations = caller.get_hookimpls()
        if not implementations:
            return None

        def call(**arguments: Any) -> None:
            # Not through pluggy's caller, which would stop at the first implementation that raises.
            for implementation in reversed(implementations):
                try:
                    implementation.function(*(arguments[argument] for argument in implementation.argnames))
                except FrameworkError:
                    raise
                except Exception:  # the hook-call wall: a plugin must not break its caller
                    logger.exception("The hook %s of %s failed", name, implementation.plugin_name)

        return call
