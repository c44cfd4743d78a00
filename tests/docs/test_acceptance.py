"""The acceptance checklist: every number that is due has a test that names it."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
MARKER = re.compile(r"\bacceptance\(([\d,\s]+)\)")

#: What is built so far.
DUE = {
    *range(1, 17),
    *(21, 27, 28, 29, 33),
    *range(34, 42),
    *(46, 49, 50, 51),
    *range(52, 58),
    *(115, 214, 215, 216, 217, 230),
    74,
    *range(76, 81),
    *(88, 89, 90),
    *(92, 93, 94, 95),
    *range(97, 102),
    *(103, 104, 105),
    *range(117, 126),
    *range(131, 139),
    *range(140, 162),
    *range(162, 176),
    193,
    *(225, 226, 227),
}
# Pools, steered from outside.
DUE |= {*range(79, 88), 91, *range(102, 117), 139, *range(176, 187)}
# What the processes of a pool write and tell, and when they are replaced.
DUE |= {19, 20, *range(42, 49), *range(126, 131), *range(201, 205)}


def covered() -> set[int]:
    text = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    return {int(number) for numbers in MARKER.findall(text) for number in re.findall(r"\d+", numbers)}


def test_every_due_number_has_a_test():
    assert sorted(DUE - covered()) == []
