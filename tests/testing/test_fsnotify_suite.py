"""The suite for file watchers is strict: each of many broken ones fails it, at the test meant for its defect."""

from __future__ import annotations

import pytest

from support import suites
from support.broken_watchers import MEANT

FILE = "tests/support/broken_watchers.py"
# The first one waits for them all.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    tests = [f"{FILE}::Test{kind.__name__}::{meant}" for kind, meant in MEANT.items()]
    unbroken = [f"{FILE}::TestUnbrokenLooking", f"{FILE}::TestUnbrokenHearing"]
    # They spend their time waiting for what does not come: side by side.
    return suites.run_all([unbroken, tests[::2], tests[1::2]], tmp_path_factory.mktemp("broken"))


def test_the_unbroken_watchers_pass_everything(results):
    own = {name: result for name, result in results.items() if name.startswith("TestUnbroken")}
    assert len(own) > 70
    assert {name: result for name, result in own.items() if result not in ("passed", "skipped")} == {}


@pytest.mark.parametrize("kind", MEANT, ids=lambda kind: kind.__name__)
def test_a_broken_watcher_is_found_out(results, kind):
    result = results[f"Test{kind.__name__}::{MEANT[kind]}"]
    assert result not in ("passed", "skipped")
    # For what it did, not for what the broken watcher itself tripped over.
    for defect in ("AttributeError", "NameError", "TypeError"):
        assert defect not in result


def test_dozens_of_them():
    assert len(MEANT) >= 30
