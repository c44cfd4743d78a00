"""The books find everything that can be wrong, and let pass only what a fault explains."""

from __future__ import annotations

import pytest

from faults import accounts
from faults.accounts import HEADINGS, Fault, Line, Sent

KILL = Fault("kill", 10.0, 10.1, killed=frozenset({"w:1", "7"}))
CUT = Fault("cut", 10.0, 12.0)


def ran(
    entry: str, *whens: float, attempt: int = 0, ends: bool = True, worker: str = "w:1", pid: str = "8"
) -> list[Line]:
    """Lines of a task that began at each of `whens` and took 0.1 s."""
    lines = [Line("start", entry, attempt, when, worker, pid) for when in whens]
    return lines + ([Line("end", entry, attempt, when + 0.1, worker, pid) for when in whens] if ends else [])


def late(fails: int = 0, certain: bool = True) -> Sent:
    return Sent("t", True, 0.1, fails, certain=certain)


def early(fails: int = 0) -> Sent:
    return Sent("t", False, 0.1, fails)


CASES = {
    # what was sent, what the ledger has, the faults, dead letters: the heading
    "once": (late(), ran("t", 1), [], [], "ok"),
    "once, early": (early(), ran("t", 1), [], [], "ok"),
    "each attempt once": (late(1), ran("t", 1) + ran("t", 2, attempt=1), [], [], "ok"),
    "nothing": (late(), [], [], [], "lost"),
    "nothing, under faults": (late(), [], [KILL, CUT], [], "lost"),
    "begun and never ended": (late(), ran("t", 9.95, ends=False), [KILL], [], "lost"),
    "an attempt is missing": (late(1), ran("t", 1), [CUT], [], "lost"),
    "its letter is there": (late(), ran("t", 1, 2, 3, ends=False), [KILL], ["t"], "buried"),
    "begun again after a kill": (late(), ran("t", 9.95, ends=False) + ran("t", 13), [KILL], [], "recovered"),
    "twice without a fault": (late(), ran("t", 1, 2), [], [], "duplicated"),
    "more often than it may": (late(), ran("t", 1, 2, 3, 4), [KILL], [], "duplicated"),
    "as often as it may": (late(), ran("t", 1, 2, 3), [KILL], [], "recovered"),
    "two runs sent two retries": (late(1), ran("t", 1, 2) + ran("t", 3, 4, 5, 6, attempt=1), [KILL], [], "recovered"),
    "a retry out of nothing": (late(1), ran("t", 1, attempt=1), [KILL], [], "unexpected"),
    "the broker may not have had it": (late(certain=False), [], [CUT], [], "unsent"),
    "and had it": (late(certain=False), ran("t", 1), [CUT], [], "ok"),
    "early, running at the kill": (early(), ran("t", 9.95, ends=False), [KILL], [], "excused"),
    "early, its process alone killed": (
        early(),
        ran("t", 9.95, ends=False, worker="v:1", pid="7"),
        [KILL],
        [],
        "excused",
    ),
    "early, another worker was killed": (early(), ran("t", 9.95, ends=False, worker="w:2"), [KILL], [], "lost"),
    "early, its retry unsent at the kill": (early(1), ran("t", 9.9), [KILL], [], "excused"),
    "early, begun after the kill": (early(), ran("t", 10.2, ends=False), [KILL], [], "lost"),
    "early, over before the kill": (early(), ran("t", 1, ends=False), [KILL], [], "lost"),
    "early, missing after a cut": (early(), ran("t", 10.5, ends=False), [CUT], [], "lost"),
    "early, killed before its first line": (early(), [], [KILL], [], "excused"),
    "early, vanished": (early(), [], [CUT], [], "lost"),
    "early, ack cut off": (early(), ran("t", 9.95, 11), [CUT], [], "recovered"),
    "early, twice long before": (early(), ran("t", 0.5, 1), [CUT], [], "duplicated"),
    "early, twice without a fault": (early(), ran("t", 1, 2), [], [], "duplicated"),
    "early, retry sent twice": (early(1), ran("t", 9.9) + ran("t", 10.5, 11, attempt=1), [CUT], [], "recovered"),
}


@pytest.mark.parametrize("task", [late(), early(), late(certain=False)], ids=str)
def test_what_lies_in_the_queue_is_not_lost(task):
    for lines in ([], ran("t", 9.95, ends=False)):
        assert accounts.keep([task], lines, [KILL], left=["t"]).left == ["t"]
    assert accounts.keep([task], ran("t", 1), left=["t"]).ok == ["t"]


@pytest.mark.parametrize("name", CASES)
def test_each_task_stands_under_one_heading(name):
    task, lines, faults, letters, heading = CASES[name]
    books = accounts.keep([task], lines, faults, max_deliveries=3, letters=letters)
    assert {each: getattr(books, each) for each in HEADINGS if getattr(books, each)} == {heading: ["t"]}
    assert books.balanced == (heading not in accounts.WRONG)


def test_one_kill_excuses_one_that_left_no_line():
    sent = [Sent(str(number), False, 0.1, 0) for number in range(3)]
    books = accounts.keep(sent, [], [KILL, CUT])
    assert (books.excused, books.lost) == (["0"], ["1", "2"])


def test_strangers_and_broken_lines_are_unexpected():
    lines = accounts.read(
        ["start t 0 1.0 w:1 8", "end t 0 1.1 w:1 8", "start t 1 2.0 w:1 8", "start x 0 1.0 w:1 8", "sta"]
    )
    books = accounts.keep([late()], lines)
    assert books.ok == ["t"]
    assert books.unexpected == ["t", "x", "sta"]
    assert str(books) == "1 ok, 3 unexpected (t, x, sta)"
