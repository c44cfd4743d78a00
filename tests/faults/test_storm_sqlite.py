"""A short storm on the embedded broker: the books balance."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import storm

pytestmark = pytest.mark.chaos


@pytest.mark.timeout(300)
def test_the_books_balance_after_a_storm(tmp_path: Path) -> None:
    storm.check("sqlite", "threads", tmp_path, 48)
