"""The dumper: one line of text for each event, as Celery prints them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from framework.wire.safe_repr import NAME_MAX, printable

_HUMAN: Final = {"worker-offline": "shutdown", "worker-online": "started", "worker-heartbeat": "heartbeat"}
#: The number of tasks whose description is kept for events that have only an id.
_NAMES_MAX: Final = 4_096


#: The most characters of a field; workers cut at this length themselves.
_FIELD_MAX: Final = 16_384 + 3


def _shown(value: object, maxlen: int = _FIELD_MAX) -> str:
    return printable(str(value), "", maxlen)


class Dumper:
    """Formats events as lines of text."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()

    def line(self, event: Mapping[str, Any]) -> str:
        """Return the line for `event`."""
        fields = dict(event)
        kind = _shown(fields.pop("type"), NAME_MAX).lower()
        host = _shown(fields.pop("hostname", "?"), NAME_MAX)
        when = fields.pop("timestamp", None)
        moment = datetime.fromtimestamp(when, UTC) if isinstance(when, (int, float)) else "?"
        about = self._about(kind, fields) if kind.startswith("task-") else None
        rest = ", ".join(f"{name}={_shown(fields[name])}" for name in sorted(fields))
        head = f"{host} [{moment}] {_HUMAN.get(kind) or kind.replace('-', ' ')}{':' if rest else ''}"
        return printable(f"{head} {about} {rest}" if about is not None else f"{head} {rest}")

    def _about(self, kind: str, fields: dict[str, Any]) -> str:
        uuid = fields.pop("uuid", "?")
        if kind not in ("task-received", "task-sent"):
            return self._names.get(uuid, "")
        name, args, kwargs = (fields.pop(key, None) for key in ("name", "args", "kwargs"))
        about = self._names[uuid] = (
            f"{_shown(name, NAME_MAX)}({_shown(uuid, NAME_MAX)}) args={_shown(args)} kwargs={_shown(kwargs)}"
        )
        if len(self._names) > _NAMES_MAX:
            self._names.popitem(last=False)
        return about
