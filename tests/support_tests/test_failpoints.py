"""Failpoints do what they are asked to at the places that are named, and nothing where none is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support import failpoints, ledger
from support.failpoints import Failpoint, Failpoints
from support.wait import wait_for
from support.workers import APP_DIR, environment

LONG = 60.0


def test_what_they_are_read_from():
    assert failpoints.parse("fetch.before=kill:0.25,store.after=lose") == [
        Failpoint("fetch", True, "kill", 0.25),
        Failpoint("store", False, "lose", 1.0),
    ]
    assert failpoints.parse("") == []


@pytest.mark.parametrize(
    "text",
    ["fetch=kill", "fetch.during=kill", "nowhere.after=kill", "fetch.after=sing", "fetch.after", "store.after=drop"],
)
def test_what_is_wrong_is_said(text):
    with pytest.raises(ValueError, match=r"is no failpoint: <place>|is for what was fetched"):
        failpoints.parse(text)


def test_no_environment_no_plugin():
    assert Failpoints.from_environment({}) is None
    assert Failpoints.from_environment({"TEST_FAILPOINTS": ""}) is None


def test_every_place_is_there_and_only_those_named_are_touched():
    """In a process of its own: what is wrapped stays wrapped."""
    script = """
import importlib
from support.failpoints import PLACES, Failpoints

def methods():
    found = {}
    for place, (kinds, name) in PLACES.items():
        for path in kinds:
            module, _, kind = path.partition(":")
            found[place, path] = getattr(getattr(importlib.import_module(module), kind), name)
    return found

before = methods()
Failpoints("store.before=lose:0.5").worker_init()
after = methods()
changed = {key[0] for key, method in after.items() if method is not before[key]}
assert changed == {"store"}, changed
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), cwd=APP_DIR, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_worker_dies_where_it_is_told_to_and_its_tasks_run(start_worker, sqlite_url, ledger_path, client):
    app = client(sqlite_url)
    app.send_many(app.signature("faults.late", (f"t{number}", 0, 0)) for number in range(5))
    mortal = start_worker(
        *("-P", "solo"),
        app="faults.work",
        broker=sqlite_url,
        ledger=ledger_path,
        env={"TEST_FAILPOINTS": "started.after=kill"},
        ready=False,
    )
    assert mortal.wait(LONG) == -9
    healthy = start_worker("-P", "solo", app="faults.work", broker=sqlite_url, ledger=ledger_path)
    wait_for(
        lambda: (
            {f"t{number}" for number in range(5)}
            <= {line.split()[1] for line in ledger.lines(ledger_path) if line.startswith("end")}
        ),
        LONG,
        lambda: healthy.output,
    )
