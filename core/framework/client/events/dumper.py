"""The dumper: one line of text for each event, as Celery prints them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

_HUMAN: Final = {"worker-offline": "shutdown", "worker-online": "started", "worker-heartbeat": "heartbeat"}
#: The number of tasks whose description is kept for events that have only an id.
_NAMES_MAX: Final = 4_096


class Dumper:
    """Formats events as lines of text."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()

    def line(self, event: Mapping[str, Any]) -> str:
        """Return the line for `event`."""
        fields = dict(event)
        kind = str(fields.pop("type")).lower()
        host = fields.pop("hostname", "?")
        when = fields.pop("timestamp", None)
        moment = datetime.fromtimestamp(when, UTC) if isinstance(when, (int, float)) else "?"
        about = self._about(kind, fields) if kind.startswith("task-") else None
        rest = ", ".join(f"{name}={fields[name]}" for name in sorted(fields))
        head = f"{host} [{moment}] {_HUMAN.get(kind) or kind.replace('-', ' ')}{':' if rest else ''}"
        return f"{head} {about} {rest}" if about is not None else f"{head} {rest}"

    def _about(self, kind: str, fields: dict[str, Any]) -> str:
        uuid = fields.pop("uuid", "?")
        if kind not in ("task-received", "task-sent"):
            return self._names.get(uuid, "")
        name, args, kwargs = (fields.pop(key, None) for key in ("name", "args", "kwargs"))
        about = self._names[uuid] = f"{name}({uuid}) args={args} kwargs={kwargs}"
        if len(self._names) > _NAMES_MAX:
            self._names.popitem(last=False)
        return about
