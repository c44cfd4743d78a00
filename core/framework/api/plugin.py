"""The base class of plugins: declared options and a contract version.

1. `Plugin` is the base of every transport, pool, result store, autoscaler and file watcher.
2. `options_type` is a `msgspec.Struct`; core fills it from the config table ``[<family>.<name>]`` and refuses unknown
   keys and wrong types before anything starts. The help of an option is the `description` of its `msgspec.Meta`.
3. `api_version` is the version of the contract; the loader refuses a plugin written for another version.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

#: Version of the contracts in this release; a change that breaks plugins increments it.
API_VERSION: Final = 1


class NoOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options of a plugin without options."""


class Plugin:
    """Base class of plugins with a contract."""

    #: Contract version, see `API_VERSION`.
    api_version: ClassVar[int] = API_VERSION
    #: Typed options with defaults: a keyword-only `msgspec.Struct` that forbids unknown fields.
    options_type: ClassVar[type[msgspec.Struct]] = NoOptions
    #: Name of the config table, for a plugin that is offered under several names; "": the chosen name, for a scheme
    #: such as ``acme+tls`` the part before the ``+``.
    options_table: ClassVar[str] = ""
