"""Results: what became of a task, for whoever sent it.

1. `AsyncResult` reads a task's document from the result store, and waits for it without polling where the store can
   push.
2. `EagerResult` is the same for a task that ran here and now.
3. `ResultSet` waits for many at once; `GroupResult` is one with an id.
4. A failure is raised again as the class that it was, see `framework.wire.exception_document.decode_exception`.

Source: the result documents of Celery 5.
"""

from __future__ import annotations

from framework.client.results.sets import GroupResult, ResultSet, result_from_tuple
from framework.client.results.single import AsyncResult, EagerResult

__all__ = ["AsyncResult", "EagerResult", "GroupResult", "ResultSet", "result_from_tuple"]
