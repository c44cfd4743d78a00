"""Results of tasks, for their sender.

1. `AsyncResult` reads a task's document from the result store, and waits for it without polling if the store can push.
2. `EagerResult` is the result of an eager run.
3. `ResultSet` waits for many results at once; `GroupResult` is a set with an id.
4. A failure is raised with its own class, see `framework.wire.exception_document.decode_exception`.

Source: the result documents of Celery 5.
"""

from __future__ import annotations

from framework.client.results.sets import GroupResult, ResultSet, result_from_tuple
from framework.client.results.single import AsyncResult, EagerResult

__all__ = ["AsyncResult", "EagerResult", "GroupResult", "ResultSet", "result_from_tuple"]
