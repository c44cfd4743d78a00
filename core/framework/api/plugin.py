"""What all plugin families share: a name and declared options.

1. `Plugin` is the base of every driver (transport, pool, result store, autoscaler, fsnotify).
2. `options` is a `msgspec.Struct`; core fills it from the config table ``[<family>.<name>]`` and refuses unknown
   keys and wrong types before anything starts. Help is the `description` of `msgspec.Meta`.
3. `api_version` is the contract a plugin was written for; the loader refuses any other.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

#: The contract of this release. Raised when a change breaks plugins.
API_VERSION: Final = 1


class NoOptions(msgspec.Struct, forbid_unknown_fields=True):
    """The options of a plugin that has none."""


class Plugin:
    """Base of every driver plugin."""

    #: Contract version, see `API_VERSION`.
    api_version: ClassVar[int] = API_VERSION
    #: Typed options with defaults: a keyword-only `msgspec.Struct` that forbids unknown fields.
    options_type: ClassVar[type[msgspec.Struct]] = NoOptions
    #: Name of the config table, for a plugin that is offered under several names; "": the name that it is chosen by,
    #: of a scheme such as ``acme+tls`` the part before the ``+``.
    options_table: ClassVar[str] = ""
