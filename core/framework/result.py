"""Door for `celery.result`: results of calls, see `framework.client.results`."""

from __future__ import annotations

from framework.client.results import AsyncResult, EagerResult, GroupResult, ResultSet, result_from_tuple

__all__ = ["AsyncResult", "EagerResult", "GroupResult", "ResultSet", "result_from_tuple"]
