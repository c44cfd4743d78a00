"""The acceptance checklist: every number that is due has a test that names it."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
MARKER = re.compile(r"\bacceptance\(([\d,\s]+)\)")

DUE = {*range(1, 231)}


def covered() -> set[int]:
    text = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    return {int(number) for numbers in MARKER.findall(text) for number in re.findall(r"\d+", numbers)}


def test_every_due_number_has_a_test():
    assert sorted(DUE - covered()) == []
