"""The suite for autoscalers is strict: each of many broken ones fails it, at the test meant for its defect."""

from __future__ import annotations

import pytest

from support import suites
from support.broken_autoscalers import MEANT, LooksAtAMachineThatItIsNotShown, TakesTheRuntimeForKnown

FILE = "tests/support/broken_autoscalers.py"
#: Stumbling over None is what is wrong with them.
STUMBLE = (LooksAtAMachineThatItIsNotShown, TakesTheRuntimeForKnown)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    tests = [f"{FILE}::Test{kind.__name__}::{meant}" for kind, meant in MEANT.items()]
    return suites.run([f"{FILE}::TestUnbroken", *tests], tmp_path_factory.mktemp("broken"))


def test_the_unbroken_autoscaler_passes_everything(results):
    own = {name: result for name, result in results.items() if name.startswith("TestUnbroken")}
    assert len(own) > 12
    assert {name: result for name, result in own.items() if result != "passed"} == {}


@pytest.mark.parametrize("kind", MEANT, ids=lambda kind: kind.__name__)
def test_a_broken_autoscaler_is_found_out(results, kind):
    result = results[f"Test{kind.__name__}::{MEANT[kind]}"]
    assert result not in ("passed", "skipped")
    # For what it did, not for what the broken autoscaler itself tripped over.
    for defect in ("AttributeError", "NameError", "TypeError"):
        assert defect not in result or kind in STUMBLE


def test_a_dozen_and_more_of_them():
    assert len(MEANT) >= 18
