"""Retries by real workers: how often, how far apart, and for what."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from uuid import uuid4

import pytest

from framework.exceptions import MaxRetriesExceededError
from support import ledger
from support.fleet import Fleet, running

LONG = 40


@pytest.fixture(scope="module")
def fleet(request, tmp_path_factory) -> Iterator[Fleet]:
    """One worker."""
    directory = tmp_path_factory.mktemp("backoff")
    with running(
        request, "redis", directory, ("-P", "threads", "-c", "4"), names=("one",), app="support.retried"
    ) as made:
        yield made


def new(word: str) -> str:
    return f"{word}-{uuid4().hex[:8]}"


def starts(fleet: Fleet, entry: str) -> list[tuple[str, int, float]]:
    """Return the starts of a task: its id, how often it was retried, when."""
    found = [line.split() for line in ledger.lines(fleet.book) if line.startswith(entry)]
    return [(task_id, int(retries), float(when)) for _, task_id, retries, when in found]


def send(fleet: Fleet, name: str, entry: str, *args: object, **options: object):
    return fleet.ours.send_task(f"retried.{name}", (entry, *args), **options)


def test_the_back_off_doubles_up_to_its_most_and_ends(fleet):
    entry = new("backoff")
    result = send(fleet, "backoff", entry, "os")
    with pytest.raises(OSError, match="on purpose"):
        result.get(timeout=LONG)
    found = starts(fleet, entry)
    assert [(task_id, retries) for task_id, retries, _ in found] == [(result.id, number) for number in range(3)]
    times = [when for _, _, when in found]
    waits = [after - before for before, after in itertools.pairwise(times)]
    # Not early; how late is not tested here.
    assert all(wait > least - 0.1 for wait, least in zip(waits, (1, 1.5), strict=True)), waits


@pytest.mark.parametrize(("error", "kind"), [("missing", FileNotFoundError), ("value", ValueError)])
def test_what_is_excepted_and_what_is_not_listed_fails_at_once(fleet, error, kind):
    entry = new(error)
    with pytest.raises(kind):
        send(fleet, "backoff", entry, error).get(timeout=LONG)
    assert [retries for _, retries, _ in starts(fleet, entry)] == [0]


def test_jitter(fleet):
    entry = new("jitter")
    assert send(fleet, "jitter", entry).get(timeout=LONG) == 2
    assert [retries for _, retries, _ in starts(fleet, entry)] == [0, 1, 2]


def test_retry_kwargs_win_over_the_task(fleet):
    entry = new("kwargs")
    with pytest.raises(OSError, match="on purpose"):
        send(fleet, "kwargs", entry).get(timeout=LONG)
    assert [retries for _, retries, _ in starts(fleet, entry)] == [0, 1]


def test_no_retries_and_any_number_of_them(fleet):
    entry = new("once")
    with pytest.raises(MaxRetriesExceededError):
        send(fleet, "once", entry).get(timeout=LONG)
    assert len(starts(fleet, entry)) == 1
    assert send(fleet, "for_ever", new("ever"), 12).get(timeout=LONG) == 12
