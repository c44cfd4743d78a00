"""Random tasks, some of which raise, kill their process or run into a limit: ledger and outcomes agree on each pool.

`make books` does the same with 20,000 tasks a pool.
"""

from __future__ import annotations

import pytest

from support import books, poolfleet

COUNT = 1_000
#: One at a time: ten milliseconds each.
FEWER = {"solo": 300}


@pytest.mark.parametrize("pool", poolfleet.POOLS)
def test_ledger_and_outcomes_agree(pool, request, tmp_path):
    with poolfleet.running(
        request, "redis", pool, tmp_path, concurrency=books.CONCURRENCY[pool], app="support.books"
    ) as fleet:
        kept = books.keep(fleet, FEWER.get(pool, COUNT), 7, 60)
    assert kept.balanced, f"{kept}\n{fleet.worker.log}"
    assert set(kept.drawn) == set(books.EXPECTED)
