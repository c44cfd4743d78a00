"""A worker is killed at one point of a task's way after the other: nothing vanishes, and nobody is left with a loan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import killbooks

#: Seconds of a lease.
LEASE = 1.0
CONF = {**killbooks.CONF, "broker_transport_options": {"lease": LEASE}}


@pytest.mark.parametrize(("broker", "seed"), [("redis", 1), ("sqlite", 2)])
def test_a_worker_killed_at_each_point_loses_nothing(
    broker: str, seed: int, request: pytest.FixtureRequest, start_worker: Any, client: Any, ledger_path: Path
) -> None:
    url = request.getfixturevalue(f"{broker}_url")
    killbooks.check(url, url, seed, CONF, start_worker, client, ledger_path)
