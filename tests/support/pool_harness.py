"""The project's own tests of pools: the harness of `framework.testing`, with jobs that know a little more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from framework.api.pool import Pool
from framework.testing import harness

#: What a recipe's path needs for `support`.
TESTS = str(Path(__file__).resolve().parents[1])
#: Runs a test once with each way in which the pool of processes makes its children.
both = pytest.mark.parametrize("start_method", ["fork", "spawn"])


class Harness(harness.Harness):
    """Jobs are those of `support.pool_workload`."""

    def __init__(
        self, pool_type: type[Pool], concurrency: int = 2, recipe: Mapping[str, Any] | None = None, **context: Any
    ) -> None:
        made = {"factory": "support.pool_workload:factory", **(recipe or {})}
        super().__init__(pool_type, concurrency, made, **context)
