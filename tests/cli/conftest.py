"""What the tests of the command line share."""

from __future__ import annotations

import sys

import pytest

from framework._cli import program
from framework._config import sources


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command line in an empty directory: returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*args):
        code = program.run(args)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    sources.install(None)
    # A project of one test must not be found by the next.
    for name in ("tasks", "app"):
        sys.modules.pop(name, None)
