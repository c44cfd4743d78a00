"""What a survey tells of two moments of this process."""

from __future__ import annotations

import os
import sys

import pytest

from framework.testing.survey import survey


def test_nothing_is_left_of_what_was_closed():
    before = survey()
    with open(os.devnull, "rb"):
        pass
    assert survey().left_since(before) == []


def test_what_was_closed_since_is_not_left():
    with open(os.devnull, "rb"):
        before = survey()
    assert survey().left_since(before) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a descriptor is open on")
def test_descriptors_that_are_left_are_named(tmp_path):
    before = survey()
    with open(tmp_path / "forgotten", "wb") as file:
        [found] = survey().left_since(before)
        assert found == f"1 open descriptors (of {file.fileno()}: {tmp_path}/forgotten)"
