"""Every command on every pool and broker while every slot is busy: the table in docs/steering.md says what happens.

`make matrices` (TEST_WRITE_DOCS=1) writes the table from what it observes.
"""

from __future__ import annotations

import os

import pytest

from framework.worker.steps.control.commands import PANEL
from support import commandmatrix, poolfleet


@pytest.mark.parametrize("place", commandmatrix.PLACES)
def test_the_manual_says_what_happens(place, request, tmp_path):
    broker, pool = commandmatrix.PLACES[place]
    with poolfleet.running(request, broker, pool, tmp_path, **commandmatrix.CONF) as fleet:
        observed = commandmatrix.observe(fleet)
    if os.environ.get("TEST_WRITE_DOCS"):
        commandmatrix.tell(place, observed)
    assert commandmatrix.told(place) == observed, "run `make matrices` and see what has changed"


def test_no_command_is_left_out():
    # These have tests of their own: one ends the worker, one needs --autoscale, one an optional library.
    elsewhere = {"shutdown", "autoscale", "objgraph"}
    assert {command.name for command in PANEL} - elsewhere == set(commandmatrix.COMMANDS)
