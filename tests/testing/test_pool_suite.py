"""The suite for pools is strict: each of many broken pools fails it, at the test that is meant for its defect."""

from __future__ import annotations

import pytest

from support import suites
from support.broken_pools import MEANT

FILE = "tests/support/broken_pools.py"
# The first one waits for them all.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    tests = [f"{FILE}::Test{pool.__name__}::{meant}" for pool, meant in MEANT.items()]
    # They spend their time waiting for what does not come: side by side.
    return suites.run_all(
        [[f"{FILE}::TestUnbroken"], tests[::3], tests[1::3], tests[2::3]], tmp_path_factory.mktemp("broken")
    )


def test_the_unbroken_pool_passes_everything(results):
    own = {name: result for name, result in results.items() if name.startswith("TestUnbroken::")}
    assert len(own) > 60
    assert {name: result for name, result in own.items() if result not in ("passed", "skipped")} == {}


@pytest.mark.parametrize("pool", MEANT, ids=lambda pool: pool.__name__)
def test_a_broken_pool_is_found_out(results, pool):
    result = results[f"Test{pool.__name__}::{MEANT[pool]}"]
    assert result not in ("passed", "skipped")
    # For what it did, not for what the broken pool itself tripped over.
    assert "AttributeError" not in result
    assert "NameError" not in result


def test_a_dozen_and_more_of_them():
    assert len(MEANT) >= 50
