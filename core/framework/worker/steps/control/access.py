"""Decides which remote-control commands this worker runs, and for whom.

1. ``allow`` under ``[control]`` lists the commands: ``NAME``, ``inspect:NAME`` (those that only report) or
   ``control:NAME`` (those that change something); a name may be a pattern, such as ``inspect:*``.
2. With ``secret``, commands that change something must be signed, see `framework.wire.control_signature`.
3. A refusal is answered in words, counted, and logged once a minute for each command.
4. `hello`, which workers send each other, is always answered; the revoked ids that it brings are taken only if `revoke`
   would have been.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, Final

from framework.api.command import Command, Kind
from framework.message import Incoming
from framework.wire.control_signature import Signatures
from framework.worker.settle.unsent import Notices

logger = logging.getLogger(__name__)

_GREETING: Final = "hello"
#: The argument that makes a greeting a revoke.
_REVOKED: Final = "revoked"


class Access:
    """The commands that are allowed, and the secret that signs them."""

    def __init__(self, allow: Iterable[str], secret: str | None, exchange: str) -> None:
        self._allow = list(allow)
        self._signatures = Signatures(secret, exchange) if secret else None
        self._notices = Notices()
        #: Number of refused requests by reason, ``not allowed`` or ``not signed``.
        self.refused: Counter[str] = Counter()

    def unmatched(self, commands: Iterable[Command]) -> list[str]:
        """Return the patterns that allow none of `commands`."""
        known = [(each.kind, (each.name, each.alias)) for each in commands]
        return [pattern for pattern in self._allow if not any(_matches(*each, pattern) for each in known)]

    def refusal(self, command: Command, incoming: Incoming, arguments: dict[str, Any]) -> str:
        """Return why `command` must not run for the request `incoming`; "": it may.

        Removes the revoked ids from the arguments of a greeting that may not revoke.
        """
        if command.name != _GREETING:
            return self._refusal(command.kind, (command.name, command.alias), incoming)
        if arguments.get(_REVOKED) and self._refusal("control", ("revoke",), incoming):
            arguments[_REVOKED] = None
        return ""

    def _refusal(self, kind: Kind, names: tuple[str | None, ...], incoming: Incoming) -> str:
        if not any(_matches(kind, names, pattern) for pattern in self._allow):
            reason, why = "not allowed", f"`allow` under [control] is {self._allow!r}"
        elif self._signatures is None or kind == "inspect" or not (fault := self._signatures.fault(incoming)):
            return ""
        else:
            reason = "not signed"
            why = f"{fault}; this worker has a `secret` under [control], which the client needs, too"
        self.refused[reason] += 1
        text = f"{names[0]} is refused: {why}"
        self._notices.error(f"{names[0]} {reason}", "Control request %s", text)
        return text


def _matches(kind: Kind, names: tuple[str | None, ...], pattern: str) -> bool:
    wanted, colon, name = pattern.rpartition(":")
    if colon and wanted != kind:
        return False
    return any(fnmatchcase(known, name) for known in names if known)
