"""Result documents, as Celery's result stores keep them.

The process that runs a task and the main process both build them here.

Source: the result document of Celery's key-value stores (order of the keys, encoded exceptions and their modules).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from framework.wire.exception_document import encode_exception, encode_returned
from framework.wire.serialization import COMPRESSED_MARK, encode

if TYPE_CHECKING:
    from framework._config.settings import ResultSettings
    from framework.client.request import Context

SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
RETRY: Final = "RETRY"
REVOKED: Final = "REVOKED"
STARTED: Final = "STARTED"

#: Final states; only their documents carry `date_done`.
READY: Final = frozenset({SUCCESS, FAILURE, REVOKED})


class Documents:
    """Builds and encodes result documents with one serializer. Made once a process."""

    def __init__(self, serializer: str = "json", compression: str | None = None, *, extended: bool = False) -> None:
        self._serializer = serializer
        self._compression = compression
        self._extended = extended

    @classmethod
    def of(cls, settings: ResultSettings) -> Documents:
        """Return `Documents` for `settings`."""
        return cls(settings.serializer, settings.compression, extended=settings.extended)

    def build_for(
        self, state: str, result: Any, request: Context, hostname: str | None, traceback: str | None = None
    ) -> bytes:
        """Return the encoded document of the task of `request`; `hostname` is its node. Raises as `build`."""
        return self.build(
            state,
            result,
            str(request.id),
            traceback=traceback,
            children=request.children_as_tuples(),
            group_id=request.group,
            parent_id=request.parent_id,
            extended=_extended(request, hostname) if self._extended else None,
        )

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
        """Return the encoded document.

        An exception as `result` is encoded by class, arguments and attributes; with the state SUCCESS it is the return
        value. Raises the serializer's own error for a result that it cannot encode.
        """
        if isinstance(result, BaseException):
            encode_error = encode_returned if state == SUCCESS else encode_exception
            result = encode_error(result, self._serializer)
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


def _extended(request: Context, hostname: str | None) -> dict[str, Any]:
    """Return the fields that the setting `extended` adds."""
    more = {
        "name": request.task,
        "args": request.args,
        "kwargs": request.kwargs,
        "worker": hostname,
        "retries": request.retries,
        "queue": request.delivery_info["routing_key"],
    }
    if stamps := request.stamps:
        more |= {"stamped_headers": request.stamped_headers, **stamps}
    return more
