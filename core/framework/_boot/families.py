"""The plugin families: one word, one entry-point group, one contract each."""

from __future__ import annotations

from typing import Final

import msgspec


class Family(msgspec.Struct, frozen=True):
    """A kind of plugin."""

    #: The word used for it everywhere: config table, docs page, contract module in `framework.api`.
    name: str
    #: Entry-point group.
    group: str
    #: ``module:class`` of the contract; "" where the contract is not a class.
    contract: str
    #: How a user chooses one, for texts.
    chosen_by: str


FAMILIES: Final = {
    family.name: family
    for family in (
        Family(
            "transport",
            "framework.transports",
            "framework.api.transport:Transport",
            "the scheme of the broker URL",
        ),
        Family("pool", "framework.pools", "framework.api.pool:Pool", "--pool, or pool under [worker]"),
        Family(
            "autoscaler",
            "framework.autoscalers",
            "framework.api.autoscaler:Autoscaler",
            "--autoscaler, or autoscaler under [worker]",
        ),
        Family(
            "fsnotify",
            "framework.fsnotify",
            "framework.api.fsnotify:Watcher",
            "fsnotify under [worker], or FRAMEWORK_FSNOTIFY",
        ),
        Family(
            "result_store",
            "framework.results",
            "framework.api.result_store:ResultStore",
            "the scheme of the result URL",
        ),
        Family(
            "step",
            "framework.steps",
            "framework.api.step:Step",
            "being installed; each decides whether it is enabled",
        ),
        Family("command", "framework.commands", "", "being installed; it becomes a sub-command"),
        Family("hook", "framework.hooks", "", "being installed"),
    )
}
