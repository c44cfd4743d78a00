"""Result documents, as Celery's result stores keep them.

One place builds them, for the process that ran a task and for the main process alike. The order of the keys, the
encoded exception and the module names under which peers look exception classes up are Celery's (result document of the
key-value stores).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from framework._errordocs import encode_exception
from framework.serialization import COMPRESSED_MARK, encode

SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
RETRY: Final = "RETRY"
REVOKED: Final = "REVOKED"
STARTED: Final = "STARTED"

#: States after which nothing more comes; only these carry `date_done`.
READY: Final = frozenset({SUCCESS, FAILURE, REVOKED})


class Documents:
    """Builds and encodes documents with one result serializer. Made once a process."""

    def __init__(self, serializer: str = "json", compression: str | None = None) -> None:
        self._serializer = serializer
        self._compression = compression

    def build(
        self,
        state: str,
        result: Any,
        task_id: str,
        *,
        traceback: str | None = None,
        children: list[Any] | None = None,
        group_id: str | None = None,
        parent_id: str | None = None,
        extended: dict[str, Any] | None = None,
    ) -> bytes:
        """Return the encoded document. An exception as `result` is encoded by class and arguments.

        Raises whatever the serializer raises for a result that it cannot encode.
        """
        if isinstance(result, BaseException):
            result = encode_exception(result)
        document: dict[str, Any] = {
            "status": state,
            "result": result,
            "traceback": traceback,
            "children": children if children is not None else [],
            "date_done": datetime.now(UTC).isoformat() if state in READY else None,
        }
        if group_id is not None:
            document["group_id"] = group_id
        if parent_id is not None:
            document["parent_id"] = parent_id
        if extended:
            document.update(extended)
        document["task_id"] = task_id
        _type, _encoding, body, mime = encode(document, self._serializer, self._compression)
        if mime is not None:
            return COMPRESSED_MARK + mime.encode() + b"\x00" + body
        return body
