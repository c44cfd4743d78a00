"""The suite for transports is strict: each of many broken transports fails it, at the test meant for its defect."""

from __future__ import annotations

import pytest

from support import suites
from support.broken_transports import MEANT

FILE = "tests/support/broken_transports.py"
# The first one waits for them all.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    tests = [f"{FILE}::Test{kind.__name__}::{meant}" for kind, meant in MEANT.items()]
    # They spend their time waiting for what does not come: side by side.
    return suites.run_all([[f"{FILE}::TestUnbroken"], tests[::2], tests[1::2]], tmp_path_factory.mktemp("broken"))


def test_the_unbroken_transport_passes_everything(results):
    own = {name: result for name, result in results.items() if name.startswith("TestUnbroken::")}
    assert len(own) > 50
    assert {name: result for name, result in own.items() if result not in ("passed", "skipped")} == {}


@pytest.mark.parametrize("kind", MEANT, ids=lambda kind: kind.__name__)
def test_a_broken_transport_is_found_out(results, kind):
    result = results[f"Test{kind.__name__}::{MEANT[kind]}"]
    assert result not in ("passed", "skipped")
    # For what it did, not for what the broken transport itself tripped over.
    for defect in ("AttributeError", "NameError", "TypeError"):
        assert defect not in result


def test_dozens_of_them():
    assert len(MEANT) >= 40
