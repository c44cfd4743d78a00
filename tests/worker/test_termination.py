"""Which signal a request to end a task names."""

from __future__ import annotations

import pytest

from framework.exceptions import FrameworkError
from framework.worker.settle.termination import signal_named


@pytest.mark.parametrize(
    ("name", "remapped", "number"),
    [(None, "", 15), (None, "SIGQUIT", 3), ("KILL", "", 9), ("SIGKILL", "SIGQUIT", 9), (10, "", 10)],
)
def test_signals(monkeypatch, name, remapped, number):
    monkeypatch.setenv("REMAP_SIGTERM", remapped)
    assert signal_named(name) == number


@pytest.mark.parametrize("name", ["kill", "SIGNOTHING", "SIG_IGN", "", 0, 99])
def test_no_signals(name):
    with pytest.raises(FrameworkError, match="signal"):
        signal_named(name)
