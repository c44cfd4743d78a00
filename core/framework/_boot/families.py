"""The plugin families, each with its name, entry-point group and contract."""

from __future__ import annotations

from typing import Final

import msgspec


class PluginFamily(msgspec.Struct, frozen=True):
    """A kind of plugin."""

    #: Also the name of the config table, the docs page and the contract module in `framework.api`.
    name: str
    #: Entry-point group.
    group: str
    #: ``module:class`` of the contract; "" where the contract is not a class.
    contract: str
    #: How a user chooses a plugin of this family, for error texts.
    chosen_by: str


FAMILIES: Final = {
    family.name: family
    for family in (
        PluginFamily(
            "transport", "framework.transports", "framework.api.transport:Transport", "the scheme of the broker URL"
        ),
        PluginFamily("pool", "framework.pools", "framework.api.pool:Pool", "--pool, or pool under [worker]"),
        PluginFamily(
            "autoscaler",
            "framework.autoscalers",
            "framework.api.autoscaler:Autoscaler",
            "--autoscaler, or autoscaler under [worker]",
        ),
        PluginFamily(
            "fsnotify",
            "framework.fsnotify",
            "framework.api.fsnotify:Watcher",
            "fsnotify under [worker], or FRAMEWORK_FSNOTIFY",
        ),
        PluginFamily(
            "result_store",
            "framework.results",
            "framework.api.result_store:ResultStore",
            "the scheme of the result URL",
        ),
        PluginFamily(
            "step", "framework.steps", "framework.api.step:Step", "being installed; each decides whether it is enabled"
        ),
        PluginFamily("command", "framework.commands", "", "being installed; it becomes a sub-command"),
        PluginFamily("hook", "framework.hooks", "", "being installed"),
    )
}
