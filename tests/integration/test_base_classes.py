"""Tasks whose base class wraps `__call__` behave in a worker as without it, on every pool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from framework import App, chord
from framework.exceptions import FrameworkError
from support import ledger
from support.fleet import Fleet, running
from support.poolfleet import POOLS

LONG = 60


def make_client(broker: str, backend: str | None) -> App:
    return App("timed", broker=broker, backend=backend)


@pytest.fixture(scope="module", params=POOLS)
def fleet(request: Any, tmp_path_factory: Any) -> Iterator[Fleet]:
    options = ("-P", request.param, "-c", "2")
    directory = tmp_path_factory.mktemp("timed")
    with running(request, "redis", directory, options, names=("one",), make=make_client, app="support.timed") as made:
        yield made


def call(fleet: Fleet, name: str) -> tuple[str, Any]:
    entry = f"{name}-{uuid4().hex[:8]}"
    return entry, fleet.ours.send_task(f"timed.{name}", (entry,))


def wrapped(fleet: Fleet, entry: str) -> list[str]:
    """Return what the base classes of a task have noted: ``<class> <id> <retries>``."""
    return [line.removeprefix(f"{entry} ") for line in ledger.lines(fleet.book) if line.startswith(entry)]


def runs(task_id: str, count: int) -> list[str]:
    return [f"{which} {task_id} {number}" for number in range(count) for which in ("inner", "outer")]


def test_the_request_stays(fleet):
    entry, result = call(fleet, "states")
    assert result.get(timeout=LONG) == [result.id, False, "PROGRESS"]
    assert wrapped(fleet, entry) == runs(result.id, 1)


@pytest.mark.parametrize(("name", "count"), [("retried", 3), ("auto", 2)])
def test_a_retry_is_sent(fleet, name, count):
    entry, result = call(fleet, name)
    assert result.get(timeout=LONG) == count - 1
    assert wrapped(fleet, entry) == runs(result.id, count)


def test_a_coroutine_is_retried(fleet):
    entry, result = call(fleet, "coroutine")
    assert result.get(timeout=LONG) == [result.id, 1]
    assert wrapped(fleet, entry) == runs(result.id, 2)


def test_it_is_replaced(fleet):
    entry, result = call(fleet, "replaced")
    assert result.get(timeout=LONG) == f"{entry} replaced"


def test_it_grows_its_chord(fleet):
    app = fleet.ours
    entry = f"grown-{uuid4().hex[:8]}"
    header = [app.signature("timed.grown", (entry,))]
    result = chord(header, app=app)(app.signature("timed.plain"))
    assert sorted(result.get(timeout=LONG)) == [entry, f"{entry} added"]


def test_a_call_of_itself_is_a_plain_call(fleet):
    _entry, result = call(fleet, "nested")
    assert result.get(timeout=LONG) == [[result.id, False], [None, True], [result.id, False]]


@pytest.mark.parametrize("name", ["by_hand", "of_another"])
def test_a_retry_without_a_message_is_a_failure(fleet, name):
    _entry, result = call(fleet, name)
    with pytest.raises(FrameworkError, match="no message was sent"):
        result.get(timeout=LONG)
    assert result.state == "FAILURE"
